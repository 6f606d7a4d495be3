"""This module keeps the transitions of one buffer as flat arrays, one row per observation, and fills batches from them.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.schema import ACTION_DIM, F32, PROPRIO_DIM, U8, Bools, Outcome, Source
from services.replay.read.log import StoredEpisode
from services.replay.read.sampling import PrioritySampler, Rows, Sampler
from services.replay.read.settings import Camera

SOURCES = tuple(Source)
"""`Batch.source` counts from 0 in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A batch holds one transition per row, n rows; None stands for what the reader was not asked for.

    Images and proprioception come in windows of W observations, the newest last. Where an episode has no earlier
    observation its first one stands in, marked in `pad`; the next observation always has one before it, so its window
    needs no mark.
    """

    embedding: F32 | None  # (n, D) readout of the observation
    side: U8 | None  # (n, W, px, px, 3)
    wrist: U8 | None  # (n, W, px, px, 3)
    pad: Bools  # (n, W)
    proprio: F32  # (n, 25) raw units; (n, W, 25) where windows hold more than one observation
    action: F32  # (n, 7)
    reward: F32  # (n,) discounted sum over up to n steps
    discount: F32  # (n,) factor of the value of the next observation; 0 after success or failure
    next_embedding: F32 | None  # (n, D) at the end of those steps
    next_side: U8 | None  # (n, W, px, px, 3)
    next_wrist: U8 | None  # (n, W, px, px, 3)
    next_proprio: F32  # as proprio
    mc_return: F32  # (n,) discounted sum to the end of the episode
    imitate: F32  # (n,) 1 where behaviour cloning may copy the action (`to_imitate`), else 0
    weight: F32  # (n,) importance weight, 1 unless the buffer is drawn by priority
    human: Bools  # (n,)
    success: Bools  # (n,) the episode's
    version: NDArray[np.int64]  # (n,) oldest weight version of the step's segment, -1 for demonstrations
    newest_version: NDArray[np.int64]  # (n,)
    cell: NDArray[np.int32]  # (n,) of the initial configuration, -1 outside the grid
    source: U8  # (n,) index into `SOURCES`
    actor: NDArray[np.int32]  # (n,) index into `ReplayReader.actors()`
    rows: NDArray[np.int64]  # (n,) which transitions these are, for `ReplayReader.update_priorities`

    def __len__(self) -> int:
        return len(self.reward)

    @classmethod
    def empty(cls, size: int, *, embedding_dim: int, cameras: Mapping[Camera, int], window: int) -> "Batch":
        """Makes arrays of `size` rows to fill; `embedding_dim` 0: none, `cameras`: those wanted, with their pixels."""
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            name: ((size, *shape), dtype) for name, (shape, dtype) in NUMBERS.items()
        }
        moment = (PROPRIO_DIM,) if window == 1 else (window, PROPRIO_DIM)
        shapes |= {f"{when}proprio": ((size, *moment), np.float32) for when in ("", "next_")}
        shapes |= {"pad": ((size, window), np.bool_), "rows": ((size,), np.int64), "weight": ((size,), np.float32)}
        for when in ("", "next_"):
            if embedding_dim:
                shapes[f"{when}embedding"] = (size, embedding_dim), np.float32
            shapes |= {f"{when}{name}": ((size, window, px, px, 3), np.uint8) for name, px in cameras.items()}
        return cls._of({name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()})

    def fits(self, size: int, embedding_dim: int) -> bool:
        """Tells whether a draw of `size` transitions with such readouts can be filled in here."""
        return len(self) == size and (0 if self.embedding is None else self.embedding.shape[1]) == embedding_dim

    def like(self, size: int) -> "Batch":
        """Makes an unfilled batch of the same arrays with `size` rows."""
        return self._of({n: np.empty((size, *array.shape[1:]), array.dtype) for n, array in self._arrays().items()})

    def put(self, at: NDArray[np.intp], other: "Batch") -> None:
        """Overwrites the rows `at` (m,) with those of a batch of m rows."""
        for name, array in self._arrays().items():
            array[at] = getattr(other, name)

    def part(self, start: int, stop: int) -> "Batch":
        """Returns the rows from `start` to before `stop`, as views."""
        return self._of({name: array[start:stop] for name, array in self._arrays().items()})

    def _arrays(self) -> dict[str, Any]:
        """Returns the arrays that it has."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: array for name, array in found.items() if array is not None}

    @classmethod
    def _of(cls, arrays: Mapping[str, Any]) -> "Batch":
        values: dict[str, Any] = {f.name: arrays.get(f.name) for f in fields(cls)}
        return cls(**values)


