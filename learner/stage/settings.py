"""This module holds the settings of the stages, JSON files for `python -m learner`, and the recipes they start from.

A recipe is a set of values that go together: TwinRL's demo, and what was released with ConRFT and with TwinRL. The
services of a stage are named at the top of its settings, under the keys that every process of a run has.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from learner.datasets import IMITATED, ActionScale, named_outcomes
from learner.rl import BatchSettings, LoopSettings, UpdateSettings, conrft_update, twinrl_update
from learner.sft import TrainSettings, conrft_train, twinrl_train
from learner.stage.tracking import TrackingSettings
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.folders import check_key
from protos.schema import Buffer, Outcome, Schema, Source
from protos.settings import positive, to_json
from services.net import Credentials
from services.replay import ReplaySettings, masked

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A selection names episodes of a buffer to learn from; None takes any."""

    buffer: Buffer = "demo"
    source: Source | None = None
    region: str | None = None
    outcome: Outcome | None = Outcome.SUCCESS
    limit: int | None = None
    """Limit for their number; the first ones count."""


@dataclass(frozen=True, kw_only=True)
class ResumeSettings:
    """These settings say how a stage that goes on from its checkpoint finds its data again."""

    timeout_s: float = 120.0
    """Give up when a shard that has some of it does not answer for this long."""
    partial: bool = False
    """Go on without what such a shard has; from then on the stage is another than it would have been."""

    def __post_init__(self) -> None:
        positive(self, "timeout_s")


@dataclass(frozen=True, kw_only=True)
class SftSettings:
    """The settings of `python -m learner sft`."""

    replay: ReplaySettings | None = None
    """The replay to read demonstrations from, those that `select` names."""
    select: tuple[Selection, ...] = (Selection(),)
    data: tuple[Path, ...] = ()
    """Dataset folders to learn from, beside or instead of a replay: RLDS, LeRobotDataset v3, released pickles."""
    outcomes: str = IMITATED
    """Outcomes of the folders' episodes to learn from, as "success,unknown" or "all"; `select` has the replay's."""
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
    """Meaning of an action of 1, kept with the policy; datasets are brought to it. null: what it means to the initial
    policy, or else in the first dataset. The replay's actions are taken as they are."""
    memory_bytes: int = 32 << 30
    """Observations of all episodes may take so much; more ends the stage before it begins."""
    train: TrainSettings = field(default_factory=TrainSettings)
    log_every: int = 20
    checkpoint_every: int = 500
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    device: Device = "auto"
    threads: int = 1
    data_timeout_s: float = 120.0
    """Give up when the replay does not answer, or shows no selected episode, for this long."""
    resume: ResumeSettings = field(default_factory=ResumeSettings)

    def __post_init__(self) -> None:
        positive(self, "log_every", "checkpoint_every", "threads", "data_timeout_s", "memory_bytes")
        named_outcomes(self.outcomes)
        if self.replay is None and not self.data:
            raise InputError("nothing to learn from: give a replay, dataset folders (data), or both")


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """These settings say which learners compute the updates of an RL stage."""

    kind: Literal["rllib", "torch"] = "rllib"
    learners: int = 0
    """RLlib learners in processes of their own, each with an equal part of every batch; 0 updates in this process."""

    def __post_init__(self) -> None:
        if self.learners < 0 or (self.learners and self.kind != "rllib"):
            raise InputError(f"learners={self.learners}, kind={self.kind!r}: learners of their own need rllib")


