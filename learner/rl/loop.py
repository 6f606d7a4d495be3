"""This module paces one RL stage: as many updates as the received experience pays for, weights out, an allowance back.

    replay.received ─► updates due = utd × (received − start_after) ─► update ─► every 50: publish
    replay.allow    ◄─ start_after + updates / utd + slack ◄───────────┘         every 1000: checkpoint

A buffer `beside` them, as the twin's while an arm practises, is drawn from and does not pace: what it receives pays for
no update, and it may receive so many transitions per transition of the others.

Waits for: transitions (up to `data_timeout_s`). Unblocks: actors held at the allowance.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from learner.rl import batches
from learner.rl.batches import WARMUP, BatchSettings, Draws, Phase, columns
from learner.rl.update import Metrics, Updated
from policy.model import Parts
from protos.errors import InputError, Unreachable
from protos.schema import Buffer
from protos.settings import positive
from protos.status import StatusFile
from services.replay import Batch

log = logging.getLogger(__name__)
_POLL_S = 0.02
_NORMALIZATION_ROWS = 4096
_NORMALIZATION_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """These settings pace the online loop."""

    env_steps: int = 17_000
    """Transitions to receive before the stage ends."""
    utd: float = 0.25
    """Updates per received transition."""
    start_after: int = 400
    """Transitions received before the first online update."""
    slack: int = 2_000
    """Transitions that actors may be ahead of the learner."""
    beside: Mapping[Buffer, float] = field(default_factory=dict)
    """Online buffers whose transitions neither count as steps of the stage nor pay for updates → how many of them each
    may receive per transition of the others."""
    warmup_updates: int = 300
    """Critic updates on demonstrations alone, with Cal-QL."""
    publish_every: int = 50
    checkpoint_every: int = 1_000
    log_every: int = 25
    data_timeout_s: float = 900.0
    """Give up when no transition arrives for this long; the operator may need a break."""

    def __post_init__(self) -> None:
        positive(self, "env_steps", "utd", "publish_every", "checkpoint_every", "log_every")
        if self.slack < self.start_after:
            raise InputError(f"slack={self.slack}: must be at least start_after={self.start_after}, or nothing starts")
        for buffer, ratio in self.beside.items():
            if not 0 < ratio <= 1_000:
                raise InputError(f"beside of {buffer!r}={ratio}: transitions per transition, above 0 and up to 1000")


class Updater(Protocol):
    """Runs updates on one agent and gives its tensors out: `RlAgent`, or `RllibUpdater` around several of them.

    Its tensors are networks, optimizers and counters. As every random number of an update depends on the seed and the
    update's index alone, they are the whole state.
    """

    def fit_normalization(self, batch: Mapping[str, Tensor]) -> None:
        """Sets the critics' feature statistics from a batch of demonstrations, once, before the first update."""

    def update(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        """Makes one update. Raises TwinRLError when updates keep failing, or when a learner is gone."""
        ...

    def parts(self, names: Collection[str]) -> Parts:
        """Returns the policy's parts as they are now, for publishing; to be copied before the next update."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Returns copies of all that updates change, on the CPU, by name."""
        ...

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes back, or forward, to what `tensors` returned. Raises CorruptData when they are of another agent."""

    def close(self) -> None:
        """Ends what was started for the updates."""


class Experience(batches.Experience, Protocol):
    """The loop's view of the replay reader."""

    def received(self) -> Mapping[Buffer, int]: ...
    def update_priorities(self, batch: Batch, errors: NDArray[np.floating]) -> None: ...
    def anneal(self, progress: float) -> None: ...
    def success_rates(self, buffer: Buffer) -> Mapping[int, float]: ...
    def weigh_cells(self, buffer: Buffer, weights: Mapping[int, float]) -> None: ...
    def allow(self, buffer: Buffer, total: int) -> None: ...


@dataclass(kw_only=True)
class Progress:
    """The counters of a stage; they travel in the checkpoint."""

    base: dict[Buffer, int]
    """Transitions that each online buffer had received before the stage began."""
    warmup: int = 0
    updates: int = 0
    version: int = -1
    """Newest weight version published."""
    normalized: bool = False
    """True when the critics have their feature statistics."""


@dataclass(frozen=True, kw_only=True)
class Outlets:
    """The functions that take the loop's results."""

    publish: Callable[[], int]
    """Publishes the policy's parts and returns the version."""
    checkpoint: Callable[[], None]
    record: Callable[..., None]
    """Writes one line of metrics: step, total and scalars by keyword."""


class OnlineLoop:
    """Paces one RL stage from warm-up to its budget."""

    def __init__(
        self,
        updater: Updater,
        experience: Experience,
        settings: LoopSettings,
        batch: BatchSettings,
        outlets: Outlets,
        *,
        progress: Progress,
        seed: int,
        language: Tensor | None = None,
    ) -> None:
        """`language` (1, L, 768) goes with batches that carry images, which are then prefetched."""
        self.updater, self.experience = updater, experience
        self.settings, self.batch, self.outlets, self.progress = settings, batch, outlets, progress
        self._language = language
        self._draws = Draws(
            experience, batch, seed=seed, prefetch=language is not None, timeout_s=settings.data_timeout_s
        )
        self._recent: list[Metrics] = []
        self._last_arrival = (time.monotonic(), -1)
        self._status = StatusFile()

    @property
    def env_steps(self) -> int:
        """Number of transitions received since the stage began, from the online buffers that pace it."""
        received, base = self.experience.received(), self.progress.base
        return max(0, sum(received.get(buffer, 0) - base[buffer] for buffer in self._pacing))

    @property
    def _pacing(self) -> list[Buffer]:
        return [buffer for buffer in self.progress.base if buffer not in self.settings.beside]

    @property
    def total_updates(self) -> int:
        """Number of online updates of a whole stage."""
        return int(self.settings.utd * max(0, self.settings.env_steps - self.settings.start_after))

    def run(self, stop: Callable[[], bool]) -> bool:
        """Runs until the budget is used up (True) or `stop()` (False)."""
        try:
            self._allow()
            begun = self.progress.warmup or self.progress.updates
            self._publish(weigh=not begun)  # a resumed reader has the weights of its cells
            self._warm_up(stop)
            while not stop():
                if self.progress.updates >= self.total_updates and self.env_steps >= self.settings.env_steps:
                    return True
                if self.progress.updates < self._paid():
                    self._advance()
                else:
                    self._wait()
            return False
        finally:
            self._draws.close()

    def finish(self) -> None:
        """Publishes the newest weights and writes the last line of metrics."""
        self._publish()
        self.write_metrics()

    def _paid(self) -> int:
        """Returns the number of online updates that the received transitions pay for."""
        seen = min(self.env_steps, self.settings.env_steps)
        return int(self.settings.utd * max(0, seen - self.settings.start_after))

    def _warm_up(self, stop: Callable[[], bool]) -> None:
        """Fits the critic's normalisation, then trains the critic on demonstrations alone."""
        if not self.progress.normalized:
            rows = _NORMALIZATION_ROWS if self._language is None else _NORMALIZATION_IMAGES
            self.updater.fit_normalization(self._columns(self._draws.sample(rows, "normalization")))
            self.progress.normalized = True
        while self.progress.warmup < self.settings.warmup_updates and not stop():
            batch = self._draws.warmup(self.progress.warmup)
            self._note(self._update(batch, WARMUP), "warmup_")
            self.progress.warmup += 1
            self._status.write(doing="critic warm-up", updates=self.progress.warmup)
            if self.progress.warmup % self.settings.checkpoint_every == 0:
                self._checkpoint()

    def _advance(self) -> None:
        """One online update, and what is due after it."""
        phase = Phase(progress=self.progress.updates / max(1, self.total_updates))
        if self.batch.drawn_by("priority"):
            self.experience.anneal(phase.progress)
        batch = self._draws.online(self.progress.updates)
        metrics = self._update(batch, phase) | self._ages(batch)
        self.progress.updates += 1
        self._note(metrics)
        self._allow()
        self._status.write(doing="online RL", updates=self.progress.updates, version=self.progress.version)
        if self.progress.updates % self.settings.publish_every == 0:
            self._publish()
        if self.progress.updates % self.settings.checkpoint_every == 0:
            self._checkpoint()

    def _checkpoint(self) -> None:
        self._draws.close()  # prefetched batches were drawn from less than the checkpoint's position
        self.outlets.checkpoint()

    def _update(self, batch: Batch, phase: Phase) -> Metrics:
        """Makes one update; transitions drawn by priority get the error that it found."""
        updated = self.updater.update(self._columns(batch), phase)
        if self.batch.drawn_by("priority"):
            self.experience.update_priorities(batch, updated.td_error)
        return updated.metrics

    def _columns(self, batch: Batch) -> dict[str, Tensor]:
        found = columns(batch)
        return found if self._language is None else found | {"language": self._language}

    def _ages(self, batch: Batch) -> Metrics:
        """Returns how many versions ago the batch's policy steps were made."""
        acted = batch.version[batch.version >= 0]
        if not len(acted):
            return {}
        age = self.progress.version - acted
        return {"sample_age": float(age.mean()), "sample_age_p95": float(np.percentile(age, 95))}

    def _wait(self) -> None:
        """Waits a moment for transitions; gives up when none has come for too long."""
        now, seen = time.monotonic(), self.env_steps
        if seen != self._last_arrival[1]:
            self._last_arrival = (now, seen)
        elif now - self._last_arrival[0] > self.settings.data_timeout_s:
            raise Unreachable(
                f"no transition came from {', '.join(self._pacing)} within "
                f"data_timeout_s={self.settings.data_timeout_s:g} ({seen} of {self.settings.env_steps} so far); "
                "are the actors running?"
            )
        self._status.write(
            doing="online RL",
            waiting_for=f"actors: transitions in {', '.join(self._pacing)}",
            updates=self.progress.updates,
            version=self.progress.version,
        )
        time.sleep(_POLL_S)

    def _allow(self) -> None:
        ahead = self.settings.start_after + int(self.progress.updates / self.settings.utd) + self.settings.slack
        seen = min(self.env_steps, self.settings.env_steps)
        for buffer, base in self.progress.base.items():
            ratio = self.settings.beside.get(buffer)
            allowed = ahead if ratio is None else int(ratio * (self.settings.start_after + seen))
            self.experience.allow(buffer, base + allowed)

    def _publish(self, *, weigh: bool = True) -> None:
        """Publishes weights; from now on cells are drawn by what the policy cannot do yet."""
        self.progress.version = self.outlets.publish()
        for buffer in self.batch.drawn_by("cells") if weigh else ():
            rates = self.experience.success_rates(buffer)
            self.experience.weigh_cells(buffer, {cell: 1.0 - rate for cell, rate in rates.items()})

    def _note(self, metrics: Metrics, prefix: str = "") -> None:
        """Collects metrics; writes their means every `log_every` updates."""
        self._recent.append({prefix + name: value for name, value in metrics.items()})
        if len(self._recent) >= self.settings.log_every:
            self.write_metrics()

    def write_metrics(self) -> None:
        """Writes one line of metrics: how far the stage is, and the means since the last line."""
        names = {name for metrics in self._recent for name in metrics}
        means = {name: float(np.mean([m[name] for m in self._recent if name in m])) for name in sorted(names)}
        self.outlets.record(
            step=min(self.env_steps, self.settings.env_steps),
            total=self.settings.env_steps,
            updates=self.progress.updates,
            version=self.progress.version,
            **means,
        )
        self._recent.clear()
