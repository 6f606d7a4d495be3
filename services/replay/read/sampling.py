"""This module decides how often each transition of a buffer is drawn.

    Uniform     each as often as any other
    Cells       first the initial configuration by a weight set from outside, then any transition that began there
    Priority    in proportion to the learner's latest error on it, corrected by importance weights

A strategy sees rows of a ring: they come in order, and leave in the same order when newer ones take their place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.schema import F32

Rows = NDArray[np.intp]
SMALLEST_QUEUE = 16


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Uniform sampling draws every transition equally often."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Sampling by cells draws a configuration cell by its weight, 1 unless set, and then any transition of the cell."""

    floor: float = 0.05
    """Smallest weight of a cell, so that one that is mastered is not forgotten."""

    def __post_init__(self) -> None:
        if not self.floor > 0.0:
            raise InputError(f"floor={self.floor}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class Priority:
    """Sampling by priority is the proportional variant of Schaul et al., arXiv 1511.05952, section 3.3 and 3.4."""

    alpha: float = 0.6
    """0 draws uniformly, 1 in proportion to the error."""
    beta: float = 0.4
    """Share of the preference that importance weights undo at first: 0 nothing, 1 all of it …"""
    beta_end: float = 1.0
    """… and in the end, on a straight line in between (section 3.4): when training settles it must not be biased."""
    epsilon: float = 1e-3
    """Added to every error, so that none is never drawn."""

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "beta_end"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name}={getattr(self, name)}: 0 to 1")
        if not self.epsilon > 0.0:
            raise InputError(f"epsilon={self.epsilon}: must be above 0")


Strategy = Uniform | Cells | Priority


class Sampler(Protocol):
    """A sampler is a strategy at work on the ring of one buffer. Not thread-safe."""

    def add(self, rows: Rows, cell: int) -> None:
        """Rows (n,) of one episode that began in `cell` can be drawn from now on."""

    def remove(self, rows: Rows) -> None:
        """The oldest rows (n,) leave; some of them may never have been added."""

    def forget(self, rows: Rows) -> None:
        """Rows (n,) anywhere in the ring need not be drawn any more; they are removed later."""

    def draw(self, rng: np.random.Generator, size: int, filled: int) -> Rows:
        """Draws rows (size,) with replacement, of a ring whose first `filled` rows have been used.

        Some may be forgotten, or never added: the caller draws those again.
        """

    def weights(self, rows: Rows, count: int) -> F32 | None:
        """Returns importance weights (n,) of rows drawn among `count`; None where all are 1."""

    @property
    def nbytes(self) -> int: ...


def sampler_of(strategy: Strategy, capacity: int) -> Sampler:
    """Sets a strategy to work on a ring of `capacity` rows."""
    match strategy:
        case Uniform():
            return UniformSampler()
        case Cells():
            return CellSampler(capacity, strategy)
        case Priority():
            return PrioritySampler(capacity, strategy)


class UniformSampler:
    """A uniform sampler draws any row that has been used; the caller refuses those that have left."""

    nbytes = 0

    def add(self, rows: Rows, cell: int) -> None:
        pass

    def remove(self, rows: Rows) -> None:
        pass

    forget = remove

    def draw(self, rng: np.random.Generator, size: int, filled: int) -> Rows:
        return rng.integers(filled, size=size)

    def weights(self, rows: Rows, count: int) -> F32 | None:
        return None


