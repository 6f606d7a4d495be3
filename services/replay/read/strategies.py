"""Which transitions of a buffer are drawn how often.

    Uniform     each as often as any other
    Cells       first the initial configuration by a weight set from outside, then any transition that began there
    Priority    in proportion to the learner's latest error on it, corrected by importance weights

A strategy sees rows of a ring: they come in order, and leave in the same order when newer ones take their place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.schema import F32
from services.replay.read.position import Sampling
from services.replay.read.queues import Queues
from services.replay.read.sum_tree import SumTree


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Every transition as often as any other."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Configuration cells by weight, transitions of a cell uniformly. A cell without a weight counts as 1."""

    floor: float = 0.05
    """Smallest weight of a cell, so that one that is mastered is not forgotten."""

    def __post_init__(self) -> None:
        if not self.floor > 0.0:
            raise InputError(f"floor={self.floor}: must be above 0")


@dataclass(frozen=True, kw_only=True)
class Priority:
    """Proportional prioritised replay, Schaul et al., arXiv 1511.05952, section 3.3 and 3.4."""

    alpha: float = 0.6
    """0 draws uniformly, 1 in proportion to the error."""
    beta: float = 0.4
    """How far importance weights undo the preference at first: 0 not at all, 1 wholly …"""
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
    """A strategy at work on the ring of one buffer. Not thread-safe."""

    def add(self, rows: NDArray[np.intp], cell: int) -> None:
        """Rows (n,) of one episode that began in `cell` can be drawn from now on."""

    def remove(self, rows: NDArray[np.intp]) -> None:
        """The oldest rows (n,) leave; some of them may never have been added."""

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Rows (n,) anywhere in the ring need not be drawn any more; they are removed later."""

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.intp]:
        """Rows (size,) with replacement. Some may be forgotten, or never added: the caller draws those again."""

    def weights(self, rows: NDArray[np.intp], count: int) -> F32 | None:
        """Importance weights (n,) of rows drawn among `count`; None where all are 1."""

    def state(self) -> Sampling:
        """What `restore` needs beside the rows."""

    def restore(self, state: Sampling) -> None:
        """To be called before the rows are added again."""

    @property
    def nbytes(self) -> int: ...


def sampler_of(strategy: Strategy, capacity: int) -> Sampler:
    """The strategy at work on a ring of `capacity` rows."""
    match strategy:
        case Uniform():
            return UniformSampler(capacity)
        case Cells():
            return CellSampler(capacity, strategy)
        case Priority():
            return PrioritySampler(capacity, strategy)


class UniformSampler:
    """Needs no more than to know how far the ring is filled."""

    nbytes = 0

    def __init__(self, capacity: int) -> None:
        self._capacity, self._filled = capacity, 0

    def add(self, rows: NDArray[np.intp], cell: int) -> None:
        self._filled = max(self._filled, int(rows.max()) + 1)

    def remove(self, rows: NDArray[np.intp]) -> None:
        """Nothing to do: rows that leave are the caller's to refuse."""

    forget = remove

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.intp]:
        return rng.integers(self._filled, size=size)

    def weights(self, rows: NDArray[np.intp], count: int) -> F32 | None:
        return None

    def state(self) -> Sampling:
        return Sampling(strategy="uniform", number=self._filled)

    def restore(self, state: Sampling) -> None:
        self._filled = int(state.number)