NUMBERS: dict[str, tuple[tuple[int, ...], Any]] = {
    "action": ((ACTION_DIM,), np.float32),
    "reward": ((), np.float32),
    "discount": ((), np.float32),
    "mc_return": ((), np.float32),
    "imitate": ((), np.float32),
    "human": ((), np.bool_),
    "success": ((), np.bool_),
    "version": ((), np.int64),
    "newest_version": ((), np.int64),
    "cell": ((), np.int32),
    "source": ((), np.uint8),
    "actor": ((), np.int32),
}
"""Shape and dtype per row of the numbers that index and batch have under the same name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NStep:
    """An n-step return of step t is Σ_{j<k} γ^j r_{t+j}, k = min(n, T - t), plus `discount` × the value k steps ahead.

    A terminated episode (success or failure) has no value after its end; a truncated one (time is up, or its end never
    arrived) bootstraps from its last observation. Sutton & Barto, Reinforcement Learning, 2nd edition, equation 7.1.
    """

    reward: F32  # (T,)
    discount: F32  # (T,) γ^k; 0 where step t + k is the end of a terminated episode
    ahead: NDArray[np.int32]  # (T,) k


def n_step(reward: F32, *, terminated: bool, gamma: float, n: int) -> NStep:
    """Computes the n-step returns of an episode from its rewards (T,)."""
    steps = len(reward)
    ahead = np.minimum(n, steps - np.arange(steps))
    total = np.zeros(steps)
    for j in range(min(n, steps)):
        total[: steps - j] += gamma**j * reward[j:]
    discount = gamma ** ahead.astype(float)
    if terminated:
        discount[np.arange(steps) + ahead == steps] = 0.0
    return NStep(reward=total.astype(np.float32), discount=discount.astype(np.float32), ahead=ahead.astype(np.int32))


def monte_carlo(reward: F32, gamma: float) -> F32:
    """Computes Σ_{j≥0} γ^j r_{t+j} to the last known step, (T,): Cal-QL's reference value (arXiv 2303.05479)."""
    total, returns = 0.0, np.zeros(len(reward), np.float32)
    for t in range(len(reward) - 1, -1, -1):
        total = float(reward[t]) + gamma * total
        returns[t] = total
    return returns


SHAPES: dict[str, tuple[tuple[int, ...], Any]] = NUMBERS | {
    "proprio": ((PROPRIO_DIM,), np.float32),
    "ahead": ((), np.int32),
    "age": ((), np.int32),
    "shard": ((), np.int32),
    "slot": ((), np.int64),
}
"""Shape and dtype per row of every column but the readouts."""
MAX_REDRAWS = 32
"""Draws of a row that cannot be had, before one is picked from a list of all that can."""


def to_imitate(human: Bools, *, success: bool) -> F32:
    """Returns 1 for the steps (n,) of an episode that behaviour cloning may copy.

    They are a person's, and in a successful episode those of the policy after which no person had to step in: what it
    did before a takeover led into trouble, although the episode ended well.
    """
    helped_until = int(np.flatnonzero(human)[-1]) if human.any() else -1
    alone = np.arange(len(human)) > helped_until
    return (human | (alone & success)).astype(np.float32)


def row_bytes() -> int:
    """Returns the memory of one row without its readout."""
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in SHAPES.values())


