"""The transitions of one buffer as flat arrays, one row per observation.

    row        0    1    2    3  |  4    5    6  | …        two episodes of 3 and 2 steps: T + 1 rows each
    ahead      2    2    1    0  |  2    1    0  | …        n-step target of row i is row i + ahead (n = 2)
    age        0    1    2    3  |  0    1    2  | …        window of row i reaches back at most `age` rows
               transitions   last   transitions  last

Rows form a ring: the oldest are overwritten one by one, and as a target is always newer than its row it is there as
long as the row is. A row that has lost the observation before it becomes the first of its episode.

Rows are counted for ever; count % capacity is the place in the ring. So a count tells later whether the row is still
the one that it was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.schema import F32, PROPRIO_DIM, Outcome
from services.replay.read.batch import NUMBERS, SOURCES, Batch
from services.replay.read.episodes import Track
from services.replay.read.returns import monte_carlo, n_step
from services.replay.read.strategies import PrioritySampler, Sampler

ENDED = (Outcome.SUCCESS, Outcome.FAILURE)
SHAPES: dict[str, tuple[tuple[int, ...], Any]] = NUMBERS | {
    "proprio": ((PROPRIO_DIM,), np.float32),
    "ahead": ((), np.int32),
    "age": ((), np.int32),
    "shard": ((), np.int32),
    "slot": ((), np.int64),
}
"""Shape and dtype of every column but the readouts, per row."""
MAX_REDRAWS = 32
"""Draws of a row that cannot be had, before one is picked from a list of all that can."""


def row_bytes() -> int:
    """Memory of one row without its readout."""
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in SHAPES.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where an episode comes from, beside what is in it."""

    shard: int
    actor: int
    """Number of the actor's name, see `Batch.actor`."""


