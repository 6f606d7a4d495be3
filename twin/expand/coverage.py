"""This module counts per grid cell where twin demonstrations were made, and why not elsewhere.

region A, x from -0.62 (top) to -0.48, y from 0.06 (left) to 0.20        accepted / tried
     3/3   3/4   3/3   3/3
     ...
not kept: 1 no path, 2 not done
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from protos.space import ConfigurationSpace
from twin.expand.checks import Reason


@dataclass(kw_only=True)
class Coverage:
    """A coverage counts one expansion; a configuration counts once for every demonstration tried on it."""

    space: ConfigurationSpace
    accepted: Counter[int] = field(default_factory=Counter)
    """Episodes kept, by cell."""
    rejected: dict[int, Counter[Reason]] = field(default_factory=dict)
    """Reasons against the others, by cell."""

    def accept(self, cell: int) -> None:
        self.accepted[cell] += 1

    def reject(self, cell: int, reason: Reason) -> None:
        self.rejected.setdefault(cell, Counter())[reason] += 1

    def tried(self, cell: int) -> int:
        """Returns the number of plans accepted and rejected in a cell."""
        return self.accepted[cell] + sum(self.rejected.get(cell, Counter()).values())

    @property
    def reasons(self) -> Counter[Reason]:
        """Rejections by reason, over all cells."""
        return sum(self.rejected.values(), Counter())

    @property
    def kept(self) -> int:
        """Episodes accepted over all cells."""
        return sum(self.accepted.values())

    @property
    def rate(self) -> float:
        """Share of the tried plans that were accepted; 0 before the first."""
        return self.kept / max(self.kept + sum(self.reasons.values()), 1)

    def cells_of(self, region: str) -> range:
        """Returns the cells of a region."""
        per_region = self.space.rows * self.space.columns
        first = list(self.space.regions).index(region) * per_region
        return range(first, first + per_region)

    def accepted_in(self, region: str) -> int:
        """Returns the number of episodes kept in a region."""
        return sum(self.accepted[cell] for cell in self.cells_of(region))

    def table(self) -> str:
        """Formats the counts for people: one block per region, a row of cells per line, then the reasons."""
        lines = []
        for name, box in self.space.regions.items():
            cells = list(self.cells_of(name))
            filled = sum(self.accepted[cell] > 0 for cell in cells)
            lines.append(
                f"region {name}: {self.accepted_in(name)} accepted of {sum(map(self.tried, cells))}, "
                f"{filled} of {len(cells)} cells; x {box.x[0]:g} (top) to {box.x[1]:g} m, "
                f"y {box.y[0]:g} (left) to {box.y[1]:g} m"
            )
            for row in range(self.space.rows):
                here = cells[row * self.space.columns : (row + 1) * self.space.columns]
                lines.append("  " + " ".join(f"{self.accepted[cell]:>3}/{self.tried(cell):<3}" for cell in here))
        told = ", ".join(f"{count} {reason.value}" for reason, count in self.reasons.most_common())
        return "\n".join([*lines, f"not kept: {told or 'none'}"])

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: totals, then one entry per cell that was tried."""
        cells = [cell for cell in range(self.space.cells) if self.tried(cell)]
        return {
            "accepted": self.kept,
            "tried": self.kept + sum(self.reasons.values()),
            "rejected": _named(self.reasons),
            "regions": {name: self.accepted_in(name) for name in self.space.regions},
            "cells": [
                {
                    "cell": cell,
                    "region": self.space.cell_box(cell)[0],
                    "accepted": self.accepted[cell],
                    "rejected": _named(self.rejected.get(cell, Counter())),
                }
                for cell in cells
            ],
        }


def _named(reasons: Mapping[Reason, int]) -> dict[str, int]:
    return {reason.value: count for reason, count in reasons.items()}
