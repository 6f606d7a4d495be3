"""Settings of the stages. They are JSON files: `python -m learner sft --settings sft.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from learner.checks import positive
from learner.datasets import ActionScale
from learner.rl.update_settings import UpdateSettings
from learner.sft.train_settings import TrainSettings
from learner.stage.device import Device
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.schema import Buffer, Outcome, Schema, Source
from protos.settings import to_json
from services.net import Credentials
from services.replay import ReplaySettings, masked
from services.replay.read.strategies import Cells, Priority

__all__ = [
    "LoopSettings",
    "ResumeSettings",
    "RlSettings",
    "Selection",
    "SftSettings",
    "Tracker",
    "TrainSettings",
    "UpdateSettings",
]

Tracker = Literal["tensorboard", "wandb"]


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
class ResumeSettings:
    """How a stage that goes on from its checkpoint finds its data again."""

    timeout_s: float = 120.0
    """Give up when a shard that has some of it does not answer for this long."""
    partial: bool = False
    """Go on without what such a shard has; from then on the stage is another than it would have been."""

    def __post_init__(self) -> None:
        positive(self, "timeout_s")


@dataclass(frozen=True, kw_only=True)
class SftSettings:
    """`python -m learner sft`."""

    replay: ReplaySettings | None = None
    """Where demonstrations are read from, those that `select` names."""
    select: tuple[Selection, ...] = (Selection(),)
    data: tuple[Path, ...] = ()
    """Dataset folders to learn from, beside or instead of a replay: RLDS, LeRobotDataset v3, released pickles."""
    schema: Schema = field(default_factory=Schema)
    policy: PolicySettings = field(default_factory=PolicySettings)
    initial_policy: Path | None = None
    """A policy folder to start from; its settings take the place of `policy`."""
    head: Literal["keep", "consistency"] = "keep"
    """consistency: a new one, with an encoder of proprioception, on the backbone of a policy with another head, such
    as an imported one."""
    language: Literal["keep", "stand-in"] = "keep"
    """stand-in: words without meaning instead of the policy's language encoder (`policy.language`)."""
    action_scale: ActionScale | None = None
    """What an action of 1 means, kept with the policy; datasets are brought to it. null: what it means to the initial
    policy, or else in the first dataset. The replay's actions are taken as they are."""
    memory_bytes: int = 32 << 30
    """Observations of all episodes may take so much; more ends the stage before it begins."""
    train: TrainSettings = field(default_factory=TrainSettings)
    log_every: int = 20
    checkpoint_every: int = 500
    tracking: tuple[Tracker, ...] = ()
    """Where metrics go beside metrics.jsonl."""
    tracking_project: str = "twinrl"
    tracking_offline: bool = False
    """W&B writes to the folder only; `wandb sync` uploads it later."""
    device: Device = "auto"
    threads: int = 1
    data_timeout_s: float = 120.0
    """Give up when the replay does not answer, or shows no selected episode, for this long."""
    resume: ResumeSettings = field(default_factory=ResumeSettings)

    def __post_init__(self) -> None:
        positive(self, "log_every", "checkpoint_every", "threads", "data_timeout_s", "memory_bytes")
        if self.replay is None and not self.data:
            raise InputError("nothing to learn from: give a replay, dataset folders (data), or both")


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
        positive(self, "env_steps", "utd", "publish_every", "checkpoint_every", "log_every")
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
    """`python -m learner rl`. It trains with plain torch or inside RLlib, here or in learners of their own."""

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
    instruction: str = ""
    """What the policy is told, where batches carry pictures; empty takes that of the first demonstration."""
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
    learners: int = 0
    """RLlib learners in processes of their own, each with an equal part of every batch; 0 updates in this process."""
    device: Device = "auto"
    """Where networks are computed; "auto" is a GPU where there is one. Learners of their own take a GPU each."""
    replay_timeout_s: float = 60.0
    """Give up when a shard of the replay does not answer for this long at the start."""
    resume: ResumeSettings = field(default_factory=ResumeSettings)
    frame_memory_bytes: int = 4 << 30
    """For decoded pictures, where batches carry them."""
    tracking: tuple[Tracker, ...] = ()
    """Where metrics go beside metrics.jsonl."""
    tracking_project: str = "twinrl"
    tracking_offline: bool = False
    """W&B writes to the folder only; `wandb sync` uploads it later."""
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "gamma", "n_step", "threads", "replay_timeout_s", "frame_memory_bytes")
        if self.learners < 0 or (self.learners and self.engine != "rllib"):
            raise InputError(f"learners={self.learners}, engine={self.engine!r}: learners of their own need rllib")
        parts = max(1, self.learners) * self.update.accumulate
        if self.loop.batch_size % parts:
            raise InputError(
                f"a batch of {self.loop.batch_size} rows (loop.online and loop.demo) has no {parts} equal parts: "
                f"learners={self.learners}, accumulate={self.update.accumulate}"
            )


def described(settings: SftSettings | RlSettings) -> dict[str, Any]:
    """As JSON without the passwords of replay addresses: for files and services that others read."""
    found = to_json(settings)
    if found["replay"] is not None:
        found["replay"]["urls"] = [masked(url) for url in found["replay"]["urls"]]
    return found
