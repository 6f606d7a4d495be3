"""This module measures how far an arm is from itself, the table and the obstacles, for several postures at once.

    joints (n, 6) ─► frames ─► ends of the bars ─┬─► bar to bar ─────────┐
                                                 ├─► bar to table ───────┼─► gaps (n, pairs), negative in an overlap
                                                 └─► piece of bar to hull ┘

Guarded are the links, the gripper's body and its fingers: against the arm itself and the obstacles, without the fingers
against the table. Nothing is guarded against what a task moves or works on, nor is what the gripper holds. Left out are
pairs that no posture brings together: links next to each other, and the first ones against their own neighbours.
"""

import math
from collections.abc import Sequence

import numpy as np

from actors.real.collisions.obstacles import Hull
from actors.real.collisions.shapes import TCP, Bar, bars
from actors.real.kinematics import MODELS, ArmKinematics, ModelName
from protos.schema import F64
from twin.robots import ROBOTIQ_2F85

TABLE = "table"
_APART: Sequence[tuple[tuple[str, ...], tuple[str, ...]]] = (
    (("base",), ("forearm", "wrist 1", "wrist 2", "wrist 3", "gripper", "fingers")),
    (("upper arm",), ("wrist 1", "wrist 2", "wrist 3", "gripper", "fingers")),
    (("forearm",), ("wrist 3", "gripper", "fingers")),
)
"""Bodies of the arm that can meet."""
_FIXED, _AT_WORK = "base", "fingers"
PIECE_M = 0.05
"""A bar meets hulls in pieces no longer than this: each is held apart by one plane of a hull."""
TINY = 1e-9
STILL_M = 1e-6
"""Gaps that shrink by less do not shrink."""
MOST_POSTURES = 40
"""Postures that are looked at on one way."""