class CellSampler:
    """A cell sampler keeps a queue of rows per cell: rows leave in their order, so it is always the front that goes."""

    def __init__(self, capacity: int, settings: Cells) -> None:
        self.settings = settings
        self._queues = Queues()
        self._of_cell: dict[int, int] = {}
        self._queue = np.full(capacity, -1, np.int32)  # of each row, -1 in none
        self._weights = np.zeros(0)

    @property
    def nbytes(self) -> int:
        return self._queue.nbytes + self._queues.nbytes

    @property
    def cells(self) -> tuple[tuple[int, float], ...]:
        """Cells and their weights, in the order in which they were met, which draws depend on."""
        return tuple(zip(self._of_cell, self._weights.tolist(), strict=True))

    def weigh(self, weights: Mapping[int, float]) -> None:
        """Sets the weights of all cells; one that is not named counts as 1."""
        bad = {cell: weight for cell, weight in weights.items() if not 0.0 <= weight < np.inf}
        if bad:
            raise InputError(f"weights of cells {bad}: 0 or more")
        for cell in weights:
            self._queue_of(cell)
        self._weights[:] = [max(self.settings.floor, weights.get(cell, 1.0)) for cell in self._of_cell]

    def add(self, rows: Rows, cell: int) -> None:
        queue = self._queue_of(cell)
        self._queues.push(queue, rows)
        self._queue[rows] = queue

    def remove(self, rows: Rows) -> None:
        queues = self._queue[rows]
        self._queues.drop(queues[queues >= 0].astype(np.intp))
        self._queue[rows] = -1

    def forget(self, rows: Rows) -> None:
        """Leaves them in their queues: only the front of one can go."""

    def draw(self, rng: np.random.Generator, size: int, filled: int) -> Rows:
        lengths = self._queues.lengths
        edges = np.cumsum(np.where(lengths > 0, self._weights, 0.0))
        queues = np.searchsorted(edges, rng.random(size) * edges[-1], side="right")
        queues = np.minimum(queues, np.flatnonzero(lengths)[-1])  # the product may round up to the last edge
        return self._queues.at(queues, rng.integers(lengths[queues]))

    def weights(self, rows: Rows, count: int) -> F32 | None:
        return None

    def put_back(self, cells: Sequence[tuple[int, float]]) -> None:
        """Puts cells and weights back, before rows are added."""
        for cell, _ in cells:
            self._queue_of(cell)
        self._weights[:] = [weight for _, weight in cells]

    def _queue_of(self, cell: int) -> int:
        if cell not in self._of_cell:
            self._of_cell[cell] = self._queues.new()
            self._weights = np.append(self._weights, max(self.settings.floor, 1.0))
        return self._of_cell[cell]


class PrioritySampler:
    """A priority sampler keeps masses (error + ε)^α in a tree of sums; new rows get the largest mass there has been."""

    def __init__(self, capacity: int, settings: Priority) -> None:
        self.settings = settings
        self._capacity, self._tree = capacity, SumTree(capacity)
        self.largest = 1.0
        self._beta = settings.beta

    @property
    def nbytes(self) -> int:
        return self._tree.nbytes

    def update(self, rows: Rows, errors: NDArray[np.floating]) -> None:
        """Sets the priorities of rows (n,), none of which is forgotten, by the sizes of their errors (n,)."""
        mass = (np.abs(errors.astype(np.float64)) + self.settings.epsilon) ** self.settings.alpha
        self._tree.set(rows, mass)
        self.largest = max(self.largest, float(mass.max(initial=0.0)))

    def add(self, rows: Rows, cell: int) -> None:
        self._tree.set(rows, self.largest)

    def remove(self, rows: Rows) -> None:
        self._tree.set(rows, 0.0)

    forget = remove

    def draw(self, rng: np.random.Generator, size: int, filled: int) -> Rows:
        return self._tree.find(rng.random(size) * self._tree.total)

    def weights(self, rows: Rows, count: int) -> F32 | None:
        """Returns (count P(row))^-β."""
        share = self._tree.get(rows) / self._tree.total
        return ((count * share) ** -self._beta).astype(np.float32)

    def anneal(self, progress: float) -> None:
        """Sets β by the progress of training, 0 to 1."""
        first, last = self.settings.beta, self.settings.beta_end
        self._beta = first + (last - first) * progress

    def masses(self) -> NDArray[np.float64]:
        """Returns the masses of all rows of the ring, (capacity,)."""
        return self._tree.masses(self._capacity)

    def set_masses(self, rows: Rows, masses: NDArray[np.float64]) -> None:
        """Sets the masses (n,) of rows (n,) that have been added again."""
        self._tree.set(rows, masses)


