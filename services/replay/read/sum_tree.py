"""Draws row numbers in proportion to a mass that may change row by row: a binary tree of sums in one array.

    node 1        total                      children of node i: 2 i and 2 i + 1
    node 2, 3     left half, right half      row r is node r + leaves
    …             every node is the sum of its two children, computed anew whenever one of them changes

Computed anew, not adjusted by differences, so that rounding errors do not add up over a long run.
"""

import numpy as np
from numpy.typing import NDArray


class SumTree:
    """Masses of `capacity` rows, 0 at first. Setting or finding n rows costs O(n log capacity)."""

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
        """Of the first `capacity` rows. All sums follow from these, to the bit."""
        return self._sums[self._leaves : self._leaves + capacity].copy()

    def set(self, rows: NDArray[np.intp], mass: NDArray[np.float64] | float) -> None:
        """Gives rows (n,) the masses (n,) ≥ 0; of a row that comes twice the last one counts."""
        node = rows + self._leaves
        self._sums[node] = mass
        for _ in range(self._depth):
            node = node >> 1
            self._sums[node] = self._sums[2 * node] + self._sums[2 * node + 1]

    def get(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Masses of rows (n,)."""
        return self._sums[rows + self._leaves]

    def find(self, position: NDArray[np.float64]) -> NDArray[np.intp]:
        """Rows whose masses, laid end to end in row order, cover `position` (n,) in [0, total); none of mass 0."""
        rest, node = position.copy(), np.ones(len(position), np.intp)
        for _ in range(self._depth):
            left, right = 2 * node, 2 * node + 1
            go_right = (rest >= self._sums[left]) & (self._sums[right] > 0.0)
            rest -= np.where(go_right, self._sums[left], 0.0)
            node = np.where(go_right, right, left)
        return node - self._leaves
