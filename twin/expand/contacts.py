"""Where a demonstration works at something, and at what.

    gripper   open ──────────────── closes ─────────────────────── opens ──────────
    path      start ··· approach ··[ grasp ]··· carry ···[visit]···[ release ]  end
    anchor    tool                  cube                  mark        disc

A contact is a stretch of steps that belongs to one body, its anchor: around a grasp the object that is grasped, around
a release the body that the object is put to, and while something is held every fixed body that it comes to (a hole, a
mark to be wiped away; several that lie together are one). The tool keeps its path relative to the anchor there; what
lies between contacts is free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal

import numpy as np

from protos.errors import InputError
from protos.schema import F64
from twin.camera import invert
from twin.expand.demonstration import Demonstration, body_poses
from twin.expand.path import ToolPath
from twin.tasks import TOOL, Task

Kind = Literal["start", "grasp", "visit", "release"]
MEETING_M = 0.12
"""A gripper that closes farther than this from every object grasps nothing; what it lets go of farther than this from
every other body slipped away."""
VISIT_M = 0.04
"""What is held comes to a fixed body when their origins are this near, seen from above."""


@dataclass(frozen=True, kw_only=True)
class Contact:
    """Steps `first`..`last` of a path that belong to one body, or to a group of fixed ones."""

    kind: Kind
    anchors: Mapping[str, F64]
    """Name -> base_from_body (4, 4), where it was; `TOOL` for the start pose. Only visits have several."""
    event: int
    """The step at which the gripper's command changes, or the first body is nearest."""
    until: int
    """The step at which the last body of a group is nearest, else the event."""
    first: int
    last: int

    @property
    def anchor(self) -> str:
        """Its body; the first of a group."""
        return next(iter(self.anchors))


def contacts(demonstration: Demonstration, task: Task, radius_m: float) -> list[Contact]:
    """The contacts of a demonstration, in order and apart from each other; the first is the start of the tool.

    A contact reaches `radius_m` of tool travel to either side of its events; the last one reaches to the path's end.
    Visits that are within this distance of each other are one contact. Raises InputError when the gripper closes or
    opens away from every body, or nothing is ever done.
    """
    path = demonstration.path
    found = _grouped(_events(demonstration, task), path, radius_m)
    if not found:
        raise InputError(f"demonstration {demonstration.name}: the gripper never closes, so nothing is done in it")
    spans = [_contact("start", TOOL, path.pose(0), 0)]
    for number, event in enumerate(found):
        before = max(spans[-1].until, spans[-1].last) + 1
        if number + 1 == len(found):
            after, last = len(path) - 1, len(path) - 1
        else:
            after = found[number + 1].event - 1
            last = _reach(path, event.until, after, radius_m)
        spans.append(replace(event, first=_reach(path, event.event, before, radius_m), last=last))
    return spans


def _grouped(events: list[Contact], path: ToolPath, radius_m: float) -> list[Contact]:
    """Visits in a row that are near each other become one."""
    found: list[Contact] = []
    for event in events:
        before = found[-1] if found else None
        if before is not None and event.kind == before.kind == "visit":
            apart = np.linalg.norm(path.positions[event.event] - path.positions[before.until])
            if apart <= radius_m:
                found[-1] = replace(before, anchors={**before.anchors, **event.anchors}, until=event.event)
                continue
        found.append(event)
    return found


def _reach(path: ToolPath, event: int, limit: int, radius_m: float) -> int:
    """The last step on the way from `event` to `limit` up to which the tool stays within `radius_m`."""
    towards = 1 if limit >= event else -1
    at = event
    while at != limit and np.linalg.norm(path.positions[at + towards] - path.positions[event]) <= radius_m:
        at += towards
    return at


def _events(demonstration: Demonstration, task: Task) -> list[Contact]:
    """Grasps, visits and releases with the bodies where they were then; spans are single steps."""
    path, poses = demonstration.path, body_poses(task, demonstration.configuration)
    changes = [int(step) for step in np.flatnonzero(np.diff(path.closed.astype(int))) + 1]
    found: list[Contact] = []
    for close, release in zip_longest(changes[::2], changes[1::2]):
        end = len(path) - 1 if release is None else release
        held = _nearest(poses, task.free_bodies, path.positions[close], f"{demonstration.name} grasps at step {close}")
        tcp_from_held = invert(path.pose(close)) @ poses[held]
        carried = np.stack([path.pose(at) @ tcp_from_held for at in range(close, end + 1)])
        others = [name for name in task.bodies if name != held]
        what = f"{demonstration.name} lets go at step {end}"
        goal = None if release is None else _nearest(poses, others, carried[-1][:3, 3], what)
        found.append(_contact("grasp", held, poses[held], close))
        fixed = {name: poses[name] for name in task.fixed_bodies if name != goal}
        found += _visits(carried if goal is None else carried[:-1], close, fixed)
        if goal is not None:
            found.append(_contact("release", goal, poses[goal], end))
        poses[held] = carried[-1]
    return found


def _visits(carried: F64, grasped: int, fixed: Mapping[str, F64]) -> list[Contact]:
    """Fixed bodies that a held one, at poses (k, 4, 4) from step `grasped` on, comes to; in the order of the steps."""
    found = []
    for name, pose in fixed.items():
        apart = np.linalg.norm(carried[:, :2, 3] - pose[:2, 3], axis=1)
        step = int(np.argmin(apart))
        if apart[step] <= VISIT_M and step > 0:
            found.append(_contact("visit", name, pose, grasped + step))
    return sorted(found, key=lambda visit: visit.event)


def _nearest(poses: Mapping[str, F64], names: Sequence[str], place: F64, what: str) -> str:
    """The body whose origin is nearest to a place (3,). Raises InputError when none is near."""
    apart = {name: float(np.linalg.norm(poses[name][:3, 3] - place)) for name in names}
    best = min(apart, key=lambda name: apart[name], default=None)
    if best is None or apart[best] > MEETING_M:
        raise InputError(f"demonstration {what}, farther than {MEETING_M} m from {', '.join(names) or 'any body'}")
    return best


def _contact(kind: Kind, anchor: str, pose: F64, step: int) -> Contact:
    return Contact(kind=kind, anchors={anchor: pose}, event=step, until=step, first=step, last=step)