class CellSampler:
    """A queue of rows per cell: as rows leave in the order in which they came, it is always the front that goes."""

    def __init__(self, capacity: int, settings: Cells) -> None:
        self.settings = settings
        self._queues = Queues()
        self._of_cell: dict[int, int] = {}
        self._queue = np.full(capacity, -1, np.int32)  # of each row, -1 in none
        self._weights = np.zeros(0)

    @property
    def nbytes(self) -> int:
        return self._queue.nbytes + self._queues.nbytes

    def weigh(self, weights: Mapping[int, float]) -> None:
        """Sets the weights of all cells; one that is not named counts as 1."""
        bad = {cell: weight for cell, weight in weights.items() if not 0.0 <= weight < np.inf}
        if bad:
            raise InputError(f"weights of cells {bad}: 0 or more")
        for cell in weights:
            self._queue_of(cell)
        self._weights[:] = [max(self.settings.floor, weights.get(cell, 1.0)) for cell in self._of_cell]

    def add(self, rows: NDArray[np.intp], cell: int) -> None:
        queue = self._queue_of(cell)
        self._queues.push(queue, rows)
        self._queue[rows] = queue

    def remove(self, rows: NDArray[np.intp]) -> None:
        queues = self._queue[rows]
        self._queues.drop(queues[queues >= 0].astype(np.intp))
        self._queue[rows] = -1

    def forget(self, rows: NDArray[np.intp]) -> None:
        """They stay in their queues: only the front of one can go."""

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.intp]:
        lengths = self._queues.lengths
        edges = np.cumsum(np.where(lengths > 0, self._weights, 0.0))
        queues = np.searchsorted(edges, rng.random(size) * edges[-1], side="right")
        queues = np.minimum(queues, np.flatnonzero(lengths)[-1])  # the product may round up to the last edge
        return self._queues.at(queues, rng.integers(lengths[queues]))

    def weights(self, rows: NDArray[np.intp], count: int) -> F32 | None:
        return None

    def state(self) -> Sampling:
        return Sampling(strategy="cells", cells=tuple(zip(self._of_cell, self._weights.tolist(), strict=True)))

    def restore(self, state: Sampling) -> None:
        for cell, _ in state.cells:
            self._queue_of(cell)
        self._weights[:] = [weight for _, weight in state.cells]

    def _queue_of(self, cell: int) -> int:
        if cell not in self._of_cell:
            self._of_cell[cell] = self._queues.new()
            self._weights = np.append(self._weights, max(self.settings.floor, 1.0))
        return self._of_cell[cell]


class PrioritySampler:
    """Masses (error + ε)^α in a tree of sums; new rows get the largest mass there has been."""

    def __init__(self, capacity: int, settings: Priority) -> None:
        self.settings = settings
        self._capacity, self._tree = capacity, SumTree(capacity)
        self._largest = 1.0
        self._beta = settings.beta

    @property
    def nbytes(self) -> int:
        return self._tree.nbytes

    def update(self, rows: NDArray[np.intp], errors: NDArray[np.floating]) -> None:
        """Sets the priorities of rows (n,), none of which is forgotten, by the sizes of their errors (n,)."""
        mass = (np.abs(errors.astype(np.float64)) + self.settings.epsilon) ** self.settings.alpha
        self._tree.set(rows, mass)
        self._largest = max(self._largest, float(mass.max(initial=0.0)))

    def add(self, rows: NDArray[np.intp], cell: int) -> None:
        self._tree.set(rows, self._largest)

    def remove(self, rows: NDArray[np.intp]) -> None:
        self._tree.set(rows, 0.0)

    forget = remove

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.intp]:
        return self._tree.find(rng.random(size) * self._tree.total)

    def weights(self, rows: NDArray[np.intp], count: int) -> F32 | None:
        """(count P(row))^-β."""
        share = self._tree.get(rows) / self._tree.total
        return ((count * share) ** -self._beta).astype(np.float32)

    def anneal(self, progress: float) -> None:
        """How far training has come, 0 to 1."""
        first, last = self.settings.beta, self.settings.beta_end
        self._beta = first + (last - first) * progress

    def state(self) -> Sampling:
        return Sampling(strategy="priority", number=self._largest)

    def restore(self, state: Sampling) -> None:
        self._largest = state.number

    def masses(self) -> NDArray[np.float64]:
        """Of every row of the ring, (capacity,)."""
        return self._tree.masses(self._capacity)

    def set_masses(self, rows: NDArray[np.intp], masses: NDArray[np.float64]) -> None:
        """Of rows (n,) that have been added again, masses (n,)."""
        self._tree.set(rows, masses)
