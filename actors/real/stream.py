"""This module leads the streamed targets of an arm to a goal, one after another, within its limits in robot time.

    goal ─► velocity towards it: speed, faces of the work box ─► acceleration ─► can the arm stop from there,
                ▲                                                                  and meets nothing? ─► target
                └── velocity and time of the target before ◄───────────────────────┘ no: less of it, at worst braking

A velocity is taken only if the tool, braking straight on at the bounds of acceleration, comes to rest inside the work
box, no joint gets too fast or to its end on that way, and the arm keeps its clearance (`collisions`). So there is a way
to stop within all limits after every target: it is the one that was found before. However late a target is, it moves on
by one slice of the stream at most: time that was lost is not made up for by a leap. A target that is more than one
slice late finds the arm standing at the one before, and starts from rest.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actors.real.collisions import Guard, Hull
from actors.real.kinematics import MODELS, ArmKinematics, ModelName, Posture
from actors.real.safety import CRAWL_M_S, CRAWL_RAD_S, Limits, between
from protos.proprioception import tool_vector
from protos.schema import F64
from twin.rotations import matrix_from_vector, turn_between, vector_from_matrix

JOINT_SPEED_SHARE = 0.8
"""Share of the data sheet's joint speeds that streamed targets may ask for."""
STOPPING_SHARE = 0.75
"""The same on the way to rest that must be left after a target: it is sampled, and braked in slices."""
RANGE_MARGIN_RAD = 0.05
"""Streamed targets end this far before the joint angles at which the arm is held."""
INSIDE_M = 1e-6
"""A target on a face of the work box is inside, whatever its last digits say."""
FACE_SHARE = 0.5
"""Share of the acceleration that brakes before one face of the box: three faces at once share it, and some is spare."""
GENTLE_M_S, GENTLE_RAD_S = 0.09, 0.4
"""Largest change of a gentle stream's velocity from one target to the next: one that passes from hand to hand."""
GENTLE_M_S2, GENTLE_RAD_S2 = 50 * GENTLE_M_S, 50 * GENTLE_RAD_S
"""A stream of fewer than 50 targets a second changes as fast as one of 50: it would be late by control steps else."""
TINY = 1e-9
SHORTEST_S = 5e-4
"""A clock that has moved on by less has not: a controller's moves on by 2 ms."""
BEND = 2.2
"""Largest change of an arm's Jacobian [m/rad, rad/rad; its norm] per way of its joints [rad], found by sampling."""
MOST_SAMPLES = 8
LINE_STEP_M, LINE_STEP_RAD = 0.01, 0.05
"""Steps in which the joints follow a straight line before it is driven."""
HALF = 0.55
"""A steady braking is half as fast on average as at its beginning; some is spare."""
_SHARES = (1.0, 0.8, 0.5, 0.25, 0.1, 0.03)
_COARSE = (0.25, 0.03)
"""Shares that are left to try where the arm would come too close to something: to measure that takes longer."""


class _Place(NamedTuple):
    """A place of the stream: the TCP, and the arm that puts it there."""

    position: F64  # (3,)
    rotation: F64  # (3, 3)
    arm: Posture


