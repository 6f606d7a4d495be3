"""This module makes the batches of a stage: rows drawn from the replay, as columns, with their random numbers.

    seed, "batch", k ─► random stream ─► reader.sample ─► Batch k ─► columns ─► + noise k ─► equal parts

Batch k depends on the seed, on k and on what the reader holds when it is drawn, not on the batches before it. So those
that were prefetched when a learner ends are simply drawn again by the next one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from learner import augment, losses
from learner.augment import numpy_stream
from learner.rl.settings import UpdateSettings
from policy.settings import PolicySettings
from protos.errors import InputError, Unreachable
from protos.schema import Buffer
from protos.settings import positive
from services.replay import Batch, Cells, Prefetcher, Priority, Strategy, Uniform

COLUMNS = (
    "proprio",  # (n, 25) as on the wire, or (n, W, 25) with the newest last
    "action",  # (n, 7) as executed
    "reward",  # (n,) discounted sum over up to k steps
    "discount",  # (n,) γᵏ, 0 after a terminal step
    "next_proprio",  # the same k steps later
    "mc_return",  # (n,) discounted return to the end of the episode
    "imitate",  # (n,) 1 where behaviour cloning may copy the action
    "weight",  # (n,) importance weight of the TD error, 1 unless drawn by priority
)
"""The columns of a replay batch that every update reads."""
READOUTS = ("embedding", "next_embedding")  # (n, D) of the frozen backbone
IMAGES = ("side", "wrist", "next_side", "next_wrist", "pad")  # (n, W, P, P, 3) u8; (n, W) true where W is padding
_LANGUAGE = "language"  # (1, L, 768), of all rows


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """These settings say which transitions the learner keeps, and how the rows of a batch are drawn from them."""

    online: Mapping[Buffer, int] = field(default_factory=lambda: {"twin": 64})
    """Rows of a batch from each buffer of fresh experience."""
    demo: Mapping[Buffer, int] = field(default_factory=lambda: {"demo": 64})
    """Rows of a batch from each buffer of demonstrations. The share of an empty buffer goes to the others."""
    sampling: Mapping[Buffer, Literal["uniform", "cells", "priority"]] = field(default_factory=dict)
    """Strategy for the transitions of a buffer; uniform where it is not named. "cells" draws initial configurations by
    1 − their latest success rate, "priority" transitions by their TD error."""
    cells: Cells = field(default_factory=Cells)
    """Parameters of "cells"."""
    priority: Priority = field(default_factory=Priority)
    """Parameters of "priority"."""
    gamma: float = 0.97
    n_step: int = 3
    capacity: Mapping[Buffer, int] = field(
        default_factory=lambda: {"demo": 20_000, "human": 20_000, "twin": 60_000, "real": 60_000}
    )
    """Transitions that the learner keeps of each buffer."""
    image_memory_bytes: int = 4 << 30
    """Memory for decoded images, where batches carry them."""
    image_folder: Path | None = None
    """Folder on a local disk for a file that takes the place of that memory."""

    def __post_init__(self) -> None:
        positive(self, "gamma", "n_step", "image_memory_bytes")
        if not self.online or not self.demo or min(*self.online.values(), *self.demo.values()) < 1:
            raise InputError(f"online={dict(self.online)}, demo={dict(self.demo)}: every buffer needs at least one row")
        if both := self.online.keys() & self.demo.keys():
            raise InputError(f"buffer {min(both)!r}: name it under online or under demo, not both")
        for buffer in self.sampling:
            if buffer not in self.buffers:
                raise InputError(f"sampling of {buffer!r}: batches draw from {', '.join((*self.online, *self.demo))}")
        if missing := [buffer for buffer in self.buffers if buffer not in self.capacity]:
            raise InputError(f"capacity has no entry for {', '.join(missing)}, which the batch draws from")

    @property
    def size(self) -> int:
        """Rows of a batch."""
        return sum(self.online.values()) + sum(self.demo.values())

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The buffers that batches draw from."""
        return (*self.demo, *self.online)

    def drawn_by(self, strategy: str) -> list[Buffer]:
        """Returns the buffers that are drawn by a strategy other than the default."""
        return [buffer for buffer, name in self.sampling.items() if name == strategy]

    def strategies(self) -> dict[Buffer, Strategy]:
        """Returns the strategies of the buffers that `sampling` names."""
        known: dict[str, Strategy] = {"uniform": Uniform(), "cells": self.cells, "priority": self.priority}
        return {buffer: known[name] for buffer, name in self.sampling.items()}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase says what an update trains and how far the stage is."""

    actor: bool = True
    """False: the critics alone."""
    offline: bool = False
    """True on demonstrations alone: Cal-QL joins the critics' loss, β and η are the offline ones."""
    progress: float = 0.0
    """0 to 1 over the online stage."""


