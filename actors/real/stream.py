"""This module leads the streamed targets of an arm to a goal, one after another, within its limits in robot time.

    goal ─► velocity towards it: speed, stops at the goal ─► acceleration ─► faces of the work box ─► joints ─► target
                ▲ velocity and time of the target before ◄────────────────────────────────────────────────────────┘

However late a target is, it moves on by one slice of the stream at most: time that was lost is not made up for by a
leap. A target that is more than one slice late finds the arm standing at the one before, and starts from rest.
"""

import math
from typing import NamedTuple

import numpy as np

from actors.real.kinematics import MODELS, ArmKinematics, ModelName, Posture
from actors.real.safety import CRAWL_M_S, CRAWL_RAD_S, Limits
from protos.proprioception import tool_vector
from protos.schema import F64
from twin.rotations import matrix_from_vector, turn_between, vector_from_matrix

JOINT_SPEED_SHARE = 0.8
"""Share of the data sheet's joint speeds that streamed targets may ask for."""
JOINT_BRAKING_SHARE = 0.9
"""The same while a tool brakes that comes too near to a singularity."""
RANGE_MARGIN_RAD = 0.05
"""Streamed targets end this far before the joint angles at which the arm is held."""
INSIDE_M = 1e-6
"""A target on a face of the work box is inside, whatever its last digits say."""
EXACT = 1e-5
"""Joints that miss their target by more [m, rad] do not reach it: it is near a singularity or out of reach."""
FACE_SHARE = 0.5
"""Share of the acceleration that brakes before one face of the box: three faces at once share it, and some is spare."""
JOINT_BRAKING_RAD_S2 = 20.0
"""Joints brake no harder than this before the end of their range."""
TINY = 1e-9
SHORTEST_S = 5e-4
"""A clock that has moved on by less has not: a controller's moves on by 2 ms."""
_SHARES = (1.0, 0.7, 0.4, 0.2, 0.1, 0.03)


class _Motion(NamedTuple):
    """A motion within one slice of the stream, and the time it has."""

    way: F64  # (3,) m
    turn: F64  # (3,) rad
    dt: float  # s


class _Place(NamedTuple):
    """A place of the stream: the TCP, and the arm that puts it there."""

    position: F64  # (3,)
    rotation: F64  # (3, 3)
    arm: Posture


