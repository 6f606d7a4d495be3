"""This module says in sentences what a person should look at in a dataset before a policy learns from it."""

from collections.abc import Iterator

from learner.datasets.inspection.report import Report
from learner.datasets.settings import ForeignMapping
from protos.schema import CONTROL_HZ

_FEW = 3
_LATE_SHARE = 0.25
_REACH_M = 2.0


def remarks(report: Report, mapping: ForeignMapping | None, problem: str) -> Iterator[str]:
    """Yields remarks, the gravest first. `problem` is why the reader cannot read the data."""
    if report.looked_at and not report.lengths.total:
        yield f"none of the {report.looked_at} episodes looked at can be read: {'; '.join(report.skipped[:1])}"
        yield from _of_cameras(report)
        return
    if problem:
        yield f"it cannot be read as it is: {problem}"
    yield from _of_motion(report, mapping)
    yield from _of_rotation(report, mapping)
    yield from _of_time(report)
    yield from _of_cameras(report)
    yield from _of_episodes(report)


def _of_motion(report: Report, mapping: ForeignMapping | None) -> Iterator[str]:
    seen, written = report.motion, report.written_by_twinrl
    for what, pose in (("state", report.state), ("action", report.action)):
        if pose.note:
            yield f"{what}: {pose.note}"
    if seen is None:
        if not (report.state.note or report.action.note):
            yield "actions and states cannot be compared: nothing moves, or they differ in their rows"
        return
    if seen.guess == "absolute" and (mapping is None or mapping.action_form != "absolute"):
        yield f'actions are absolute poses, not motions: {seen}; "action_form": "absolute" converts them'
    if seen.guess == "unclear" and not written:
        yield f"actions follow neither the state's motion nor its poses: {seen}"
    if seen.guess == "delta" and seen.frame == "tool":
        base, tool = seen.frame_likeness
        yield (
            f"actions are motions in the tool's frame (likeness {tool:.2f}, in the base frame {base:.2f}), which are "
            "not read: turn them into the base frame first"
        )
    if seen.guess == "delta" and seen.lag and not written:
        yield f"states follow the actions {seen.lag} step(s) later"
    for each in report.statistics[:3]:
        if not written and max(abs(each.p01), abs(each.p99)) > _REACH_M and report.settings is None:
            yield f"{each.name} reaches {max(abs(each.least), abs(each.largest)):.3g}: further than an arm, in metres"
            return


def _of_rotation(report: Report, mapping: ForeignMapping | None) -> Iterator[str]:
    for what, pose in (("state", report.state), ("action", report.action)):
        if pose.rotation is None or report.written_by_twinrl or mapping is None:
            continue
        form = getattr(mapping, f"{what}_rotation")
        absolute = what == "state" or (report.motion is not None and report.motion.guess == "absolute")
        if absolute and pose.rotation.guess not in ("unclear", form):
            yield f"{what} rotation is more like {pose.rotation.guess} than {form}: {pose.rotation.reason}"
        if pose.rotation.degrees:
            yield f"{what} rotation is in degrees: {pose.rotation.reason}"


def _of_time(report: Report) -> Iterator[str]:
    rate = report.rate
    if rate.used_hz is None:
        yield 'the data do not say their rate; give it as "hz", without it nothing is resampled to the control rate'
    elif abs(rate.used_hz / CONTROL_HZ - 1.0) > 1e-3:
        yield f"recorded at {rate.used_hz:g} Hz; training resamples to control's {CONTROL_HZ:g} Hz"
    if rate.stamped_hz and rate.used_hz and not 0.8 < rate.stamped_hz / rate.used_hz < 1.25:
        yield f"stamps come at {rate.stamped_hz:g} Hz, {rate.used_hz:g} Hz are stated"
    if rate.back:
        yield f"{rate.back} stamp(s) go back in time"
    if rate.gaps:
        yield f"{rate.gaps} gap(s) between rows, the longest {rate.longest_s:.3g} s"
    if rate.stamped_hz and rate.late_s > _LATE_SHARE / rate.stamped_hz:
        yield f"stamps are uneven: 1 in 100 is {1000 * rate.late_s:.0f} ms early or late"


def _of_cameras(report: Report) -> Iterator[str]:
    for camera in report.cameras:
        if camera.problem:
            yield f"camera {camera.name}: {camera.problem}"
        elif camera.hz and report.rate.used_hz and abs(camera.hz / report.rate.used_hz - 1.0) > 0.02:
            yield f"camera {camera.name}: video of {camera.hz:g} Hz, rows of {report.rate.used_hz:g} Hz"
        if camera.height and camera.width != camera.height:
            ratio = f"{camera.width} x {camera.height}"
            yield f"camera {camera.name}: {ratio} is not square; resizing changes its aspect"


def _of_episodes(report: Report) -> Iterator[str]:
    if report.skipped:
        yield f"{len(report.skipped)} of the {report.looked_at} episodes looked at will be skipped"
    unknown = report.outcomes.get("unknown", 0)
    if unknown:
        yield f'the outcome of {unknown} episode(s) is unknown; "outcome" says it for all where the data do not'
    if report.instructions.get("", 0):
        yield f"{report.instructions['']} episode(s) have no instruction"
    for what, pose in (("state", report.state), ("action", report.action)):
        if pose.feature and pose.gripper is None:
            yield f"{what}: no gripper that moves"
    if 0 < report.looked_at < min(_FEW, report.episodes):
        yield f"only {report.looked_at} of {report.episodes} episodes were looked at"