class Index:
    """An index is a ring of `capacity` rows. Not thread-safe."""

    def __init__(
        self, capacity: int, *, gamma: float, n_step: int, sampler: Sampler, window: int, embedding_dim: int
    ) -> None:
        """`embedding_dim` 0: without readouts."""
        self.capacity, self.gamma, self.n_step = capacity, gamma, n_step
        self.embedding_dim, self.window = embedding_dim, window
        self.sampler = sampler
        self.transitions = 0
        """Rows that can be drawn."""
        self.next = 0
        """Rows ever added, which is the count of the next one."""
        shapes = SHAPES | ({"embedding": ((embedding_dim,), np.float32)} if embedding_dim else {})
        self._columns = {name: np.zeros((capacity, *shape), dtype) for name, (shape, dtype) in shapes.items()}

    @property
    def nbytes(self) -> int:
        """Memory of all columns and of the strategy, filled or not."""
        return sum(column.nbytes for column in self._columns.values()) + self.sampler.nbytes

    def add(self, stored: StoredEpisode, embedding: F32 | None, actor: int) -> Rows:
        """Appends an episode of an actor, by its number; returns the rows of its latest observations.

        They are all T + 1 where these fit.
        """
        columns = self._columns_of(stored, embedding, actor)
        count = min(stored.numbers.steps + 1, self.capacity)
        rows = (self.next + np.arange(count)) % self.capacity
        self._clear(rows)
        for name, column in columns.items():
            self._columns[name][rows] = column if isinstance(column, int) else column[-count:]
        self.next += count
        self._columns["age"][self.next % self.capacity] = 0  # the oldest row has just lost the one before it
        self.transitions += count - 1
        self.sampler.add(rows[:-1], stored.numbers.configuration.cell)
        return rows

    def skip_to(self, count: int) -> None:
        """Makes `count` the next row; those up to there stay empty."""
        self._clear((self.next + np.arange(min(count - self.next, self.capacity))) % self.capacity)
        self.next = count
        self._columns["age"][self.next % self.capacity] = 0

    def masses(self) -> NDArray[np.float64] | None:
        """Returns the priorities (capacity,), if it is drawn by priority."""
        return self.sampler.masses() if isinstance(self.sampler, PrioritySampler) else None

    def set_masses(self, masses: NDArray[np.float64]) -> None:
        """Sets the priorities (capacity,) of the rows that can be drawn."""
        assert isinstance(self.sampler, PrioritySampler), "priorities for a buffer that is drawn otherwise"
        rows = np.flatnonzero(self._columns["ahead"])
        self.sampler.set_masses(rows, masses[rows])

    def draw(self, rng: np.random.Generator, size: int, above: NDArray[np.int64] | None = None) -> Rows:
        """Draws rows (size,) by the strategy, with replacement; if there are any, only from slots > `above[shard]`."""
        assert self.transitions, "an empty index cannot be sampled"
        filled = min(self.next, self.capacity)
        rows = self.sampler.draw(rng, size, filled)
        for _ in range(MAX_REDRAWS):
            if not len(bad := np.flatnonzero(~self._usable(rows, above))):
                return rows
            rows[bad] = self.sampler.draw(rng, len(bad), filled)
        bad = np.flatnonzero(~self._usable(rows, above))
        usable = np.flatnonzero(self._usable(np.arange(self.capacity), above))
        rows[bad] = rng.choice(usable if len(usable) else np.flatnonzero(self._columns["ahead"]), len(bad))
        return rows

    def fill(self, rows: Rows, out: Batch) -> None:
        """Copies the numbers of rows (n,) into a batch of as many; all but the images."""
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

    def targets(self, rows: Rows) -> Rows:
        """Returns the rows of the next observations, (n,)."""
        return (rows + self._columns["ahead"][rows]) % self.capacity

    def windows(self, rows: Rows) -> Rows:
        """Returns the rows (n, W) of the observations up to each row; an episode's first one is repeated."""
        back = np.minimum(self._columns["age"][rows][:, None], np.arange(self.window - 1, -1, -1))
        return (rows[:, None] - back) % self.capacity

    def forget(self, counts: NDArray[np.int64], oldest: Sequence[int]) -> None:
        """Stops drawing those of these rows (n,), as counted for ever, that lie in slots below `oldest[shard]`."""
        rows = self._current(np.unique(counts))[0]
        rows = rows[self._columns["slot"][rows] < np.array(oldest)[self._columns["shard"][rows]]]
        self._columns["ahead"][rows] = 0
        self.transitions -= len(rows)
        self.sampler.forget(rows)

    def newest_slots(self, counts: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
        """Returns the newest slot of these rows (n,), as counted for ever, on each shard, (shards,); 0 without any."""
        rows, newest = self._current(counts)[0], np.zeros(shards, np.int64)
        np.maximum.at(newest, self._columns["shard"][rows], self._columns["slot"][rows])
        return newest

    def counts(self, rows: Rows) -> NDArray[np.int64]:
        """Returns rows of the ring as counted for ever, (n,)."""
        return self.next - 1 - (self.next - 1 - rows) % self.capacity

    def update_priorities(self, counts: NDArray[np.int64], errors: NDArray[np.floating]) -> None:
        """Takes errors (n,) of rows as counted for ever; ignores rows overwritten since, and errors that are NaN."""
        if not isinstance(self.sampler, PrioritySampler):
            return
        known = np.isfinite(errors)
        rows, current = self._current(counts[known])
        self.sampler.update(rows, errors[known][current])

    def _clear(self, rows: Rows) -> None:
        """Takes the oldest rows (n,) away."""
        self.transitions -= int(np.count_nonzero(self._columns["ahead"][rows]))
        self.sampler.remove(rows)
        self._columns["ahead"][rows] = 0

    def _current(self, counts: NDArray[np.int64]) -> tuple[Rows, NDArray[np.bool_]]:
        """Returns the rows of those counts (n,) that can still be drawn, and which these are."""
        rows = (counts % self.capacity).astype(np.intp)
        current = (counts >= self.next - self.capacity) & (self._columns["ahead"][rows] > 0)
        return rows[current], current

    def _usable(self, rows: Rows, above: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        usable = self._columns["ahead"][rows] > 0
        return usable if above is None else usable & (self._columns["slot"][rows] > above[self._columns["shard"][rows]])

    def _columns_of(self, stored: StoredEpisode, embedding: F32 | None, actor: int) -> dict[str, NDArray[Any] | int]:
        """Computes all columns of T + 1 rows; the last row is an observation only."""
        episode, headers = stored.numbers, [segment.header for segment in stored.segments]
        success = episode.outcome is Outcome.SUCCESS
        ended = episode.outcome in (Outcome.SUCCESS, Outcome.FAILURE)
        returns = n_step(episode.reward, terminated=ended, gamma=self.gamma, n=self.n_step)
        counts = [header.steps for header in headers]
        steps: dict[str, NDArray[Any]] = {
            "action": episode.action,
            "reward": returns.reward,
            "discount": returns.discount,
            "mc_return": monte_carlo(episode.reward, self.gamma),
            "imitate": to_imitate(episode.human, success=success),
            "human": episode.human,
            "version": np.repeat([header.oldest_version for header in headers], counts),
            "newest_version": np.repeat([header.newest_version for header in headers], counts),
            "ahead": returns.ahead,
        }
        columns: dict[str, NDArray[Any] | int] = {
            name: np.concatenate([column, np.zeros_like(column[:1])]) for name, column in steps.items()
        }
        slots = np.repeat([segment.slot for segment in stored.segments], [*counts[:-1], counts[-1] + 1])
        columns |= {"proprio": episode.observation.proprio, "age": np.arange(episode.steps + 1), "slot": slots}
        columns |= {"embedding": embedding} if embedding is not None else {}
        tags = {"cell": episode.configuration.cell, "source": SOURCES.index(episode.source), "success": int(success)}
        return columns | tags | {"actor": actor, "shard": stored.shard}
