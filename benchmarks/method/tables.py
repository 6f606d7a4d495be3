"""This module writes the comparison of the method as markdown, its medians over labs with bootstrap intervals."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.measure import table
from benchmarks.method.arms import ARMS, ArmName, StartName
from benchmarks.method.measures import Point, area, dip, median_interval
from benchmarks.method.units import Trial

Found = Mapping[tuple[str, int], Trial]
"""Trials by arm, or by start-<start>, and lab."""
NONE = "–"
COLUMNS = (
    "arm of the comparison",
    "labs",
    "converged",
    "steps to converge",
    "robot minutes to converge",
    "episodes with help until then",
    "episodes with help",
    "A / B before [%]",
    "A / B after [%]",
    "dip [points]",
    "mean success over the practice [%]",
)


def tables(task: str, labs: Sequence[int], arms: Sequence[ArmName], found: Found) -> str:
    """Returns the table of the arms, and the success of every policy that was tried."""
    rows = [_row(name, labs, found) for name in arms]
    curves = [_curve(name, lab, found) for name in arms for lab in labs if (name, lab) in found]
    head = f"Task {task}, labs {', '.join(map(str, labs))}. Medians over labs (95 % bootstrap intervals)."
    text = f"{head}\n\n{table(COLUMNS, rows)}\n"
    columns = ("arm of the comparison", "lab", "steps: A / B of the rollouts per region")
    return f"{text}\n{table(columns, curves)}\n" if curves else text


def points(name: ArmName, lab: int, found: Found) -> list[Point]:
    """Returns the policies of a practice that were tried, that of its start first."""
    start = found.get((start_key(ARMS[name].start), lab))
    return [*(start.points if start is not None else ()), *found[name, lab].points]


def start_key(start: StartName) -> str:
    """Returns the name of the trial of a start."""
    return f"start-{start}"


def _row(name: ArmName, labs: Sequence[int], found: Found) -> list[str]:
    there = [lab for lab in labs if (name, lab) in found]
    if not there:
        return [ARMS[name].title, "0", *[NONE] * (len(COLUMNS) - 2)]
    done = [practice for lab in there if (practice := found[name, lab].practice) is not None]
    curves = [points(name, lab, found) for lab in there]
    converged = [each.converged_steps for each in done if each.converged_steps is not None]
    return [
        ARMS[name].title,
        str(len(there)),
        f"{len(converged)} of {len(done)}",
        _spread(_or_never(each.converged_steps) for each in done),
        _spread((_or_never(each.converged_min) for each in done), 1),
        _spread(each.helped_until for each in done),
        _spread(each.helped for each in done),
        _regions(curves, lambda curve: curve[0]),
        _regions(curves, lambda curve: curve[-1]),
        _spread(100 * dip(curve) for curve in curves),
        _spread(100 * area(curve) for curve in curves),
    ]


def _or_never(value: float | None) -> float:
    return math.inf if value is None else value


def _spread(values: Iterable[float], decimals: int = 0) -> str:
    middle, low, high = (
        "never" if math.isinf(each) else f"{each:,.{decimals}f}" for each in median_interval(list(values))
    )
    return f"{middle} ({low} – {high})"


def _regions(curves: Sequence[Sequence[Point]], chosen: Callable[[Sequence[Point]], Point]) -> str:
    found = [chosen(curve) for curve in curves]
    return " / ".join(_spread(100 * each.share(region) for each in found) for region in ("A", "B"))


def _curve(name: ArmName, lab: int, found: Found) -> list[str]:
    texts = [
        f"{each.steps:,}: {' / '.join(str(each.successes[region]) for region in sorted(each.successes))}"
        for each in points(name, lab, found)
    ]
    return [ARMS[name].title, str(lab), ", ".join(texts)]