WARMUP = Phase(actor=False, offline=True)


def phase_of(phase: Phase, settings: UpdateSettings, update: int) -> Phase:
    """Returns the phase of update number `update`, in which the actor learns if it is its turn."""
    actor = settings.actor
    wanted = phase.actor or (phase.offline and actor.offline)
    return replace(phase, actor=wanted and (update + 1) % actor.every == 0)


class Experience(Protocol):
    """A source of transitions, such as the replay reader."""

    def counts(self) -> Mapping[Buffer, int]: ...
    def sample(self, rng: np.random.Generator, sizes: Mapping[Buffer, int], *, out: Batch | None = None) -> Batch: ...


class Draws:
    """Draws the batches of one stage; close it to end its thread."""

    def __init__(
        self, experience: Experience, settings: BatchSettings, *, seed: int, prefetch: bool, timeout_s: float
    ) -> None:
        """`prefetch` draws in a thread, while the update before runs; it may take `timeout_s` for a batch.

        Where draws depend on updates, by priorities or by weights of cells, prefetched batches would depend on how fast
        each is; so there is no prefetching there.
        """
        self._experience, self._settings, self._seed, self._timeout_s = experience, settings, seed, timeout_s
        self._prefetch = prefetch and not settings.drawn_by("priority") and not settings.drawn_by("cells")
        self._purpose, self._next = "", -1
        self._prefetcher: Prefetcher[Batch] | None = None

    def sample(self, rows: int, purpose: str) -> Batch:
        """Draws some rows of demonstrations now."""
        return self.draw(purpose, 0, rows, None)

    def warmup(self, k: int) -> Batch:
        """Returns batch number k of the critic warm-up: demonstrations alone."""
        return self._get("warm-up", k)

    def online(self, k: int) -> Batch:
        """Returns batch number k of the online stage; it stays as it is until the second one after it."""
        return self._get("batch", k)

    def close(self) -> None:
        """Ends the thread that prefetches."""
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None

    def _get(self, purpose: str, k: int) -> Batch:
        rows = self._settings.size
        if not self._prefetch:
            return self.draw(purpose, k, rows, None)
        if self._prefetcher is None or (purpose, k) != (self._purpose, self._next):
            self.close()
            self._purpose, self._next = purpose, k
            self._prefetcher = Prefetcher(_Counted(self, purpose, k, rows))
        self._next += 1
        return self._prefetcher.next(self._timeout_s)

    def draw(self, purpose: str, k: int, rows: int, out: Batch | None) -> Batch:
        """Draws batch number k; its arrays are those of `out` where that fits."""
        sides = (self._settings.online, self._settings.demo) if purpose == "batch" else (self._settings.demo,)
        sizes = batch_sizes(rows, sides, self._experience.counts())
        return self._experience.sample(numpy_stream(self._seed, purpose, k), sizes, out=out)


class _Counted:
    """Draws one batch after the other; one that failed is tried again under its number."""

    def __init__(self, draws: Draws, purpose: str, first: int, rows: int) -> None:
        self._draws, self._purpose, self._k, self._rows = draws, purpose, first, rows

    def __call__(self, old: Batch | None) -> Batch:
        batch = self._draws.draw(self._purpose, self._k, self._rows, old)
        self._k += 1
        return batch