class Index:
    """Ring of `capacity` rows. Not thread-safe."""

    def __init__(
        self, capacity: int, *, gamma: float, n_step: int, sampler: Sampler, window: int, embedding_dim: int
    ) -> None:
        """`embedding_dim` 0: without readouts."""
        self.capacity, self.gamma, self.n_step = capacity, gamma, n_step
        self.embedding_dim, self.window = embedding_dim, window
        self.sampler = sampler
        self.transitions = 0
        """Rows that can be drawn."""
        self._next = 0
        """Rows ever added."""
        shapes = SHAPES | ({"embedding": ((embedding_dim,), np.float32)} if embedding_dim else {})
        self._columns = {name: np.zeros((capacity, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    @property
    def nbytes(self) -> int:
        """Memory of all columns and of the strategy, filled or not."""
        return sum(column.nbytes for column in self._columns.values()) + self.sampler.nbytes

    def add(self, track: Track, embedding: F32 | None, origin: Origin) -> NDArray[np.intp]:
        """Appends an episode; returns the rows of its latest observations, all T + 1 where they fit."""
        columns = self._columns_of(track, embedding, origin)
        count = min(len(track.proprio), self.capacity)
        rows = (self._next + np.arange(count)) % self.capacity
        self._clear(rows)
        for name, column in columns.items():
            self._columns[name][rows] = column if isinstance(column, int) else column[-count:]
        self._next += count
        self._columns["age"][self._next % self.capacity] = 0  # the oldest row has just lost the one before it
        self.transitions += count - 1
        self.sampler.add(rows[:-1], track.cell)
        return rows

    @property
    def next(self) -> int:
        """Rows ever added; the count of the next one."""
        return self._next

    def go_to(self, count: int) -> None:
        """The next row will be `count`; those up to there stay empty."""
        self._clear((self._next + np.arange(min(count - self._next, self.capacity))) % self.capacity)
        self._next = count
        self._columns["age"][self._next % self.capacity] = 0

    def masses(self) -> NDArray[np.float64] | None:
        """Priorities (capacity,), if it is drawn by priority."""
        return self.sampler.masses() if isinstance(self.sampler, PrioritySampler) else None

    def set_masses(self, masses: NDArray[np.float64]) -> None:
        """Priorities (capacity,) of the rows that can be drawn."""
        assert isinstance(self.sampler, PrioritySampler), "priorities for a buffer that is drawn otherwise"
        rows = np.flatnonzero(self._columns["ahead"])
        self.sampler.set_masses(rows, masses[rows])

    def draw(self, rng: np.random.Generator, size: int, above: NDArray[np.int64] | None = None) -> NDArray[np.intp]:
        """Rows (size,) by the strategy, with replacement; if there are any, only from slots > `above[shard]`."""
        assert self.transitions, "an empty index cannot be sampled"
        rows = self.sampler.draw(rng, size)
        for _ in range(MAX_REDRAWS):
            if not len(bad := np.flatnonzero(~self._usable(rows, above))):
                return rows
            rows[bad] = self.sampler.draw(rng, len(bad))
        bad = np.flatnonzero(~self._usable(rows, above))
        usable = np.flatnonzero(self._usable(np.arange(self.capacity), above))
        rows[bad] = rng.choice(usable if len(usable) else np.flatnonzero(self._columns["ahead"]), len(bad))
        return rows

    def fill(self, rows: NDArray[np.intp], out: Batch) -> None:
        """Copies the numbers of rows (n,) into a batch of as many; all but the pictures."""
        target = self.targets(rows)
        copies = [(name, rows, name) for name in NUMBERS]
        for when, at in (("", rows), ("next_", target)):
            copies.append(("proprio", at if self.window == 1 else self.windows(at), f"{when}proprio"))
            copies += [("embedding", at, f"{when}embedding")] if self.embedding_dim else []
        for name, chosen, goal in copies:
            np.take(self._columns[name], chosen, axis=0, out=getattr(out, goal), mode="clip")
        out.pad[:] = self._columns["age"][rows][:, None] < np.arange(self.window - 1, -1, -1)
        weights = self.sampler.weights(rows, self.transitions)
        out.weight[:] = 1.0 if weights is None else weights
        out.rows[:] = self.counts(rows)

    def targets(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Rows of the next observations, (n,)."""
        return (rows + self._columns["ahead"][rows]) % self.capacity

    def windows(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Rows (n, W) of the observations up to each row, its episode's first one repeated where there is none."""
        back = np.minimum(self._columns["age"][rows][:, None], np.arange(self.window - 1, -1, -1))
        return (rows[:, None] - back) % self.capacity

    def forget(self, counts: NDArray[np.int64], oldest: Sequence[int]) -> None:
        """Of these rows (n,), as counted for ever, those in slots below `oldest[shard]` are not drawn any more."""
        rows = self._current(np.unique(counts))[0]
        rows = rows[self._columns["slot"][rows] < np.array(oldest)[self._columns["shard"][rows]]]
        self._columns["ahead"][rows] = 0
        self.transitions -= len(rows)
        self.sampler.forget(rows)

    def newest_slots(self, counts: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
        """Of these rows (n,), as counted for ever: the newest slot on each shard, (shards,), 0 where there is none."""
        rows, newest = self._current(counts)[0], np.zeros(shards, np.int64)
        np.maximum.at(newest, self._columns["shard"][rows], self._columns["slot"][rows])
        return newest

    def counts(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """Rows of the ring as counted for ever, (n,)."""
        return self._next - 1 - (self._next - 1 - rows) % self.capacity

    def update_priorities(self, counts: NDArray[np.int64], errors: NDArray[np.floating]) -> None:
        """Errors (n,) of rows as counted for ever; those overwritten since, and errors that are NaN, are ignored."""
        if not isinstance(self.sampler, PrioritySampler):
            return
        known = np.isfinite(errors)
        rows, current = self._current(counts[known])
        self.sampler.update(rows, errors[known][current])

    def _clear(self, rows: NDArray[np.intp]) -> None:
        """The oldest rows (n,) leave."""
        self.transitions -= int(np.count_nonzero(self._columns["ahead"][rows]))
        self.sampler.remove(rows)
        self._columns["ahead"][rows] = 0

    def _current(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Rows of those counts (n,) that can still be drawn, and which these are."""
        rows = (counts % self.capacity).astype(np.intp)
        current = (counts >= self._next - self.capacity) & (self._columns["ahead"][rows] > 0)
        return rows[current], current

    def _usable(self, rows: NDArray[np.intp], above: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        usable = self._columns["ahead"][rows] > 0
        return usable if above is None else usable & (self._columns["slot"][rows] > above[self._columns["shard"][rows]])

    def _columns_of(self, track: Track, embedding: F32 | None, origin: Origin) -> dict[str, NDArray[Any] | int]:
        """All columns of T + 1 rows; the last row is an observation only."""
        returns = n_step(track.reward, terminated=track.outcome in ENDED, gamma=self.gamma, n=self.n_step)
        success = track.outcome is Outcome.SUCCESS
        steps: dict[str, NDArray[Any]] = {
            "action": track.action,
            "reward": returns.reward,
            "discount": returns.discount,
            "mc_return": monte_carlo(track.reward, self.gamma),
            "imitate": (track.human | success).astype(np.float32),
            "human": track.human,
            "version": track.version,
            "newest_version": track.newest_version,
            "ahead": returns.ahead,
        }
        columns: dict[str, NDArray[Any] | int] = {
            name: np.concatenate([column, np.zeros_like(column[:1])]) for name, column in steps.items()
        }
        columns |= {"proprio": track.proprio, "age": np.arange(len(track.proprio)), "slot": track.slot}
        columns |= {"embedding": embedding} if embedding is not None else {}
        tags = {"cell": track.cell, "source": SOURCES.index(track.source), "success": int(success)}
        return columns | tags | {"actor": origin.actor, "shard": origin.shard}