@dataclass(frozen=True, kw_only=True)
class RlSettings:
    """The settings of `python -m learner rl`, which trains with plain torch or inside RLlib."""

    replay: ReplaySettings
    weights: str | None = None
    """Address of the weights service; null publishes nothing."""
    credentials: Credentials = field(default_factory=Credentials)
    """Credentials for the weights service."""
    wire_dtype: Literal["f32", "bf16"] = "bf16"
    """Numbers of published weights."""
    stage: str = "twin_rl"
    """Name in the metrics log."""
    policy: Path
    """Folder of the policy to start from."""
    critics: Path | None = None
    """Checkpoint folder of an earlier RL stage whose critics go on; null starts new ones."""
    seed_twin_episodes: int = 0
    """Successful twin episodes to copy to the demonstration side before the stage starts."""
    schema: Schema = field(default_factory=Schema)
    instruction: str = ""
    """Instruction for the policy, where batches carry images; empty takes that of the first demonstration."""
    batch: BatchSettings = field(default_factory=BatchSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    device: Device = "auto"
    """Device of the networks; "auto" is a GPU where there is one. Learners of their own take a GPU each."""
    threads: int = 1
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    resume: ResumeSettings = field(default_factory=ResumeSettings)
    replay_timeout_s: float = 60.0
    """Give up when a shard of the replay does not answer for this long at the start."""
    lease_s: float = 15.0
    """A learner that stands still for longer may be followed by another; one that went down with its machine is
    followed so much later, one whose end can be seen at once."""
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "replay_timeout_s", "threads")
        if not 1 <= self.lease_s <= 600:
            raise InputError(f"lease_s={self.lease_s}: 1 to 600 seconds")
        beside = self.loop.beside.keys()
        if not beside <= self.batch.online.keys() or beside == self.batch.online.keys():
            raise InputError(
                f"loop.beside={dict(self.loop.beside)}: some of the buffers in batch.online, and not all of them "
                f"({', '.join(self.batch.online)})"
            )
        check_key("stage", self.stage)  # its seeding writes to the replay under this name
        parts = max(1, self.engine.learners) * self.update.compute.accumulate
        if self.batch.size % parts:
            raise InputError(
                f"a batch of {self.batch.size} rows (batch.online and batch.demo) has no {parts} equal parts: "
                f"learners={self.engine.learners}, accumulate={self.update.compute.accumulate}"
            )


def choose_device(device: Device) -> torch.device:
    """Returns the device that a setting names; "auto" is a GPU where torch sees one."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("device='cuda': torch sees no GPU here; choose 'cpu' or 'auto'")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def described(settings: SftSettings | RlSettings) -> dict[str, Any]:
    """Returns settings as JSON without the passwords of replay addresses, for files and services that others read."""
    found = to_json(settings)
    if found["replay"] is not None:
        found["replay"]["urls"] = [masked(url) for url in found["replay"]["urls"]]
    return found


Recipe = Literal["demo", "conrft", "twinrl"]
RECIPES: tuple[Recipe, ...] = ("demo", "conrft", "twinrl")
S = TypeVar("S", bound=SftSettings)
R = TypeVar("R", bound=RlSettings)
_GAMMA = 0.98
_TRAIN = {"demo": TrainSettings, "conrft": conrft_train, "twinrl": twinrl_train}
_UPDATE = {"demo": UpdateSettings, "conrft": conrft_update, "twinrl": twinrl_update}
_WARMUP = {"demo": LoopSettings().warmup_updates, "conrft": 2 * 20_000, "twinrl": 2 * 50_000}
"""Number of updates on demonstrations alone; there every second one trains the actor too."""


def with_train_recipe(settings: S, recipe: Recipe) -> S:
    """Returns the settings with `train` of a recipe."""
    return replace(settings, train=_TRAIN[recipe]())


def with_rl_recipe(settings: R, recipe: Recipe) -> R:
    """Returns the settings with `update`, the discount, the steps of a return and the warm-up of a recipe.

    Batches keep their size and their buffers: ConRFT's were of 256 rows, half of them demonstrations; TwinRL's of 64.
    """
    released = recipe != "demo"
    return replace(
        settings,
        update=_UPDATE[recipe](),
        batch=replace(
            settings.batch,
            gamma=_GAMMA if released else BatchSettings.gamma,
            n_step=1 if released else BatchSettings.n_step,
        ),
        loop=replace(settings.loop, warmup_updates=_WARMUP[recipe]),
    )
