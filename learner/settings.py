"""Settings of the stages. They are JSON files: `python -m learner sft --settings sft.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from learner.labels import LabelSettings
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.schema import Buffer, Outcome, Schema, Source
from services.credentials import Credentials
from services.replay import ReplaySettings
from services.replay.strategies import Cells, Priority


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which episodes of a buffer to learn from; None takes any."""

    buffer: Buffer = "demo"
    source: Source | None = None
    region: str | None = None
    outcome: Outcome | None = Outcome.SUCCESS
    limit: int | None = None
    """At most this many, in the order in which they came."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Supervised fine-tuning: consistency behaviour cloning and auxiliary labels."""

    steps: int = 800
    batch_size: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    auxiliary_weight: float = 0.5
    first_frames: int = 8
    """The first observations of an episode decide where to go …"""
    first_frames_weight: float = 3.0
    """… and are drawn this many times as often."""
    gain_jitter: float = 0.15
    """Deviation of each colour channel's factor, per picture."""
    shift_jitter: float = 12.0
    """Deviation of each colour channel's offset, of 255."""
    proprio_dropout: float = 0.15
    """Share of rows whose normalised proprioception is set to 0, so that the pictures are not ignored."""
    proprio_noise: float = 0.02
    sigma_weighted: bool = False
    """Weigh noise levels by σ⁻² + σ_data⁻², as ConRFT's code does."""
    labels: LabelSettings = field(default_factory=LabelSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, "steps", "batch_size", "lr")


@dataclass(frozen=True, kw_only=True)
class SftSettings:
    """`python -m learner sft`."""

    replay: ReplaySettings
    select: tuple[Selection, ...] = (Selection(),)
    schema: Schema = field(default_factory=Schema)
    policy: PolicySettings = field(default_factory=PolicySettings)
    initial_policy: Path | None = None
    """A policy folder to start from; its settings take the place of `policy`."""
    train: TrainSettings = field(default_factory=TrainSettings)
    log_every: int = 20
    threads: int = 1
    data_timeout_s: float = 120.0
    """Give up when the replay shows no selected episode for this long."""


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """One RL update. The paper's weights are (β, η) = (1, 0.1) offline and (0.5, 1) online."""

    critics: int = 2
    critic_width: int = 192
    lr_actor: float = 3e-4
    lr_critic: float = 5e-4
    tau: float = 0.02
    clip_norm: float = 1.0
    """Of the head's gradient."""
    weights_start: tuple[float, float] = (1.0, 0.3)
    """β and η at the start of the online stage …"""
    weights_end: tuple[float, float] = (1.0, 0.0)
    """… and at its end. The Q loss first leads the policy away from what it does, at the price of a dip in success;
    with η falling to 0 the stage ends in imitation of what has succeeded meanwhile."""
    target_clip: tuple[float, float] | None = (0.0, 1.0)
    """Range of the bootstrap value; null for rewards other than 0 and 1."""
    calql_alpha: float = 0.1
    """Weight of Cal-QL in the critic warm-up; 0 leaves it out."""
    calql_actions: int = 1
    calql_temperature: float = 1.0
    sigma_weighted: bool = False
    nan_limit: int = 20
    """Updates in a row that may be skipped for NaN before the run stops."""

    def __post_init__(self) -> None:
        _positive(self, "critics", "lr_actor", "lr_critic", "tau", "nan_limit", "calql_actions")


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How the online loop paces itself."""

    online: Mapping[Buffer, int] = field(default_factory=lambda: {"twin": 64})
    """Rows of a batch from each buffer of fresh experience."""
    demo: Mapping[Buffer, int] = field(default_factory=lambda: {"demo": 64})
    """Rows of a batch from each buffer of demonstrations. The share of an empty buffer goes to the others."""
    sampling: Mapping[Buffer, Literal["uniform", "cells", "priority"]] = field(default_factory=dict)
    """How transitions of a buffer are drawn; uniform where it is not named. "cells" draws initial configurations by
    1 − their latest success rate, "priority" transitions by their TD error."""
    env_steps: int = 17_000
    """Transitions to receive before the stage ends."""
    utd: float = 0.25
    """Updates per received transition."""
    start_after: int = 400
    """Transitions received before the first online update."""
    slack: int = 2_000
    """Transitions that actors may be ahead of the learner."""
    warmup_updates: int = 300
    """Critic updates on demonstrations alone, with Cal-QL."""
    publish_every: int = 50
    checkpoint_every: int = 1_000
    log_every: int = 25
    data_timeout_s: float = 900.0
    """Give up when no transition arrives for this long; the operator may need a break."""

    def __post_init__(self) -> None:
        _positive(self, "env_steps", "utd", "publish_every", "checkpoint_every", "log_every")
        if not self.online or not self.demo or min(*self.online.values(), *self.demo.values()) < 1:
            raise InputError(f"online={dict(self.online)}, demo={dict(self.demo)}: every buffer needs at least one row")
        if both := self.online.keys() & self.demo.keys():
            raise InputError(f"buffer {min(both)!r}: name it under online or under demo, not both")
        for buffer in self.sampling:
            if buffer not in (*self.online, *self.demo):
                raise InputError(f"sampling of {buffer!r}: batches draw from {', '.join((*self.online, *self.demo))}")
        if self.slack < self.start_after:
            raise InputError(f"slack={self.slack}: must be at least start_after={self.start_after}, or nothing starts")

    @property
    def batch_size(self) -> int:
        return sum(self.online.values()) + sum(self.demo.values())

    def drawn_by(self, strategy: str) -> list[Buffer]:
        """The buffers that are drawn by a strategy other than the default."""
        return [buffer for buffer, name in self.sampling.items() if name == strategy]


@dataclass(frozen=True, kw_only=True)
class RlSettings:
    """`python -m learner rl`."""

    replay: ReplaySettings
    policy: Path
    """Folder of the policy to start from."""
    critics: Path | None = None
    """Checkpoint folder of an earlier RL stage whose critics go on; null starts new ones."""
    stage: str = "twin_rl"
    """Name in the metrics log."""
    weights: str | None = None
    """Address of the weights service; null publishes nothing."""
    credentials: Credentials = field(default_factory=Credentials)
    """For the weights service."""
    wire_dtype: Literal["f32", "bf16"] = "bf16"
    schema: Schema = field(default_factory=Schema)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    gamma: float = 0.97
    n_step: int = 3
    capacity: Mapping[Buffer, int] = field(
        default_factory=lambda: {"demo": 20_000, "human": 20_000, "twin": 60_000, "real": 60_000}
    )
    """Transitions that the learner keeps of each buffer."""
    cells: Cells = field(default_factory=Cells)
    """For buffers whose `loop.sampling` is "cells"."""
    priority: Priority = field(default_factory=Priority)
    """For buffers whose `loop.sampling` is "priority"."""
    seed_twin_episodes: int = 0
    """Successful twin episodes to copy to the demonstration side before the stage starts."""
    engine: Literal["rllib", "torch"] = "rllib"
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, "gamma", "n_step", "threads")


def _positive(settings: object, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) > 0:
            raise InputError(f"{name}={getattr(settings, name)}: must be greater than 0")
