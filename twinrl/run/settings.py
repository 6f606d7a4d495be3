"""All settings of a run, as one frozen tree. Every field is a flag: `twinrl demo --twin-rl.env-steps 8000`.

The defaults are the demo: a tiny policy, 64-pixel cameras, two CPU cores, five to ten minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from protos.errors import InputError
from protos.schema import Schema
from services.guide import MOST_REFRESH, MOST_ROLLOUTS
from services.net import Credentials
from twin import labs, tasks
from twin.randomize import DOMAINS, Domain
from twin.scan import ScanSettings

MOST_ACTORS = 1_000
MOST_TWIN_SHARE = 0.45
"""Half of a batch is fresh experience, and some of that must be the arm's."""
BUNDLED_CAPTURE = Path(__file__).resolve().parents[2] / "examples" / "capture"


@dataclass(frozen=True, kw_only=True)
class DemonstrationPlan:
    """Numbers of successful demonstrations by world and region."""

    real_a: int = 30
    """Demonstrations on the arm, in region A only, as a person would record them."""
    twin_a: int = 90
    twin_b: int = 90
    source: Literal["expert", "expand"] = "expert"
    """Source of twin demonstrations: the scripted expert, or the arm's demonstrations, expanded."""
    disturbance: float = 0.3
    """Motion noise that the demonstrator corrects, so that recoveries are shown."""


@dataclass(frozen=True, kw_only=True)
class SftPlan:
    """Supervised warm-up, the same for both policies."""

    steps: int = 3_000
    batch: int = 32


@dataclass(frozen=True, kw_only=True)
class TwinRlPlan:
    """RL in the twin, both regions."""

    env_steps: int = 16_000
    actors: int = 2
    twins_per_actor: int = 8
    groups: int = 1
    """Groups of an actor's twins: one group steps while the policy server computes for another."""
    explore: float = 0.1
    publish_every: int = 50
    """Learner updates between two weight versions."""
    slack: int = 600
    """Transitions that the actors may be ahead of the learner; more makes samples older, less makes actors wait."""


