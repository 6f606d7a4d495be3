"""This module shows an inspection as tables for a person."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from learner.datasets.inspection import Report
from learner.datasets.inspection.report import Pose

_NAMED = 5
"""Number of instructions and skipped episodes that are shown as text."""


def parts(report: Report) -> Iterator[Table | Text]:
    """Yields what is printed, in order."""
    yield _facts(report)
    if report.cameras:
        yield _cameras(report)
    if report.statistics:
        yield _statistics(report)
    for remark in report.remarks:
        yield Text("! ", style="bold yellow").append(remark, style="default")
    if report.settings is not None:
        yield Text("A settings file that reads it as understood here (--settings FILE writes it):", style="bold")
        yield Text(json.dumps(report.settings, indent=1, ensure_ascii=False))


def _table(*columns: str, title: str = "") -> Table:
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, show_header=bool(columns))
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _facts(report: Report) -> Table:
    table = _table()
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(report):
        table.add_row(name, Text(value))
    return table


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    """Yields the facts, by name."""
    ours = ", written by TwinRL" if report.written_by_twinrl else ""
    yield "dataset", f"{report.path}: {report.name}, {report.format}{ours}"
    length = report.lengths
    yield (
        "episodes",
        f"{report.episodes}; looked at {report.looked_at} with {length.total} steps, {length.shortest} to "
        f"{length.longest} each, {length.median} in the middle",
    )
    yield "rate", _rate(report)
    for name, pose in (("state", report.state), ("action", report.action)):
        yield name, pose.note or f"{pose.feature}: {pose.columns}"
        yield from _evidence(pose)
    yield "motion", _motion(report)
    if report.scale is not None:
        yield "scale", f"an action of 1 is {report.scale.metres:.4g} m, {report.scale.radians:.4g} rad per step"
    outcomes = ", ".join(f"{name} {count}" for name, count in report.outcomes.items()) or "none could be read"
    yield "outcomes", f"{outcomes}; told by {report.outcomes_by}"
    yield "skipped", _some(report.skipped) if report.skipped else "none of these"
    texts = [f"{text or '(empty)'} ({count})" for text, count in report.instructions.items()]
    yield "instructions", f"{len(texts)}: {_some(texts)}" if texts else "none"


def _some(items: Sequence[str]) -> str:
    return "; ".join(items[:_NAMED]) + (f" … and {len(items) - _NAMED} more" if len(items) > _NAMED else "")


def _rate(report: Report) -> str:
    rate = report.rate
    used = "not said" if rate.used_hz is None else f"{rate.used_hz:g} Hz"
    if rate.stamped_hz is None:
        return f"{used}; rows have no stamps"
    return (
        f"{used}; stamps {rate.stamped_hz:g} Hz, 1 in 100 is {1000 * rate.late_s:.1f} ms off, {rate.gaps} gaps, "
        f"longest period {rate.longest_s:.3g} s, {rate.back} go back"
    )


def _evidence(pose: Pose) -> Iterator[tuple[str, str]]:
    if pose.rotation is not None:
        yield "  rotation", f"{pose.rotation.guess}: {pose.rotation.reason}"
    grip = pose.gripper
    if grip is not None:
        kind = "two values" if grip.two_valued else "continuous"
        yield (
            "  gripper",
            f"{grip.low:.3g} to {grip.high:.3g}, {kind}; {100 * grip.starts_high:.0f} % of the episodes start at the "
            f"high end; correlation with the other side {grip.correlation:+.2f}",
        )


def _motion(report: Report) -> str:
    seen = report.motion
    if seen is None:
        return "unknown: actions and states cannot be compared"
    axes = ", ".join(
        f"{axis} {c:+.2f} (slope {s:.3g})" for axis, c, s in zip("xyz", seen.correlation, seen.slope, strict=True)
    )
    unit = f" in {seen.unit}" if seen.unit and seen.guess == "delta" and not report.written_by_twinrl else ""
    frame = f", {seen.frame} frame" if seen.guess == "delta" and seen.frame != "unclear" else ""
    return f"{seen.guess}{unit}{frame}: {seen}; per axis {axes}, lag {seen.lag}"


def _cameras(report: Report) -> Table:
    table = _table("camera", "size", "stored as", "rate", "")
    for camera in report.cameras:
        size = f"{camera.width} x {camera.height}" if camera.height else "?"
        stored = f"{camera.storage} {camera.codec}".strip()
        table.add_row(camera.name, size, stored, f"{camera.hz:g} Hz" if camera.hz else "", Text(camera.problem))
    return table


def _statistics(report: Report) -> Table:
    table = _table("number", "least", "1 %", "mean", "99 %", "largest")
    for column in report.statistics:
        values: list[Any] = [column.least, column.p01, column.mean, column.p99, column.largest]
        table.add_row(column.name, *(f"{value:.4g}" for value in values))
    return table