class StreamLimiter:
    """Remembers the target that was streamed last, its velocity and robot time, and makes the next one."""

    def __init__(self, limits: Limits, model: ModelName, stream_hz: float) -> None:
        self._limits, self._slice_s = limits, 1.0 / stream_hz
        self._kinematics = ArmKinematics(model)
        self._joint_speeds = MODELS[model].speeds_rad_s
        settings = limits.settings
        self._joint_end = settings.joint_range_rad - settings.joint_margin_rad - RANGE_MARGIN_RAD
        self.pose: F64 | None = None
        """The TCP pose (6,) streamed last; None before a start."""
        self.is_slowed_by_joints = False
        """True if the newest target fell short because a joint would have been too fast or at its end."""

    def forget(self) -> None:
        """Forgets the stream: the arm was stopped or moved otherwise, and the next target needs a new start."""
        self.pose = None

    def start(self, pose: F64, *, joints: F64, measured: F64) -> None:
        """Starts a stream at rest at `pose` (6,), from an arm with measured joints (6,) and TCP pose (6,)."""
        self._kinematics.fit_tool(joints, measured[:3], matrix_from_vector(measured[3:]))
        position, rotation = pose[:3].copy(), matrix_from_vector(pose[3:])
        arm = self._kinematics.corrected(self._kinematics.at(joints), position, rotation)
        self._at = _Place(position, rotation, arm)
        self._velocity, self._spin = np.zeros(3), np.zeros(3)
        self._t, self.pose = -math.inf, pose.copy()

    def next(self, goal: F64, *, now_s: float, slice_s: float, left_s: float) -> F64:
        """Returns the next target (6,) on the way to `goal` (6,), to be streamed at the robot's time `now_s`.

        It stands for `slice_s`; the goal should be reached in `left_s`.
        """
        assert self.pose is not None, "start() comes first"
        since_s = now_s - self._t
        if since_s > 2 * self._slice_s + 1e-3:
            self._velocity, self._spin = np.zeros(3), np.zeros(3)
        dt, self._t = min(since_s, slice_s, self._slice_s), now_s
        if dt > SHORTEST_S:  # else the robot's clock has not moved on, and neither may the target
            self._advance(self._wanted(goal, dt, max(left_s, dt)))
            self.pose = np.concatenate([self._at.position, tool_vector(vector_from_matrix(self._at.rotation))])
        return self.pose

    def _wanted(self, goal: F64, dt: float, left_s: float) -> _Motion:
        """Returns the motion within one slice that all limits but the joints' leave."""
        limits, settings, position = self._limits, self._limits.settings, self._at.position
        speed, spin = settings.speed_m_s, settings.speed_rad_s
        if limits.outside(position) > INSIDE_M:
            speed, spin = min(speed, CRAWL_M_S), min(spin, CRAWL_RAD_S)
            limits.clipped["crawl"] += 1
        hard, hard_spin = settings.acceleration_m_s2, settings.acceleration_rad_s2
        velocity = self._before_faces(_towards(goal[:3] - position, dt, left_s, speed, hard), dt)
        turn = turn_between(self._at.rotation, matrix_from_vector(goal[3:]))
        turning = _reached(self._spin, self._spin, _towards(turn, dt, left_s, spin, hard_spin), hard_spin * dt)
        return _Motion(velocity * dt, turning * dt, dt)

    def _before_faces(self, wanted: F64, dt: float) -> F64:
        """Returns the velocity (3,) nearest to the wanted one from which the tool stops before the faces of the box."""
        limits, hard = self._limits, self._limits.settings.acceleration_m_s2
        low = -_stoppable(np.maximum(self._at.position - limits.low, 0.0), dt, FACE_SHARE * hard)
        high = _stoppable(np.maximum(limits.high - self._at.position, 0.0), dt, FACE_SHARE * hard)
        return _reached(self._velocity, np.clip(self._velocity, low, high), np.clip(wanted, low, high), hard * dt)

    def _advance(self, motion: _Motion) -> None:
        """Moves on by as much of a motion as the joints can follow; a tool too fast for that brakes first."""
        if not (motion.way.any() or motion.turn.any()):
            self.is_slowed_by_joints = False
            self._velocity, self._spin = np.zeros(3), np.zeros(3)
            return
        share, place = self._followed(motion, JOINT_SPEED_SHARE)
        self.is_slowed_by_joints = share < 1.0
        if share < 1.0 and self._is_sudden(share, motion):
            braked = self._braked(motion.dt)
            braked_share, braked_place = self._followed(braked, JOINT_BRAKING_SHARE)
            if braked_share == 1.0:
                share, place, motion = 1.0, braked_place, braked
        self._at = place
        self._limits.clipped["joints"] += self.is_slowed_by_joints
        self._velocity, self._spin = share * motion.way / motion.dt, share * motion.turn / motion.dt

    def _is_sudden(self, share: float, motion: _Motion) -> bool:
        """Returns True if a share of a motion needs more than the largest acceleration."""
        change = np.linalg.norm(share * motion.way / motion.dt - self._velocity) / motion.dt
        change_of_spin = np.linalg.norm(share * motion.turn / motion.dt - self._spin) / motion.dt
        settings = self._limits.settings
        return bool(change > settings.acceleration_m_s2 or change_of_spin > settings.acceleration_rad_s2)

    def _braked(self, dt: float) -> _Motion:
        """Returns the motion within one slice that brakes as hard as it may."""
        settings = self._limits.settings
        slow = self._before_faces(np.zeros(3), dt)
        still = _reached(self._spin, self._spin, np.zeros(3), settings.acceleration_rad_s2 * dt)
        return _Motion(slow * dt, still * dt, dt)

    def _followed(self, motion: _Motion, speed_share: float) -> tuple[float, _Place]:
        """Returns the share of a motion that keeps every joint within speed and range, and where it leads."""
        before, reach = self._at.arm.joints, speed_share * self._joint_speeds * motion.dt
        left = np.maximum(self._joint_end - _both_ways(before), 0.0)
        room = np.minimum(reach, _stoppable(left, motion.dt, JOINT_BRAKING_RAD_S2) * motion.dt)
        first = self._at.arm.joint_motion(np.concatenate([motion.way, motion.turn]))
        fastest = float((_both_ways(first) / np.maximum(room, TINY)).max())
        most = min(1.0, 1.0 / max(fastest, TINY))
        for less in _SHARES:
            share = most * less
            position = self._at.position + share * motion.way
            rotation = matrix_from_vector(share * motion.turn) @ self._at.rotation
            arm = self._kinematics.corrected(self._kinematics.at(before + share * first), position, rotation)
            is_possible = (_both_ways(arm.joints - before) <= room + TINY).all()
            if is_possible and np.abs(arm.missing(position, rotation)).max() < EXACT:
                return share, _Place(position, rotation, arm)
        return 0.0, self._at


def _towards(way: F64, dt: float, left_s: float, speed: float, acceleration: float) -> F64:
    """Returns the velocity (3,) that covers `way` (3,) in the time left, and can still stop at its end."""
    distance = float(np.linalg.norm(way))
    if distance < 1e-12:
        return np.zeros(3)
    fast = min(distance / left_s, float(_stoppable(distance, dt / 2, acceleration)), speed)
    return way * (fast / distance)


def _stoppable(distance: F64 | float, step_s: float, acceleration: float) -> F64:
    """Returns the largest speed v with v^2/2a + v step_s within a distance: a step first, then braking.

    With the whole slice as `step_s` that holds on whatever the next slices are; with half of it, for equal slices.
    """
    return np.asarray(acceleration * (np.sqrt(step_s * step_s + 2 / acceleration * distance) - step_s))


def _both_ways(joints: F64) -> F64:
    """Returns (2, 6): what counts towards the upper ends of the joints' ranges, and towards the lower ones."""
    return np.array((joints, -joints))


def _reached(before: F64, safe: F64, wanted: F64, change: float) -> F64:
    """Returns the velocity (3,) nearest to `wanted` on the way from `safe` that differs from `before` by `change`."""
    off, way = safe - before, wanted - safe
    if float(np.linalg.norm(wanted - before)) <= change:
        return wanted
    a, b, c = float(way @ way), 2 * float(off @ way), float(off @ off) - change * change
    if a < 1e-24 or c >= 0:
        return safe  # braking before a face comes first
    return safe + (math.sqrt(b * b - 4 * a * c) - b) / (2 * a) * way
