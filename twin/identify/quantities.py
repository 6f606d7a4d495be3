"""This module says what was found of each quantity, for people and for files."""

from collections.abc import Sequence
from dataclasses import dataclass

HEAD = ("quantity", "unit", "twin", "found", "95 %", "note")


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One property of the arm's world beside the twin's."""

    name: str
    unit: str
    before: float
    """Value in the middle of the twin."""
    found: float | None = None
    """Value in the arm's world; None where the episodes do not show it."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval, by episodes drawn with replacement."""
    note: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts of its row under `HEAD`."""
        interval = "" if self.low is None or self.high is None else f"{_number(self.low)} to {_number(self.high)}"
        found = "not observable" if self.found is None else _number(self.found)
        return self.name, self.unit, _number(self.before), found, interval, self.note


def table(quantities: Sequence[Quantity]) -> str:
    """Returns the quantities as aligned lines."""
    rows = [HEAD, *(each.cells for each in quantities)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 1e-4 else "0"
