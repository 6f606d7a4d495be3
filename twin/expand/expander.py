"""This module plans a demonstration from another initial configuration, or says why there is no such plan.

    demonstrations ─► contacts ─┐
    configuration ──────────────┴─► moved and bent ─► free motions: kept, or planned anew ─► timed ─► checked ─► Plan
                                                                                               └─► Reason

Nothing is simulated here; whether a plan does the task is for the twin to say (`twin.expand.tracker`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from protos.errors import InputError
from protos.schema import F64, Configuration
from twin.camera import invert
from twin.expand.checks import PathChecks, Reason
from twin.expand.demonstration import Contact, Demonstration, body_poses, contacts
from twin.expand.path import ToolPath, angle_between, evenly, joined, no_faster
from twin.expand.planner import Planner
from twin.expand.transfer import anchor_moves, bent, cost
from twin.randomize import Domain
from twin.robots import Robot
from twin.rotations import upright
from twin.tasks import Task

LOCKED_RAD = 0.15
"""A tool that does not turn is still measured as turned by a few degrees while it moves."""


@dataclass(frozen=True, kw_only=True)
class ExpansionSettings:
    """These settings say how demonstrations are carried over; the defaults suit a table-top task at 10 Hz."""

    contact_radius_m: float = 0.06
    """Tool travel around a grasp, a visit or a release in which the demonstrated path is kept as it is."""
    planned: float = 0.3
    """Share of the free motions that are planned anew even where the demonstrated one would do; 0 keeps its style."""
    speed: float = 0.8
    """Speed of free motions as a share of the largest action; what is left is for corrections."""
    clearance_m: float = 0.005
    """Free motions keep this far from the table and from every body."""
    attempts: int = 3
    """Demonstrations that are tried for one configuration, the nearest first."""
    tries_per_episode: float = 4.0
    """Give up when this many configurations were tried for every demonstration wanted."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("contact_radius_m", 0.0, 0.5),
            ("planned", 0.0, 1.0),
            ("speed", 0.05, 1.0),
            ("clearance_m", 0.0, 0.1),
            ("attempts", 1, 100),
            ("tries_per_episode", 1.0, 1000.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name}={getattr(self, name)}: {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan is a tool path that should do the task from a configuration."""

    configuration: Configuration
    path: ToolPath
    """One pose per control step, no faster than the task's actions."""
    demonstration: str
    """Name of the demonstration that it was made from."""
    planned: int
    """Number of its free motions that were planned anew."""


class Expander:
    """An expander makes plans from a set of demonstrations of one task."""

    def __init__(
        self,
        robot: Robot,
        task: Task,
        demonstrations: Sequence[Demonstration],
        *,
        domain: Domain,
        settings: ExpansionSettings,
        seed: int,
    ) -> None:
        """Raises InputError without demonstrations, or for one in which nothing is grasped."""
        if not demonstrations:
            raise InputError("no demonstration to expand")
        self._task, self._settings = task, settings
        self._known = [(one, contacts(one, task, settings.contact_radius_m)) for one in demonstrations]
        self._rng = np.random.default_rng(seed)
        self._checks = PathChecks(robot, task, domain, settings.clearance_m)

    def plan(self, configuration: Configuration, attempt: int = 0) -> Plan | Reason:
        """Plans from the demonstration that is `attempt`-nearest to the configuration, 0 the nearest."""
        order = sorted(self._known, key=lambda known: cost(known[0], configuration, self._task.bodies))
        demonstration, found = order[attempt]
        moves = anchor_moves(demonstration, found, self._task, configuration)
        moved = _allowed(bent(demonstration.path, found, moves), self._task)
        if moved is None:
            return Reason.TURN
        made = self._timed(moved, found, configuration)
        if isinstance(made, Reason):
            return made
        path, planned = made
        reason = self._checks.reason(path, body_poses(self._task, configuration))
        if reason is not None:
            return reason
        return Plan(configuration=configuration, path=path, demonstration=demonstration.name, planned=planned)

    @property
    def choices(self) -> int:
        """Number of demonstrations to plan from."""
        return len(self._known)

    @property
    def checks(self) -> PathChecks:
        """Checks of plans, and of paths that were driven."""
        return self._checks

    def _timed(
        self, moved: ToolPath, found: Sequence[Contact], configuration: Configuration
    ) -> tuple[ToolPath, int] | Reason:
        """Returns the moved path in control steps, and how many of its free motions were planned."""
        scale, poses = self._task.action_scale, body_poses(self._task, configuration)
        parts, planned = [moved.part(0, 0)], 0
        carried: dict[str, F64] = {}
        for before, contact in pairwise(found):
            first = before.last
            if contact.first - before.last > 1:
                way = self._free_motion(moved.part(before.last, contact.first), poses, carried)
                if way is None:
                    return Reason.NO_PATH
                planned, first = planned + way.anew, contact.first
                parts.append(_after_first(evenly(way.path, scale, self._settings.speed)))
            parts.append(_after_first(no_faster(moved.part(first, contact.last), scale)))
            event = moved.pose(contact.event)
            if contact.kind == "grasp":
                carried = {contact.anchor: invert(event) @ poses[contact.anchor]}
            elif contact.kind == "release":
                poses |= {name: event @ tcp_from_body for name, tcp_from_body in carried.items()}
                carried = {}
        return joined(parts), planned

    def _free_motion(self, way: ToolPath, poses: Mapping[str, F64], carried: Mapping[str, F64]) -> "_FreeMotion | None":
        """Returns the motion as it was bent, or planned anew: by chance, or because the bent one comes too near."""
        by_chance = self._rng.random() < self._settings.planned
        is_free = self._checks.is_free(way, poses, carried)
        if is_free and not by_chance:
            return _FreeMotion(way, anew=False)
        start = way.pose(0)
        planner = Planner(self._task.work_box, self._checks.pose_check(poses, carried), self._rng)
        corners = planner.plan(start, way.pose(len(way) - 1), self._checks.joints(start))
        if corners is None:
            return _FreeMotion(way, anew=False) if is_free else None
        closed = np.full(len(corners), bool(carried))
        path = ToolPath(positions=corners.positions, rotations=corners.rotations, closed=closed)
        return _FreeMotion(path, anew=True)


class _FreeMotion(NamedTuple):
    path: ToolPath
    anew: bool


def _allowed(path: ToolPath, task: Task) -> ToolPath | None:
    """Limits rotations to what the task's actions can make; None where it turns and the task's tool does not."""
    if task.action_scale[1] > 0:
        leaning = upright(path.rotations, task.tilt_rad)
        return ToolPath(positions=path.positions, rotations=leaning, closed=path.closed)
    level = path.rotations[0]
    if angle_between(path.rotations, level).max() > LOCKED_RAD:
        return None
    return ToolPath(
        positions=path.positions, rotations=np.broadcast_to(level, path.rotations.shape), closed=path.closed
    )


def _after_first(path: ToolPath) -> ToolPath:
    """Drops the first pose, which ends the part before."""
    return path.part(1, len(path) - 1)
