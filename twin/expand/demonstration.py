"""This module reads a demonstration as expansion needs it: the tool's path and its contacts with bodies.

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

from protos.episode import Episode
from protos.errors import InputError
from protos.schema import F64, GRIPPER_ACTION, TCP_POSE, Bools, Configuration
from twin.camera import invert, pose_of
from twin.expand.path import ToolPath
from twin.rotations import TOOL_DOWN, about_z, matrix_from_vector
from twin.tasks import TOOL, Task

MISSED_M = 0.02
"""A body let go of within this distance was not grasped."""


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A demonstration is one successful episode of a task, of whatever arm."""

    name: str
    configuration: Configuration
    path: ToolPath

    @classmethod
    def of(cls, episode: Episode) -> "Demonstration":
        """Reads an episode's tool poses, gripper commands and configuration.

        The gripper's command at the last pose is that of the last action. Raises InputError for an episode without
        poses of its objects, with NaN, shorter than two steps, or one that begins with the gripper closed.
        """
        name, configuration, action = episode.name, episode.configuration, episode.action
        proprio = episode.observation.proprio
        if len(action) < 2 or len(proprio) != len(action) + 1:
            raise InputError(
                f"demonstration {name}: {len(action)} actions and {len(proprio)} observations; "
                "at least 2 actions and one observation more are needed"
            )
        pose = proprio[:, TCP_POSE].astype(float)
        closed = action[:, GRIPPER_ACTION] < 0
        if not configuration.poses:
            raise InputError(f"demonstration {name}: it does not say where the objects were, so it cannot be moved")
        if not (np.isfinite(pose).all() and np.isfinite(action).all()):
            raise InputError(f"demonstration {name}: NaN or infinity among its poses or actions")
        if closed[0]:
            raise InputError(f"demonstration {name}: it begins with the gripper closed; it must begin open")
        path = ToolPath(
            positions=pose[:, :3],
            rotations=matrix_from_vector(pose[:, 3:]),
            closed=without_misses(np.append(closed, closed[-1]), pose[:, :3]),
        )
        return cls(name=name, configuration=configuration, path=path)


def without_misses(closed: Bools, positions: F64) -> Bools:
    """Removes from the gripper's commands (T,) those that grasped nothing: it opened again before it had moved."""
    kept = closed.copy()
    edges = np.flatnonzero(np.diff(closed.astype(int))) + 1
    for close, release in zip(edges[::2], edges[1::2], strict=False):
        if np.linalg.norm(positions[close : release + 1] - positions[close], axis=1).max() < MISSED_M:
            kept[close:release] = False
    return kept


def body_poses(task: Task, configuration: Configuration) -> dict[str, F64]:
    """Returns base_from_body (4, 4) of the task's bodies, as the configuration puts them."""
    poses = {name: task.pose(configuration, name) for name in task.bodies}
    return {name: pose_of((x, y, z), about_z(yaw)) for name, (x, y, z, yaw) in poses.items()}


def start_pose(task: Task, configuration: Configuration) -> F64:
    """Returns base_from_tcp (4, 4) at which an episode begins."""
    x, y, z, yaw = task.pose(configuration, TOOL)
    return pose_of((x, y, z), about_z(yaw) @ TOOL_DOWN)


Kind = Literal["start", "grasp", "visit", "release"]
MEETING_M = 0.12
"""A gripper that closes farther than this from every object grasps nothing; what it lets go of farther than this from
every other body slipped away."""
VISIT_M = 0.04
"""A held body comes to a fixed one when their origins are this near, seen from above."""


@dataclass(frozen=True, kw_only=True)
class Contact:
    """A contact is the steps `first`..`last` of a path that belong to one body, or to a group of fixed ones."""

    kind: Kind
    anchors: Mapping[str, F64]
    """Poses name -> base_from_body (4, 4) at that time; `TOOL` for the start pose. Only visits have several."""
    event: int
    """The step at which the gripper's command changes, or the first body is nearest."""
    until: int
    """The step at which the last body of a group is nearest, else the event."""
    first: int
    last: int

    @property
    def anchor(self) -> str:
        """Name of its body; the first of a group."""
        return next(iter(self.anchors))


def contacts(demonstration: Demonstration, task: Task, radius_m: float) -> list[Contact]:
    """Finds the contacts of a demonstration, in order and apart from each other; the first is the tool's start.

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
    """Joins visits in a row that are near each other."""
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
    """Returns the last step from `event` towards `limit` up to which the tool stays within `radius_m`."""
    towards = 1 if limit >= event else -1
    at = event
    while at != limit and np.linalg.norm(path.positions[at + towards] - path.positions[event]) <= radius_m:
        at += towards
    return at


def _events(demonstration: Demonstration, task: Task) -> list[Contact]:
    """Finds grasps, visits and releases with the bodies' poses at that time; spans are single steps."""
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
    """Finds the fixed bodies that a held one, at poses (k, 4, 4) from step `grasped` on, comes to, in that order."""
    found = []
    for name, pose in fixed.items():
        apart = np.linalg.norm(carried[:, :2, 3] - pose[:2, 3], axis=1)
        step = int(np.argmin(apart))
        if apart[step] <= VISIT_M and step > 0:
            found.append(_contact("visit", name, pose, grasped + step))
    return sorted(found, key=lambda visit: visit.event)


def _nearest(poses: Mapping[str, F64], names: Sequence[str], place: F64, what: str) -> str:
    """Returns the body whose origin is nearest to a place (3,). Raises InputError when none is near."""
    apart = {name: float(np.linalg.norm(poses[name][:3, 3] - place)) for name in names}
    best = min(apart, key=lambda name: apart[name], default=None)
    if best is None or apart[best] > MEETING_M:
        raise InputError(f"demonstration {what}, farther than {MEETING_M} m from {', '.join(names) or 'any body'}")
    return best


def _contact(kind: Kind, anchor: str, pose: F64, step: int) -> Contact:
    return Contact(kind=kind, anchors={anchor: pose}, event=step, until=step, first=step, last=step)