class StreamLimiter:
    """Remembers the target that was streamed last, its velocity and robot time, and makes the next one."""

    def __init__(self, limits: Limits, model: ModelName, stream_hz: float, hulls: Sequence[Hull] = ()) -> None:
        """`hulls` are obstacles in the base frame."""
        self._limits, self._slice_s = limits, 1.0 / stream_hz
        self._kinematics = ArmKinematics(model)
        self._guard = Guard(self._kinematics, model, limits.settings.clearance_m, hulls)
        self._joint_speeds = MODELS[model].speeds_rad_s
        settings = limits.settings
        self._joint_end = settings.joint_range_rad - settings.joint_margin_rad - RANGE_MARGIN_RAD
        self.pose: F64 | None = None
        """The TCP pose (6,) streamed last; None before a start."""
        self.is_slowed_by_joints = False
        """True if the newest target fell short because a joint would have been too fast or at its end."""
        self.meets = ""
        """The pair that would have come too close, where the newest target fell short because of it; else empty."""

    @property
    def is_short(self) -> bool:
        """True if the newest target fell short of what speed, acceleration and the work box allow."""
        return self.is_slowed_by_joints or bool(self.meets)

    def forget(self) -> None:
        """Forgets the stream: the arm was stopped or moved otherwise, and the next target needs a new start."""
        self.pose = None

    def start(self, pose: F64, *, joints: F64, measured: F64) -> None:
        """Starts a stream at rest at `pose` (6,), from an arm with measured joints (6,) and TCP pose (6,).

        Near a singularity, where no joints nearby reach `pose`, it starts at the measured one.
        """
        self._at = self._placed(joints, measured)
        position, rotation = self._at.position, self._at.rotation
        turn = turn_between(rotation, matrix_from_vector(pose[3:]))
        place = self._followed(self._at, np.concatenate([pose[:3] - position, turn]))
        self._at, self.pose = (place, pose.copy()) if place is not None else (self._at, measured.copy())
        self._velocity, self._t = np.zeros(6), -math.inf

    def met_on_line(self, pose: F64, *, joints: F64, measured: F64) -> str:
        """Returns which pair comes too close on a straight line from a measured TCP pose (6,) to another one.

        Empty if none does, and from where on no joints near the measured ones (6,) reach the line.
        """
        place = self._placed(joints, measured)
        whole = np.concatenate([pose[:3] - measured[:3], turn_between(place.rotation, matrix_from_vector(pose[3:]))])
        count = max(1, math.ceil(max(_length(whole[:3]) / LINE_STEP_M, _length(whole[3:]) / LINE_STEP_RAD)))
        for _ in range(count):
            after = self._followed(place, whole / count)
            if after is None:
                return ""
            if met := self._guard.met(place.arm.joints, after.arm.joints - place.arm.joints):
                return met
            place = after
        return ""

    def _placed(self, joints: F64, measured: F64) -> _Place:
        """Returns the arm as it was measured, which tells its tool."""
        position, rotation = measured[:3], matrix_from_vector(measured[3:])
        self._kinematics.fit_tool(joints, position, rotation)
        self._guard.forget()
        return _Place(position, rotation, self._kinematics.at(joints))

    def next(self, goal: F64, *, now_s: float, slice_s: float, left_s: float, is_gentle: bool = False) -> F64:
        """Returns the next target (6,) on the way to `goal` (6,), to be streamed at the robot's time `now_s`.

        It stands for `slice_s`; the goal should be reached in `left_s`. A gentle stream changes its velocity in small
        steps and is a little later where that takes time; the limits come first.
        """
        assert self.pose is not None, "start() comes first"
        since_s = now_s - self._t
        if since_s > 2 * self._slice_s + 1e-3:
            self._velocity = np.zeros(6)
        dt, self._t = min(since_s, slice_s, self._slice_s), now_s
        if dt > SHORTEST_S:  # else the robot's clock has not moved on, and neither may the target
            self._advance(self._wanted(goal, dt, max(left_s, dt), is_gentle), dt)
            self.pose = np.concatenate([self._at.position, tool_vector(vector_from_matrix(self._at.rotation))])
        return self.pose

    def _wanted(self, goal: F64, dt: float, left_s: float, is_gentle: bool) -> F64:
        """Returns the velocity (6,) that all limits but the joints' leave."""
        limits, settings, position = self._limits, self._limits.settings, self._at.position
        speed, spin = settings.speed_m_s, settings.speed_rad_s
        if limits.outside(position) > INSIDE_M:
            speed, spin = min(speed, CRAWL_M_S), min(spin, CRAWL_RAD_S)
            limits.clipped["crawl"] += 1
        hard, hard_spin = settings.acceleration_m_s2, settings.acceleration_rad_s2
        if is_gentle:
            hard = min(hard, max(GENTLE_M_S / dt, GENTLE_M_S2))
            hard_spin = min(hard_spin, max(GENTLE_RAD_S / dt, GENTLE_RAD_S2))
        velocity = self._before_faces(_towards(goal[:3] - position, dt, left_s, speed, hard), dt, hard * dt)
        turn = turn_between(self._at.rotation, matrix_from_vector(goal[3:]))
        turning = _towards(turn, dt, left_s, spin, hard_spin)
        return np.concatenate([velocity, _reached(self._velocity[3:], self._velocity[3:], turning, hard_spin * dt)])

    def _before_faces(self, wanted: F64, dt: float, change: float) -> F64:
        """Returns the velocity (3,) nearest to the wanted one from which the tool stops before the faces of the box.

        It differs by `change` at most from the one before, unless a face asks for more.
        """
        limits, hard, before = self._limits, self._limits.settings.acceleration_m_s2, self._velocity[:3]
        fastest = _length(before) + hard * dt
        low, high = (
            np.minimum(_stoppable(way, dt, FACE_SHARE * hard), way / (fastest / (2 * hard) + dt))
            for way in (np.maximum(self._at.position - limits.low, 0), np.maximum(limits.high - self._at.position, 0))
        )
        return _reached(before, between(before, -low, high), between(wanted, -low, high), change)

    def _advance(self, wanted: F64, dt: float) -> None:
        """Moves on for one slice at the wanted velocity (6,), or as much of it as leaves a way to rest."""
        if not wanted.any():  # which the largest acceleration allows
            self._velocity, self.is_slowed_by_joints, self.meets = np.zeros(6), False, ""
            return
        braked = self._braked(dt)
        most = self._share_by_joints(braked, wanted, dt)
        self.is_slowed_by_joints, self.meets = most < 1.0, ""
        for share in _SHARES if most > 0 else ():
            if self.meets and share not in _COARSE:
                continue
            velocity = braked + most * share * (wanted - braked)
            if (place := self._moved(velocity, dt)) is None:
                self.is_slowed_by_joints = True
            elif met := self._met(place, velocity):
                self.meets = met
            elif self._can_stop(place, velocity):
                break
        else:
            velocity, place = braked, self._moved(braked, dt)
        self._limits.clipped["joints"] += self.is_slowed_by_joints
        self._limits.clipped["collision"] += bool(self.meets)
        if place is None:  # the way to rest that was found before is none: a hard stop is what is left
            velocity, place = np.zeros(6), self._at
            self._limits.clipped["hard stop"] += 1
        self._at, self._velocity = place, velocity

    def _braked(self, dt: float) -> F64:
        """Returns the velocity (6,) after braking for one slice as hard as may be."""
        stops_s = self._stops_s(self._velocity)
        return self._velocity * np.repeat(np.maximum(1 - dt / np.maximum(stops_s, TINY), 0), 3)

    def _stops_s(self, velocity: F64) -> F64:
        """Returns how long tool and rotation need to come to rest (2,) [s]."""
        settings = self._limits.settings
        hard, hard_spin = settings.acceleration_m_s2, settings.acceleration_rad_s2
        return np.array((_length(velocity[:3]) / hard, _length(velocity[3:]) / hard_spin))

    def _share_by_joints(self, braked: F64, wanted: F64, dt: float) -> float:
        """Returns how far from the braked to the wanted velocity the joints let the tool go, to first order."""
        place, stop_s = self._at, float(self._stops_s(wanted).max())
        slow, fast = place.arm.inverse @ braked, place.arm.inverse @ wanted
        up, down = (
            np.minimum(STOPPING_SHARE * self._joint_speeds, np.maximum(left, 0.0) / (dt + stop_s / 2))
            for left in (self._joint_end - place.arm.joints, self._joint_end + place.arm.joints)
        )
        change = fast - slow
        room = np.where(change > 0, up - slow, down + slow)
        return min(max(float(np.min(room / np.maximum(np.abs(change), TINY))), 0.0), 1.0)

    def _moved(self, velocity: F64, dt: float) -> _Place | None:
        """Returns the place after one slice; None where a joint would be too fast, at its end, or none reach it."""
        return self._followed(self._at, velocity * dt, JOINT_SPEED_SHARE * dt)

    def _followed(self, place: _Place, motion: F64, share_s: float = math.inf) -> _Place | None:
        """Returns the place after a motion (6,); None where no joints, within speed times `share_s`, follow it."""
        first, most = place.arm.inverse @ motion, share_s * self._joint_speeds
        if not (np.abs(first) <= 2 * most).all():
            return None
        position, rotation = place.position + motion[:3], matrix_from_vector(motion[3:]) @ place.rotation
        if (arm := self._kinematics.follow(place.arm.joints + first, position, rotation)) is None:
            return None
        is_within = np.abs(arm.joints) <= np.maximum(np.abs(place.arm.joints), self._joint_end) + TINY
        is_possible = is_within & (np.abs(arm.joints - place.arm.joints) <= most + TINY)
        return _Place(position, rotation, arm) if is_possible.all() else None

    def _met(self, place: _Place, velocity: F64) -> str:
        """Returns which pair comes too close on the way to a place and on from there to rest; empty if none does."""
        rest = place.arm.inverse @ (velocity * np.repeat(self._stops_s(velocity) / 2, 3))
        return self._guard.met(self._at.arm.joints, place.arm.joints - self._at.arm.joints, rest)

    def _can_stop(self, place: _Place, velocity: F64) -> bool:
        """Returns True if the tool comes to rest from a place within the work box and the joints' limits.

        Tool and rotation brake straight on, each as hard as it may. The Jacobian J changes by at most BEND of the
        joints' way, hence its inverse by at most BEND |J^-1|^2 of it, and the joints get at most 1 / sqrt(1 - bend)
        times as fast as they are. Only where that is too much for them the way is looked at.
        """
        stops_s = self._stops_s(velocity)
        end, limits, at = place.position + velocity[:3] * stops_s[0] / 2, self._limits, self._at.position
        if (end < np.minimum(limits.low, at) - TINY).any() or (end > np.maximum(limits.high, at) + TINY).any():
            return False
        stop_s, inverse = float(stops_s.max()), place.arm.inverse
        parts = np.abs(inverse[:, :3] @ velocity[:3]) + np.abs(inverse[:, 3:] @ velocity[3:])
        whole = math.sqrt(float(parts @ parts))
        bend = BEND * math.sqrt(float(np.vdot(inverse, inverse))) * whole * stop_s
        if bend < 1:
            fastest = parts + (1 / math.sqrt(1 - bend) - 1) * whole
            is_far = np.abs(place.arm.joints) + fastest * stop_s < self._joint_end
            if (is_far & (fastest < STOPPING_SHARE * self._joint_speeds)).all():
                return True
        return self._is_way_to_rest(place, velocity, stops_s, min(math.ceil(bend), MOST_SAMPLES))

    def _is_way_to_rest(self, place: _Place, velocity: F64, stops_s: F64, samples: int) -> bool:
        """Returns True if the joints can follow the way to rest, sample by sample."""
        if (np.abs(place.arm.inverse @ velocity) > STOPPING_SHARE * self._joint_speeds).any():
            return False
        sample_s, way_s = float(stops_s.max()) / samples, np.zeros(2)
        share = STOPPING_SHARE if samples > 1 else STOPPING_SHARE * HALF
        for number in range(samples):
            braked_s = np.minimum((number + 1) * sample_s, stops_s)
            before_s, way_s = way_s, braked_s - braked_s**2 / (2 * np.maximum(stops_s, TINY))
            motion = velocity * np.repeat(way_s - before_s, 3)
            if (after := self._followed(place, motion, share * sample_s)) is None:
                return False
            place = after
        return True


