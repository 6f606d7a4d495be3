"""This module plans a collision-free way of the tool from one pose to another.

    straight ──blocked──► over a point above ──blocked──► RRT-Connect (Kuffner and LaValle 2000), then shortcuts

A state is four numbers: position [m] and how much of the turn from the first to the last rotation is done, scaled to
0.1 m per radian. Moving between states is a straight line of the tool, which is what actions can follow; each is
checked every centimetre by whoever knows the world (`Check`), which also solves the joints from those before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np

from protos.schema import F64
from protos.space import Box
from twin.expand.path import ToolPath, angle_between, slerp

METRES_PER_RAD = 0.1
RESOLUTION_M = 0.01
REACH_M = 0.06
"""Longest step of a tree."""
ITERATIONS = 300
SHORTCUTS = 60
ABOVE_M = (0.04, 0.08, 0.14, 0.2)


class Check(Protocol):
    """A check says whether one tool pose is free and within reach."""

    def __call__(self, position: F64, rotation: F64, near: F64) -> F64 | None:
        """Returns joint angles that reach it, close to `near`, or None where it is not free or not to be reached."""
        ...


@dataclass
class _Tree:
    """A tree holds states that are connected with its first one."""

    states: list[F64]
    joints: list[F64]
    parents: list[int] = field(default_factory=lambda: [-1])

    def nearest(self, state: F64) -> int:
        return int(np.argmin(np.linalg.norm(np.array(self.states) - state, axis=1)))

    def add(self, state: F64, joints: F64, parent: int) -> int:
        self.states.append(state)
        self.joints.append(joints)
        self.parents.append(parent)
        return len(self.states) - 1

    def way(self, index: int) -> list[F64]:
        """Returns the states from one back to the first."""
        found = []
        while index >= 0:
            found.append(self.states[index])
            index = self.parents[index]
        return found


class Planner:
    """A planner finds ways between poses inside a work box."""

    def __init__(self, box: Box, check: Check, rng: np.random.Generator) -> None:
        self._low = np.array([box.x[0], box.y[0], box.z[0]])
        self._high = np.array([box.x[1], box.y[1], box.z[1]])
        self._check, self._rng = check, rng

    def plan(self, start: F64, goal: F64, joints: F64) -> ToolPath | None:
        """Returns corner poses of a free way from `start` to `goal` (4, 4), the gripper open; None when none is found.

        `joints` (joints,) [rad] reach the start.
        """
        turn = float(angle_between(start[:3, :3], goal[:3, :3])) * METRES_PER_RAD
        first, last = np.append(start[:3, 3], 0.0), np.append(goal[:3, 3], turn)
        self._start, self._goal, self._turn = start[:3, :3], goal[:3, :3], turn
        for corners in ([first, last], *self._above(first, last)):
            if self._clear(corners, joints):
                return self._path(corners)
        corners = self._connect(first, last, joints)
        return None if not corners else self._path(self._shortened(corners, joints))

    def _above(self, first: F64, last: F64) -> list[list[F64]]:
        """Returns ways up, across and down, at several heights."""
        ways = []
        for rise in ABOVE_M:
            z = min(max(first[2], last[2]) + rise, self._high[2])
            ways.append([first, np.array([*first[:2], z, first[3]]), np.array([*last[:2], z, last[3]]), last])
        return ways

    def _connect(self, first: F64, last: F64, joints: F64) -> list[F64]:
        reached = self._check(last[:3], self._rotation(last), joints)
        if reached is None:
            return []
        grown, other = _Tree([first], [joints]), _Tree([last], [reached])
        for _ in range(ITERATIONS):
            drawn = np.append(self._rng.uniform(self._low, self._high), self._rng.uniform(0, max(self._turn, 0.0)))
            new = self._extend(grown, drawn)
            if new is not None:
                met = self._grow(other, grown.states[new])
                if met is not None:
                    ways = grown.way(new)[::-1] + other.way(met)[1:]
                    return ways if np.array_equal(ways[0], first) else ways[::-1]
            grown, other = other, grown
        return []

    def _extend(self, tree: _Tree, towards: F64) -> int | None:
        """Steps at most `REACH_M` from the nearest state; returns the new state's number, None when it is blocked."""
        nearest = tree.nearest(towards)
        way = towards - tree.states[nearest]
        length = float(np.linalg.norm(way))
        state = tree.states[nearest] + way * min(1.0, REACH_M / max(length, 1e-9))
        joints = self._walk(tree.states[nearest], state, tree.joints[nearest])
        return None if joints is None else tree.add(state, joints, nearest)

    def _grow(self, tree: _Tree, goal: F64) -> int | None:
        """Steps towards `goal` until it is reached (its number) or blocked (None)."""
        while True:
            new = self._extend(tree, goal)
            if new is None or np.linalg.norm(tree.states[new] - goal) < 1e-9:
                return new

    def _shortened(self, corners: list[F64], joints: F64) -> list[F64]:
        """Leaves out corners wherever the straight line between two others is free."""
        for _ in range(SHORTCUTS):
            if len(corners) <= 2:
                break
            i, j = sorted(self._rng.choice(len(corners), 2, replace=False))
            if j - i > 1 and self._clear([*corners[: i + 1], *corners[j:]], joints):
                corners = [*corners[: i + 1], *corners[j:]]
        return corners

    def _clear(self, corners: Sequence[F64], joints: F64) -> bool:
        at: F64 | None = joints
        for a, b in pairwise(corners):
            at = self._walk(a, b, at) if at is not None else None
        return at is not None

    def _walk(self, a: F64, b: F64, joints: F64) -> F64 | None:
        """Returns joint angles at `b` when every pose on the straight line from `a` is free, else None."""
        count = max(int(np.ceil(np.linalg.norm(b - a) / RESOLUTION_M)), 1)
        at: F64 | None = joints
        for share in np.arange(1, count + 1) / count:
            state = a + share * (b - a)
            at = self._check(state[:3], self._rotation(state), joints)
            if at is None:
                return None
            joints = at
        return joints

    def _rotation(self, state: F64) -> F64:
        share = state[3] / self._turn if self._turn > 0 else 0.0
        return slerp(self._start, self._goal, np.array([share]))[0]

    def _path(self, corners: Sequence[F64]) -> ToolPath:
        return ToolPath(
            positions=np.stack([corner[:3] for corner in corners]),
            rotations=np.stack([self._rotation(corner) for corner in corners]),
            closed=np.zeros(len(corners), bool),
        )