class SumTree:
    """A sum tree draws row numbers in proportion to a mass that may change row by row: a binary tree in one array.

        node 1        total                      children of node i: 2 i and 2 i + 1
        node 2, 3     left half, right half      row r is node r + leaves
        …             every node is the sum of its two children, computed anew whenever one of them changes

    Computed anew, not adjusted by differences, so that rounding errors do not add up over a long run. Masses are 0 at
    first; setting or finding n rows costs O(n log capacity).
    """

    def __init__(self, capacity: int) -> None:
        self._depth = max(1, (capacity - 1).bit_length())
        self._leaves = 1 << self._depth
        self._sums = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        return float(self._sums[1])

    @property
    def nbytes(self) -> int:
        return self._sums.nbytes

    def masses(self, capacity: int) -> NDArray[np.float64]:
        """Returns those of the first `capacity` rows. All sums follow from these, to the bit."""
        return self._sums[self._leaves : self._leaves + capacity].copy()

    def set(self, rows: Rows, mass: NDArray[np.float64] | float) -> None:
        """Gives rows (n,) the masses (n,) ≥ 0; of a row that comes twice the last one counts."""
        node = rows + self._leaves
        self._sums[node] = mass
        for _ in range(self._depth):
            node = node >> 1
            self._sums[node] = self._sums[2 * node] + self._sums[2 * node + 1]

    def get(self, rows: Rows) -> NDArray[np.float64]:
        """Returns the masses of rows (n,)."""
        return self._sums[rows + self._leaves]

    def find(self, position: NDArray[np.float64]) -> Rows:
        """Finds rows of mass > 0 whose masses, laid end to end in row order, cover positions (n,) in [0, total)."""
        rest, node = position.copy(), np.ones(len(position), np.intp)
        for _ in range(self._depth):
            left, right = 2 * node, 2 * node + 1
            go_right = (rest >= self._sums[left]) & (self._sums[right] > 0.0)
            rest -= np.where(go_right, self._sums[left], 0.0)
            node = np.where(go_right, right, left)
        return node - self._leaves


class Queues:
    """Many first-in-first-out queues of row numbers share one array, so that one numpy call draws from all of them.

        pool   [ queue 0: · 7 8 9 ][ queue 2: 4 · · 3 ][ free …        each queue is a ring inside its own stretch

    A full queue moves to a stretch of twice its size, so that pushing costs O(1) per row on average.
    """

    def __init__(self) -> None:
        self._pool = np.empty(64 * SMALLEST_QUEUE, np.intp)
        self._used = 0
        self._base, self._size, self._first, self.lengths = (np.zeros(0, np.intp) for _ in range(4))

    @property
    def nbytes(self) -> int:
        return self._pool.nbytes

    def new(self) -> int:
        """Adds an empty queue; returns its number, counted from 0."""
        self._base, self._size, self._first, self.lengths = (
            np.append(each, 0) for each in (self._base, self._size, self._first, self.lengths)
        )
        return len(self.lengths) - 1

    def push(self, queue: int, rows: Rows) -> None:
        """Puts rows (n,) at the end."""
        length = self.lengths[queue]
        if length + len(rows) > self._size[queue]:
            self._grow(queue, int(length) + len(rows))
        self._pool[self._places(queue, np.arange(length, length + len(rows)))] = rows
        self.lengths[queue] += len(rows)

    def drop(self, queues: Rows) -> None:
        """Takes one row off the front of each of `queues` (n,), which may name a queue several times."""
        counts = np.bincount(queues, minlength=len(self.lengths))
        assert (counts <= self.lengths).all(), "more rows dropped than there are"
        self._first = (self._first + counts) % np.maximum(self._size, 1)
        self.lengths -= counts

    def at(self, queues: Rows | int, offsets: Rows) -> Rows:
        """Returns row `offsets[i]` from the front of queue `queues[i]`, (n,)."""
        return self._pool[self._places(queues, offsets)]

    def _places(self, queue: int | Rows, offsets: Rows) -> Rows:
        return self._base[queue] + (self._first[queue] + offsets) % self._size[queue]

    def _grow(self, queue: int, length: int) -> None:
        size = max(SMALLEST_QUEUE, 1 << (length - 1).bit_length())
        rows = self.at(queue, np.arange(self.lengths[queue]))
        self._size[queue] = 0
        if self._used + size > len(self._pool):
            self._tidy(spare=size)
        self._base[queue], self._size[queue], self._first[queue] = self._used, size, 0
        self._pool[self._used : self._used + len(rows)] = rows
        self._used += size

    def _tidy(self, *, spare: int) -> None:
        """Moves to a new pool without the stretches that were left, and with as much room again."""
        old, ends = self._pool, np.cumsum(self._size)
        self._pool = np.empty(2 * (int(self._size.sum()) + spare), np.intp)
        for base, size, end in zip(self._base, self._size, ends, strict=True):
            self._pool[end - size : end] = old[base : base + size]
        self._base, self._used = ends - self._size, int(ends[-1])
