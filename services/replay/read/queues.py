"""Many first-in-first-out queues of row numbers in one array, so that one numpy call draws from all of them.

pool   [ queue 0: · 7 8 9 ][ queue 2: 4 · · 3 ][ free …        each queue is a ring inside its own stretch
"""

import numpy as np
from numpy.typing import NDArray

SMALLEST = 16


class Queues:
    """A full queue moves to a stretch of twice its size, so that pushing costs O(1) per row on average."""

    def __init__(self) -> None:
        self._pool = np.empty(64 * SMALLEST, np.intp)
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

    def push(self, queue: int, rows: NDArray[np.intp]) -> None:
        """Puts rows (n,) at the end."""
        length = self.lengths[queue]
        if length + len(rows) > self._size[queue]:
            self._grow(queue, int(length) + len(rows))
        self._pool[self._places(queue, np.arange(length, length + len(rows)))] = rows
        self.lengths[queue] += len(rows)

    def drop(self, queues: NDArray[np.intp]) -> None:
        """Takes one row off the front of each of `queues` (n,), which may name a queue several times."""
        counts = np.bincount(queues, minlength=len(self.lengths))
        assert (counts <= self.lengths).all(), "more rows dropped than there are"
        self._first = (self._first + counts) % np.maximum(self._size, 1)
        self.lengths -= counts

    def at(self, queues: NDArray[np.intp] | int, offsets: NDArray[np.intp]) -> NDArray[np.intp]:
        """Row `offsets[i]` from the front of queue `queues[i]`, (n,)."""
        return self._pool[self._places(queues, offsets)]

    def _places(self, queue: int | NDArray[np.intp], offsets: NDArray[np.intp]) -> NDArray[np.intp]:
        return self._base[queue] + (self._first[queue] + offsets) % self._size[queue]

    def _grow(self, queue: int, length: int) -> None:
        size = max(SMALLEST, 1 << (length - 1).bit_length())
        rows = self.at(queue, np.arange(self.lengths[queue]))
        self._size[queue] = 0
        if self._used + size > len(self._pool):
            self._tidy(spare=size)
        self._base[queue], self._size[queue], self._first[queue] = self._used, size, 0
        self._pool[self._used : self._used + len(rows)] = rows
        self._used += size

    def _tidy(self, *, spare: int) -> None:
        """A new pool without the stretches that were left, and with as much room again."""
        old, ends = self._pool, np.cumsum(self._size)
        self._pool = np.empty(2 * (int(self._size.sum()) + spare), np.intp)
        for base, size, end in zip(self._base, self._size, ends, strict=True):
            self._pool[end - size : end] = old[base : base + size]
        self._base, self._used = ends - self._size, int(ends[-1])