@dataclass(frozen=True, kw_only=True)
class ScanPlan:
    """Twins that try the newest policy from cell after cell while the arm practises, so that S_target follows it."""

    actors: int = 1
    """Actors that scan, with as many twins each as in twin RL; 0: the guide keeps the map from before real RL."""
    refresh: int = 8
    """Weight versions from the beginning of one pass over all cells to the next."""
    rollouts: int = 1
    """Rollouts of a pass in every cell."""
    half_life: float = 8.0
    """Weight versions after which an outcome counts half in the guide; 0 forgets nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.actors <= MOST_ACTORS:
            raise InputError(f"real_rl.scan.actors={self.actors}: 0 to {MOST_ACTORS}")
        for name, most in (("refresh", MOST_REFRESH), ("rollouts", MOST_ROLLOUTS)):
            if not 1 <= getattr(self, name) <= most:
                raise InputError(f"real_rl.scan.{name}={getattr(self, name)}: 1 to {most}")
        if not 0.0 <= self.half_life <= MOST_REFRESH:
            raise InputError(f"real_rl.scan.half_life={self.half_life}: 0 to {MOST_REFRESH} versions")


@dataclass(frozen=True, kw_only=True)
class RealRlPlan:
    """RL on the arm, guided by the twin, with an operator who may take over."""

    env_steps: int = 4_000
    explore: float = 0.05
    publish_every: int = 50
    tau: float = 0.9
    """Cells whose twin success is below this are the target set."""
    eta: float = 0.05
    """Weight of the Q loss beside behaviour cloning; small, because the critics know little of this arm yet."""
    utd: float = 0.5
    """Updates per transition; robot time is dearer than twin time."""
    warmup_updates: int = 300
    """Updates of the critics on demonstrations alone, before the first transition."""
    operator: Literal["scripted", "none"] = "scripted"
    """Operator who takes over what is in trouble, at a lab's station its own; none: the policy practises alone."""
    regions: tuple[str, ...] = ()
    """Regions to practise in; empty: all of the task."""
    seed_twin_episodes: int = 20
    """Successful twin episodes copied to the demonstrations before the arm moves."""
    twin_share: float = 0.125
    """Share of the twin's transitions in every batch, taken from the half that is fresh experience; with 0 the twins
    only scan."""
    twin_steps: float = 1.0
    """Transitions that the twins may collect per transition of the arm."""
    twin_actors: int = 1
    """Actors that collect, with as many twins each as in twin RL, unless `twin_share` is 0."""
    scan: ScanPlan = field(default_factory=ScanPlan)

    def __post_init__(self) -> None:
        if not 0.0 <= self.twin_share <= MOST_TWIN_SHARE:
            raise InputError(f"real_rl.twin_share={self.twin_share}: 0 to {MOST_TWIN_SHARE} of a batch")
        if not 0.0 < self.twin_steps <= 100.0:
            raise InputError(f"real_rl.twin_steps={self.twin_steps}: above 0 and up to 100 per step of the arm")
        if not 1 <= self.twin_actors <= MOST_ACTORS:
            raise InputError(f"real_rl.twin_actors={self.twin_actors}: 1 to {MOST_ACTORS}")


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """Every policy is tried from starts spread over the grid cells of each region."""

    rollouts: int = 40
    """Per region."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One run of the whole method."""

    name: str = "demo"
    """Folder of a new run, and for good the name of its data in the replay; a run goes on under any folder's name."""
    task: str = "pick_and_place"
    """One of `twin.tasks.names()`."""
    runs: Path = Path("runs")
    """Folder of the run's folder; where a run lies is known from where it is found, not from its settings."""
    seed: int = 0
    capture: Path = BUNDLED_CAPTURE
    """Photos or a video of the workspace."""
    scan: ScanSettings = field(default_factory=ScanSettings)
    """Settings of the scan; a capture without a printed board needs a known length."""
    replay: tuple[str, ...] = ()
    """redis:// or rediss:// URLs, one per shard; without one an embedded Valkey is started."""
    credentials: Credentials = field(default_factory=Credentials)
    """Certificates for rediss://."""
    schema: Schema = field(default_factory=Schema)
    twin: Domain = DOMAINS["varied"]
    """Dynamics and appearance of the twin, drawn for every episode: demonstrations, RL and evaluations there.
    `twinrl fidelity` says by how much the arm is later."""
    identify: bool = False
    """Make the twin as the arm's demonstrations show it (`twinrl identify`), from the twin's demonstrations on."""
    lab: str = ""
    """The stand-in's lab: a seed, as in `--lab 7`, or a domain, as in `--lab standin`; empty: drawn by the seed."""
    demonstrations: DemonstrationPlan = field(default_factory=DemonstrationPlan)
    sft: SftPlan = field(default_factory=SftPlan)
    twin_rl: TwinRlPlan = field(default_factory=TwinRlPlan)
    real_rl: RealRlPlan = field(default_factory=RealRlPlan)
    evaluation: EvaluationPlan = field(default_factory=EvaluationPlan)
    arms: int = 2
    """Stand-in arms that share an evaluation, one per region when there are two; practice always uses one."""

    def __post_init__(self) -> None:
        task = tasks.get(self.task)
        if not self.lab:
            object.__setattr__(self, "lab", str(self.seed))
        labs.get(self.lab, task)
        if unknown := [name for name in self.real_rl.regions if name not in task.space.regions]:
            raise InputError(f"real_rl.regions: {unknown[0]!r}: choose among {', '.join(task.space.regions)}")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed={self.seed}: 0 to {2**31 - 1}")

    @staticmethod
    def from_older(data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reads settings in which the twin had a latency and varied in nothing else."""
        data = dict(data)
        if "latency_steps" in data:
            data["twin"] = {"latency_steps": data.pop("latency_steps")}
        return data

    @property
    def episodes_per_evaluation(self) -> int:
        """Rollouts of one evaluation, both regions together."""
        return 2 * self.evaluation.rollouts

    @property
    def folder(self) -> Path:
        """The place of a new run, or of the one to go on with."""
        return self.runs / self.name

    @property
    def prefix(self) -> str:
        """First part of its keys in the replay."""
        return f"twinrl-{self.name}"
