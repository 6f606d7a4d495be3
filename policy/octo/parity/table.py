"""This module collects comparisons: the arrays, their largest difference, the limit."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Limit(NamedTuple):
    """Holds the largest difference allowed between two arrays: the larger of its two numbers."""

    absolute: float
    resolution: float = 0.0
    """Share of the array's largest number, since float32 resolves no more."""


EXACT = Limit(0.0)
CLOSE = Limit(1e-4, 2e-6)
"""Intermediates, samples, heads: 1e-4 for numbers up to 50."""
LOSS = Limit(1e-5, 5e-7)
"""1e-5 for losses up to 20."""
SHORTCUT = Limit(1e-5)
NORM = Limit(1e-3)
"""Gradients, as a part of the leaf's norm."""
ALL_CASES = "all"
_HEADINGS = ("case", "what", "arrays", "largest difference", "limit", "ok")


@dataclass(kw_only=True)
class Row:
    """Sums up one kind of number in one case; the worst of its arrays counts."""

    arrays: int = 0
    """Arrays of the file."""
    worst: float = 0.0
    limit: float = 0.0
    where: str = ""
    """The array that is furthest off."""

    @property
    def ok(self) -> bool:
        return self.worst <= self.limit


@dataclass
class Table:
    """Collects comparisons."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def compare(self, case: str, what: str, name: str, ours: Tensor, theirs: NDArray[Any], limit: Limit) -> None:
        """Adds the largest difference between two arrays of one shape; another shape is infinitely far away."""
        mine = ours.detach().cpu().numpy()
        if mine.shape != theirs.shape:
            self.add(case, what, f"{name}: shape {mine.shape}, {theirs.shape} in the file", np.inf, limit.absolute)
            return
        reference = theirs.astype(np.float64)
        difference = np.abs(mine.astype(np.float64) - reference).max(initial=0.0)
        largest = np.abs(reference).max(initial=0.0)
        allowed = max(limit.absolute, limit.resolution * float(largest))
        self.add(case, what, name, float(difference), allowed)

    def add(self, case: str, what: str, name: str, difference: float, limit: float, arrays: int = 1) -> None:
        """Adds a difference that is already a number; NaN is never ok. `arrays` of the file took part in it."""
        difference = difference if np.isfinite(difference) else np.inf
        row = self.rows.setdefault((case, what), Row(limit=limit))
        if difference - limit > row.worst - row.limit or not row.where:
            row.worst, row.limit, row.where = difference, limit, name
        row.arrays += arrays

    @property
    def arrays(self) -> int:
        """Arrays of the file that were compared."""
        return sum(row.arrays for row in self.rows.values())

    @property
    def ok(self) -> bool:
        """True when anything was compared and nothing is too far off."""
        return self.arrays > 0 and all(row.ok for row in self.rows.values())

    def parts(self, case: str) -> set[str]:
        """Returns the kinds of numbers that were compared in a case."""
        return {what for name, what in self.rows if name == case}

    def text(self) -> str:
        cells = [_HEADINGS]
        for (case, what), row in self.rows.items():
            limit = "exact" if row.limit == EXACT.absolute else f"{row.limit:.1e}"
            verdict = "yes" if row.ok else f"NO: {row.where}"
            cells.append((case, what, str(row.arrays), f"{row.worst:.1e}", limit, verdict))
        widths = [max(map(len, column)) for column in list(zip(*cells, strict=True))[:-1]]
        return "\n".join(_line(line, widths) for line in cells)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    case, what, *numbers, verdict = cells
    left = [case.ljust(widths[0]), what.ljust(widths[1])]
    right = [number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True)]
    return "  ".join([*left, *right, verdict])