def batch_sizes(rows: int, sides: tuple[Mapping[Buffer, int], ...], counts: Mapping[Buffer, int]) -> dict[Buffer, int]:
    """Returns how many rows to draw from each buffer, `rows` in all.

    Each side keeps its share of the batch while any of its buffers has data; inside a side an empty buffer's share goes
    to the others in proportion.
    """
    filled = [{buffer: share for buffer, share in side.items() if counts.get(buffer, 0)} for side in sides]
    weights: dict[Buffer, float] = {}
    for side, present in zip(sides, filled, strict=True):
        for buffer, share in present.items():
            weights[buffer] = share * sum(side.values()) / sum(present.values())
    if not weights:
        names = ", ".join(buffer for side in sides for buffer in side)
        raise Unreachable(f"the replay has no transition in {names}; write demonstrations before this stage starts")
    return _apportion(rows, weights)


def _apportion(rows: int, weights: Mapping[Buffer, float]) -> dict[Buffer, int]:
    """Returns whole numbers in proportion to `weights` that sum to `rows` (largest remainder)."""
    total = sum(weights.values())
    exact = {buffer: rows * weight / total for buffer, weight in weights.items()}
    sizes = {buffer: int(value) for buffer, value in exact.items()}
    by_remainder = sorted(exact, key=lambda buffer: sizes[buffer] - exact[buffer])
    for buffer in by_remainder[: rows - sum(sizes.values())]:
        sizes[buffer] += 1
    return sizes


def columns(batch: Batch) -> dict[str, Tensor]:
    """Returns the columns that a batch has, as tensors: numbers float32, images bytes."""
    found = {name: torch.from_numpy(np.asarray(getattr(batch, name), np.float32)) for name in COLUMNS}
    for name in (*READOUTS, *IMAGES):
        array = getattr(batch, name)
        if array is not None:
            found[name] = torch.from_numpy(np.asarray(array))
    return found


def draw_noise(
    n: int, policy: PolicySettings, settings: UpdateSettings, phase: Phase, generator: Generator
) -> dict[str, Tensor]:
    """Draws every random number of an update on n rows, as columns that travel with the rows.

    `level` (n,) of the cloning loss, counted from σ_max; standard normal `bc_noise`, `actor_noise`, `target_noise`
    (n, A), `calql_noise` and `calql_next_noise` (n, m, A); `calql_uniform` (n, m, A) in [-1, 1]; and the columns of
    `learner.augment`.
    """
    a, m = policy.action_dim, settings.calql.actions

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator)

    drawn = {"target_noise": normal(a)}
    if phase.actor:
        drawn["level"] = torch.randint(0, policy.head.levels - 1, (n,), generator=generator)
        drawn |= {"bc_noise": normal(a), "actor_noise": normal(a)}
    if has_cal_ql(settings, phase):
        drawn |= {"calql_noise": normal(m, a), "calql_next_noise": normal(m, a)}
        drawn["calql_uniform"] = 2.0 * torch.rand(n, m, a, generator=generator) - 1.0
    if settings.needs_images:
        for prefix in ("", "next_"):
            drawn |= augment.draw(n, settings.augment, generator, prefix)
    return drawn


def has_cal_ql(settings: UpdateSettings, phase: Phase) -> bool:
    """Tells whether Cal-QL is part of the critics' loss."""
    return phase.offline and settings.calql.alpha > 0.0


def complete(
    batch: Mapping[str, Tensor], policy: PolicySettings, settings: UpdateSettings, phase: Phase, generator: Generator
) -> dict[str, Tensor]:
    """Returns a batch with its noise, and with `imitate` scaled to a mean of 1 over all its rows.

    Done once per update, before the rows go to accumulation or to several learners.
    """
    noise = draw_noise(len(batch["reward"]), policy, settings, phase, generator)
    return {**batch, **noise, "imitate": losses.row_weights(batch["imitate"])}


def split(batch: Mapping[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """Splits a batch into equal parts, in order. The language, one for all rows, is in each."""
    n = len(batch["reward"])
    if n % parts:
        raise InputError(f"a batch of {n} rows cannot be split into {parts} equal parts")
    size = n // parts
    return [
        {
            name: column if name == _LANGUAGE and len(column) == 1 else column[i : i + size]
            for name, column in batch.items()
        }
        for i in range(0, n, size)
    ]