def _towards(way: F64, dt: float, left_s: float, speed: float, acceleration: float) -> F64:
    """Returns the velocity (3,) that covers `way` (3,) in the time left, and can still stop at its end."""
    distance = _length(way)
    if distance < 1e-12:
        return np.zeros(3)
    fast = min(distance / left_s, float(_stoppable(distance, dt / 2, acceleration)), speed)
    return way * (fast / distance)


def _length(vector: F64) -> float:
    return math.sqrt(vector @ vector)


def _stoppable(distance: F64 | float, step_s: float, acceleration: float) -> F64:
    """Returns the largest speed v with v^2/2a + v step_s within a distance: a step first, then braking.

    With the whole slice as `step_s` that holds on whatever the next slices are; with half of it, for equal slices.
    """
    return np.asarray(acceleration * (np.sqrt(step_s * step_s + 2 * np.asarray(distance) / acceleration) - step_s))


def _reached(before: F64, safe: F64, wanted: F64, change: float) -> F64:
    """Returns the velocity (3,) nearest to `wanted` on the way from `safe` that differs from `before` by `change`."""
    off, way = safe - before, wanted - safe
    if _length(wanted - before) <= change:
        return wanted
    a, b, c = float(way @ way), 2 * float(off @ way), float(off @ off) - change * change
    if a < 1e-24 or c >= 0:
        return safe  # braking before a face comes first
    return safe + (math.sqrt(b * b - 4 * a * c) - b) / (2 * a) * way