class Guard:
    """Keeps the bars of one arm apart by a clearance; the tool is where the kinematics have it."""

    def __init__(
        self, kinematics: ArmKinematics, model: ModelName, clearance_m: float, hulls: Sequence[Hull] = ()
    ) -> None:
        self._kinematics, self._clearance_m = kinematics, clearance_m
        all_bars = bars(MODELS[model], ROBOTIQ_2F85)
        self._steps = kinematics.steps()
        pairs = [
            (one, other)
            for ours, theirs in _APART
            for one, bar in enumerate(all_bars)
            for other, with_bar in enumerate(all_bars)
            if bar.body in ours and with_bar.body in theirs
        ]
        self._first, self._second = np.array(pairs).T
        self._over_table = np.array([k for k, bar in enumerate(all_bars) if bar.body not in (_FIXED, _AT_WORK)], int)
        self._take_bars(all_bars)
        self._take_hulls([bar for bar in all_bars if bar.body != _FIXED], hulls)
        names = [bar.body for bar in all_bars]
        self._names = [(names[a], names[b]) for a, b in pairs] + [(names[k], TABLE) for k in self._over_table]
        self._names += [(piece, hull.name) for piece in self._piece_names for hull in hulls]
        reach = np.linalg.norm(self._steps[:, :3, 3], axis=1)
        reach[-1] += ROBOTIQ_2F85.tcp_m
        self._reach: F64 = np.cumsum(reach[::-1])[::-1]
        """Farthest that a point of the arm moves per turn of each joint (6,) [m/rad]."""
        self._measured_at, self._room_m = np.zeros(6), -math.inf

    def _take_bars(self, all_bars: Sequence[Bar]) -> None:
        self._frames_of = np.array([bar.frame for bar in all_bars])
        self._ends: F64 = np.array([(bar.start, bar.end) for bar in all_bars])  # (bars, 2, 3)
        self._radii: F64 = np.array([bar.radius for bar in all_bars])
        squares = np.square(self._ends[:, 1] - self._ends[:, 0]).sum(1)
        self._a, self._e = squares[self._first], squares[self._second]
        self._sum_of_radii = self._radii[self._first] + self._radii[self._second]

    def _take_hulls(self, moving: Sequence[Bar], hulls: Sequence[Hull]) -> None:
        """Cuts bars into pieces: shares of the ways from start to end."""
        frames, ends, radii, names = [], [], [], []
        for bar in moving:
            start, end = np.array(bar.start), np.array(bar.end)
            cuts = np.linspace(0, 1, int(np.ceil(np.linalg.norm(end - start) / PIECE_M)) + 1)[:, None]
            points = start + cuts * (end - start)
            ends += list(np.stack([points[:-1], points[1:]], 1))
            frames += [bar.frame] * (len(points) - 1)
            radii += [bar.radius] * (len(points) - 1)
            names += [bar.body] * (len(points) - 1)
        self._piece_frames, self._piece_ends = np.array(frames), np.array(ends)
        self._piece_radii, self._piece_names = np.array(radii), names
        self._planes = np.concatenate([hull.planes for hull in hulls]) if hulls else np.zeros((0, 4))
        self._hull_starts = np.cumsum([0, *(len(hull.planes) for hull in hulls)])[:-1]

    def gaps(self, joints: F64) -> F64:
        """Returns the gap (n, pairs) [m] of every pair at joints (n, 6) [rad]; negative where they overlap."""
        frames = self._frames(joints)
        ends = _placed(frames, self._frames_of, self._ends)
        found = [self._between(ends), ends[..., 2].min(-1)[:, self._over_table] - self._radii[self._over_table]]
        if len(self._planes):
            found.append(self._to_hulls(_placed(frames, self._piece_frames, self._piece_ends)))
        return np.concatenate(found, axis=1)

    def met(self, joints: F64, *ways: F64) -> str:
        """Returns which pair comes too close on ways (6,) of the joints, one after another from `joints` (6,) [rad].

        Too close is nearer than the clearance, or, where it was nearer at first, nearer than then. Empty if none does.
        Gaps are measured at steps of the clearance at most, and not at all where no point can have moved far enough.
        """
        travels = [float(np.abs(way) @ self._reach) for way in ways]
        if float(np.abs(joints - self._measured_at) @ self._reach) + sum(travels) < self._room_m:
            return ""
        rows = [joints[None]]
        for way, travel in zip(ways, travels, strict=True):
            count = min(max(1, math.ceil(travel / self._clearance_m)), MOST_POSTURES)
            rows.append(rows[-1][-1] + way * (np.arange(1, count + 1) / count)[:, None])
        gaps = self.gaps(np.concatenate(rows))
        self._measured_at, self._room_m = rows[-1][-1], float(gaps[-1].min()) - self._clearance_m
        short = np.minimum(gaps[0], self._clearance_m) - STILL_M - gaps[1:].min(0)
        worst = int(short.argmax())
        return "the {} and the {}".format(*self._names[worst]) if short[worst] > 0 else ""

    def forget(self) -> None:
        """Forgets what was measured: the tool has changed."""
        self._room_m = -math.inf

    def _frames(self, joints: F64) -> F64:
        """Returns the frames (n, 8, 4, 4): base, joints, TCP."""
        cos, sin = np.cos(joints), np.sin(joints)
        turns = np.zeros((*joints.shape, 4, 4))
        turns[..., 0, 0] = turns[..., 1, 1] = cos
        turns[..., 0, 1], turns[..., 1, 0] = -sin, sin
        turns[..., 2, 2] = turns[..., 3, 3] = 1.0
        turns[:, 1:] = self._steps[:-1] @ turns[:, 1:]
        frames = np.empty((len(joints), TCP + 1, 4, 4))
        frames[:, 0], frames[:, 1] = np.eye(4), turns[:, 0]
        for k in range(1, TCP - 1):
            np.matmul(frames[:, k], turns[:, k], out=frames[:, k + 1])
        tool = np.eye(4)
        tool[:3, :3], tool[:3, 3] = self._kinematics.tool_rotation, self._kinematics.tool_position
        frames[:, TCP] = frames[:, TCP - 1] @ (self._steps[-1] @ tool)
        return frames

    def _between(self, ends: F64) -> F64:
        """Returns the distances of bars (n, pairs), by the closest points of two line segments.

        Source: Ericson, "Real-Time Collision Detection", 5.1.9.
        """
        a0, b0 = ends[:, self._first, 0], ends[:, self._second, 0]
        u, v, r = ends[:, self._first, 1] - a0, ends[:, self._second, 1] - b0, a0 - b0
        b, c, f = (np.einsum("npk,npk->np", *two) for two in ((u, v), (u, r), (v, r)))
        a, e = self._a, self._e
        s = _share((b * f - c * e) / np.maximum(a * e - b * b, TINY))
        t = _share((b * s + f) / e)
        s = _share((b * t - c) / a)
        apart = r + s[..., None] * u - t[..., None] * v
        return np.asarray(np.sqrt(np.einsum("npk,npk->np", apart, apart)) - self._sum_of_radii)

    def _to_hulls(self, ends: F64) -> F64:
        """Returns the distances of pieces to hulls (n, pieces x hulls), by the plane that keeps both ends farthest."""
        beyond = (ends @ self._planes[:, :3].T - self._planes[:, 3]).min(axis=2)  # (n, pieces, planes)
        far = np.maximum.reduceat(beyond, self._hull_starts, axis=2)
        return (far - self._piece_radii[:, None]).reshape(len(ends), -1)


def _placed(frames: F64, numbers: F64, points: F64) -> F64:
    """Returns points (m, 2, 3) of frames `numbers` (m,) in the base frame: (n, m, 2, 3)."""
    chosen = frames[:, numbers]
    return np.asarray(points @ chosen[..., :3, :3].swapaxes(-1, -2) + chosen[..., None, :3, 3])


def _share(value: F64) -> F64:
    """Returns the nearest numbers from 0 to 1, sooner than `np.clip`."""
    return np.minimum(np.maximum(value, 0.0), 1.0)
