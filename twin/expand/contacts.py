"""Where a demonstration works at something, and at what.

    gripper   open ──────────────── closes ─────────────────────── opens ──────────
    path      start ··· approach ··[ grasp ]··· carry ···[visit]···[ release ]  end
    anchor    tool                  cube                  mark        disc

A contact is a stretch of steps that belongs to one body, its anchor: around a grasp the object that is grasped, around
a release the body that the object is put to, and while something is held every fixed body that it comes to (a hole, a
mark to be wiped away). The tool keeps its path relative to the anchor there; what lies between contacts is free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from protos.errors import InputError
from twin.camera import invert
from twin.expand.demonstration import Demonstration, body_poses
from twin.expand.path import ToolPath
from twin.rotations import F64
from twin.tasks.base import TOOL, Task

Kind = Literal["start", "grasp", "visit", "release"]
GRASP_REACH_M = 0.12
"""A gripper that closes farther than this from every object grasps nothing."""
VISIT_M = 0.04
"""What is held comes to a fixed body when their origins are this near, seen from above."""


@dataclass(frozen=True, kw_only=True)
class Contact:
    """Steps `first`..`last` of a path that belong to one body."""

    kind: Kind
    anchor: str
    """Name of the body; `TOOL` for the start pose."""
    base_from_anchor: F64
    """Where the body was (4, 4)."""
    event: int
    """The step at which the gripper's command changes, or the body is nearest."""
    first: int
    last: int


def contacts(demonstration: Demonstration, task: Task, radius_m: float) -> list[Contact]:
    """The contacts of a demonstration, in order and apart from each other; the first is the start of the tool.

    A contact reaches `radius_m` of tool travel to either side of its event; the last one reaches to the path's end.
    Raises InputError when the gripper closes away from every object, or nothing is ever done.
    """
    found = _events(demonstration, task)
    if not found:
        raise InputError(f"demonstration {demonstration.name}: the gripper never closes, so nothing is done in it")
    path = demonstration.path
    start = Contact(kind="start", anchor=TOOL, base_from_anchor=path.pose(0), event=0, first=0, last=0)
    spans = [start]
    for number, event in enumerate(found):
        before = max(spans[-1].event, spans[-1].last) + 1
        after = found[number + 1].event - 1 if number + 1 < len(found) else len(path) - 1
        first, last = _span(path, event.event, (before, after), radius_m)
        is_last = number + 1 == len(found)
        spans.append(_with_span(event, first, len(path) - 1 if is_last else last))
    return spans


def _with_span(event: Contact, first: int, last: int) -> Contact:
    return Contact(
        kind=event.kind,
        anchor=event.anchor,
        base_from_anchor=event.base_from_anchor,
        event=event.event,
        first=first,
        last=last,
    )


def _span(path: ToolPath, event: int, limits: tuple[int, int], radius_m: float) -> tuple[int, int]:
    """The stretch around `event`, within limits, in which the tool stays within `radius_m` of where it is then."""
    near = np.linalg.norm(path.positions - path.positions[event], axis=1) <= radius_m
    first = last = event
    while first > limits[0] and near[first - 1]:
        first -= 1
    while last < limits[1] and near[last + 1]:
        last += 1
    return first, last


def _events(demonstration: Demonstration, task: Task) -> list[Contact]:
    """Grasps, visits and releases with the bodies where they were then; spans are single steps."""
    path, poses = demonstration.path, body_poses(task, demonstration.configuration)
    changes = [int(step) for step in np.flatnonzero(np.diff(path.closed.astype(int))) + 1]
    found: list[Contact] = []
    for number, step in enumerate(changes):
        if not path.closed[step]:
            continue
        held = _nearest(poses, task.free_bodies, path.positions[step])
        if held is None or np.linalg.norm(poses[held][:3, 3] - path.positions[step]) > GRASP_REACH_M:
            raise InputError(
                f"demonstration {demonstration.name}: the gripper closes at step {step}, "
                f"farther than {GRASP_REACH_M} m from every object ({', '.join(task.free_bodies)})"
            )
        found.append(_contact("grasp", held, poses[held], step))
        until = changes[number + 1] if number + 1 < len(changes) else len(path) - 1
        released = number + 1 < len(changes)
        tcp_from_held = invert(path.pose(step)) @ poses[held]
        carried = np.stack([path.pose(at) @ tcp_from_held for at in range(step, until + 1)])
        found += _while_held(carried, step, poses, task, held=held, released=released)
        poses[held] = carried[-1]
    return found


def _while_held(
    carried: F64, grasped: int, poses: Mapping[str, F64], task: Task, *, held: str, released: bool
) -> list[Contact]:
    """Fixed bodies that a held one (poses (k, 4, 4) from step `grasped` on) comes to, and where it is let go."""
    places = carried[:, :3, 3]
    end, others = grasped + len(carried) - 1, [name for name in task.bodies if name != held]
    goal = _nearest(poses, others, places[-1]) if released else None
    visits = []
    for name in task.fixed_bodies:
        apart = np.linalg.norm(places[:, :2] - poses[name][:2, 3], axis=1)
        step = grasped + int(np.argmin(apart))
        if name != goal and apart.min() <= VISIT_M and grasped < step:
            visits.append(_contact("visit", name, poses[name], step))
    visits.sort(key=lambda visit: visit.event)
    distinct = [visit for k, visit in enumerate(visits) if k == 0 or visit.event > visits[k - 1].event]
    if released:
        anchor = held if goal is None else goal
        pose = carried[-1] if goal is None else poses[goal]
        return [visit for visit in distinct if visit.event < end] + [_contact("release", anchor, pose, end)]
    return distinct


def _nearest(poses: Mapping[str, F64], names: tuple[str, ...] | list[str], place: F64) -> str | None:
    """The body whose origin is nearest to a place (3,)."""
    return min(names, key=lambda name: float(np.linalg.norm(poses[name][:3, 3] - place)), default=None)


def _contact(kind: Kind, anchor: str, pose: F64, step: int) -> Contact:
    return Contact(kind=kind, anchor=anchor, base_from_anchor=pose, event=step, first=step, last=step)
