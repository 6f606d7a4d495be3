"""This module holds the settings of the twin side: which twins, how many actors, where the services are."""

from dataclasses import dataclass, field
from pathlib import Path

from protos.errors import InputError
from protos.schema import Schema, Source
from services.net import Credentials
from services.replay import ReplaySettings
from services.weights import StalenessBound
from twin.expand import ExpansionSettings
from twin.randomize import Domain


@dataclass(frozen=True, kw_only=True)
class TwinWorld:
    """The twins to step: scene, task, domain and physics."""

    scene: Path
    task: str = "pick_and_place"
    domain: Domain = field(default_factory=Domain)
    physics: str = "mujoco"
    """One of `twin.physics.names()`."""
    schema: Schema = field(default_factory=Schema)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """A fleet of twin actors on one Ray cluster."""

    world: TwinWorld
    replay: ReplaySettings
    weights: str
    """host:port of the weights service."""
    credentials: Credentials = field(default_factory=Credentials)
    """Credentials for the weights; the files must lie at the same place on the policy server's node."""
    staleness: StalenessBound = field(default_factory=StalenessBound)
    """Bound on the weights' staleness; with older ones no episode begins."""
    run_dir: Path
    stage: str = "twin_rl"
    """Name of the fleet's lines in the metrics log."""
    actors: int = 2
    scanning: int = 0
    """Actors of these that scan: they try the guide's cells without exploration and fill no buffer."""
    guide: str = ""
    """host:port of the guide service; scanning actors need it."""
    guide_credentials: Credentials | None = None
    """Credentials of scanning actors for the guide, of the role guide; null: the same as for the weights."""
    twins_per_actor: int = 8
    groups: int = 1
    """Groups of an actor's twins; with 2, one steps while the policy server computes for the other."""
    cpus_per_actor: float = 0.1
    """Cores of a node that Ray reserves for an actor, which decides how many it puts on one node."""
    threads: int = 1
    """Threads of a group that draw images and step physics."""
    explore: float = 0.1
    """Standard deviation of the noise added to the policy's translation while learning, in action units."""
    env_steps: int = 0
    """Stop after this many transitions in the twin buffer; 0 runs until told to stop."""
    ray_address: str = "local"
    """"local" starts a Ray of its own; "auto" or host:port joins a running cluster."""
    call_timeout_s: float = 20.0
    """Longest wait for the policy server, its restart included."""
    stall_s: float = 60.0
    """An actor whose loops have not moved for so long, and do not wait, is killed and restarted."""
    warm_start: bool = True
    """Fork actors from a process that has everything loaded: a third of the memory, a fraction of the time to start."""

    def __post_init__(self) -> None:
        for name in ("actors", "twins_per_actor", "groups", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: a fleet needs at least 1")
        if not 0 <= self.scanning <= self.actors:
            raise InputError(f"scanning={self.scanning}: 0 to all {self.actors} actors")
        if self.scanning and not self.guide:
            raise InputError(f"scanning={self.scanning}: name the guide service as host:port (guide)")
        if self.groups > self.twins_per_actor:
            raise InputError(f"groups={self.groups}: at most the {self.twins_per_actor} twins of an actor")
        if not self.stall_s > self.call_timeout_s:
            raise InputError(f"stall_s={self.stall_s}: must be longer than call_timeout_s={self.call_timeout_s}")
        if not 0 <= self.explore <= 1:
            raise InputError(f"explore={self.explore}: a standard deviation in action units, 0 to 1")

    @property
    def actor_cpus(self) -> float:
        """Cores that an actor asks of Ray; on a Ray of our own never so much that some would not be started."""
        return min(self.cpus_per_actor, 1 / self.actors) if self.ray_address == "local" else self.cpus_per_actor


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """A policy tried from a grid of initial configurations, without exploration."""

    world: TwinWorld
    policy: Path
    """Folder written by the learner."""
    out: Path
    """One JSON line per episode."""
    rollouts: int = 40
    """Per region, spread over its cells."""
    twins: int = 20
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """A policy, or the task's expert, tried from every cell by many workers."""

    world: TwinWorld
    policy: Path | None
    """Folder written by the learner; None tries the expert, or `named`."""
    named: str = ""
    """Policy of another package, by the name of its entry point (`actors.policies.named_policy`)."""
    out: Path
    """One JSON line per episode."""
    rollouts_per_cell: int = 5
    workers: int = 2
    cells: tuple[int, ...] = ()
    """Cells to try; all of them when empty."""
    cell_timeout_s: float = 600.0
    """A worker that has no result for a cell by then is started anew, and the cell tried again."""
    cpus_per_worker: float = 1.0
    """Cores of a node that Ray reserves for a worker."""
    ray_address: str = "local"
    """"local" starts a Ray of its own; "auto" or host:port joins a running cluster."""

    def __post_init__(self) -> None:
        for name in ("rollouts_per_cell", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: at least 1")
        if not self.cell_timeout_s > 0:
            raise InputError(f"cell_timeout_s={self.cell_timeout_s}: must be above 0")

    @property
    def worker_cpus(self) -> float:
        """Cores that a worker asks of Ray; on a Ray of our own never so much that some would not be started."""
        return min(self.cpus_per_worker, 1 / self.workers) if self.ray_address == "local" else self.cpus_per_worker


@dataclass(frozen=True, kw_only=True)
class DemonstrationSettings:
    """Successful demonstrations of the scripted expert in the twin."""

    world: TwinWorld
    replay: ReplaySettings
    episodes: dict[str, int] = field(default_factory=lambda: {"A": 30, "B": 30})
    """Region -> number of successful episodes."""
    disturbance: float = 0.3
    """Strength of the motion noise that the expert must correct, so that recoveries are demonstrated."""
    twins: int = 10


@dataclass(frozen=True, kw_only=True)
class ExpansionPlan:
    """Numbers and parameters of the twin demonstrations to make of recorded ones."""

    episodes: dict[str, int] = field(default_factory=lambda: {"A": 60, "B": 30})
    """Region -> number of accepted episodes; the paper's 60 and 30."""
    disturbance: float = 0.3
    """Strength of the motion noise that is corrected while a plan is driven, so that recoveries are shown."""
    twins: int = 16
    how: ExpansionSettings = field(default_factory=ExpansionSettings)

    def __post_init__(self) -> None:
        if not self.episodes or min(self.episodes.values()) < 0 or not sum(self.episodes.values()):
            raise InputError(f"episodes={self.episodes}: region -> number of episodes, at least one in all")
        if self.twins < 1:
            raise InputError(f"twins={self.twins}: at least 1")


@dataclass(frozen=True, kw_only=True)
class ExpansionRunSettings:
    """Twin demonstrations from the recorded ones in a replay, written back to it."""

    world: TwinWorld
    replay: ReplaySettings
    source: Source = Source.REAL
    """Source of the recorded episodes to expand: the arm, or the twin's expert."""
    plan: ExpansionPlan = field(default_factory=ExpansionPlan)
    report: Path | None = None
    """JSON file for the coverage."""
