"""This module stands in for ur_rtde and the arm behind it, in this process, and keeps every servo target.

It follows targets late and sluggishly, as the simulated controller does, and answers what that one answers with a
protective stop: a target that no joints reach, and one that is half a radian of any joint from the one before. Robot
time passes when targets are sent and when `stall` is called. Its kinematics are the twin's, not the driver's.
"""

import itertools
from collections import deque
from dataclasses import dataclass

import numpy as np

from protos.schema import F64
from twin.kinematics import Kinematics
from twin.robots import UR5E
from twin.rotations import matrix_from_vector, turn_between, vector_from_matrix

JUMP_RAD = 0.5
EXACT, REACHED = 1e-10, 1e-3
"""Joints that miss a target by more [m, of a matrix's entries] are improved; by much more, they do not reach it. Near a
singularity a small miss of the tool is a large one of the joints, and shows as a speed that the joints do not have."""
ITERATIONS = 30
FARTHEST_RAD = 6.1
"""Any posture has its joints this far from 0 at most: a little nearer than the end at which an arm is held."""
READING_S = 2e-4
"""Robot time that passes whenever the clock is read: somebody may wait for the next package."""
_NORMAL, _PROTECTIVE_STOP = 1, 3
_POWERED, _POWERED_AND_RUNNING = 0b01, 0b11


@dataclass(frozen=True)
class Target:
    """One servo target: the robot's time at which it was sent, how long it is to stand, TCP pose (6,), joints (6,)."""

    t: float
    slice_s: float
    pose: F64
    joints: F64


class Plant:
    """A UR5e that is ur_rtde's receive and control interface at once. Refuses what ur_rtde would refuse."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._kinematics, self._rng = Kinematics(UR5E), rng
        self.t, self.stops = 1.0, 0
        self._waiting = deque[Target]()
        self.streams: list[list[Target]] = [[]]
        """Servo targets; a stop or a move ends a stream."""
        self.stops_now = False
        """True from a protective stop on, until it is unlocked."""
        self.late_share, self.late_s = 0.0, 0.09
        """Share of the servo targets after which the computer stalls, and for how long at most."""
        self.place(self.joints_at(np.array([-0.54, 0.0, 0.16]), 0.0), delay_s=0.0, gain=1.0)

    def joints_at(self, position: F64, yaw: float) -> F64:
        """Returns joints (6,) with the tool pointing down at a position (3,) [m], turned by `yaw` [rad]."""
        return self._kinematics.start_joints(position, yaw)[0]

    def any_posture(self, low: F64, high: F64) -> F64:
        """Returns joints (6,) drawn from all of their range with the tool between two corners (3,) [m] of a box.

        Every second arm has its wrist or elbow almost straight.
        """
        while True:
            joints = self._rng.uniform(-FARTHEST_RAD, FARTHEST_RAD, (4096, 6))
            straight = self._rng.choice([2, 4])
            joints[::2, straight] = self._rng.normal(0, 0.15, 2048)
            position, _ = self._kinematics.forward(joints)
            inside = np.flatnonzero(((position > low) & (position < high)).all(1))
            if len(inside):
                return np.asarray(joints[self._rng.choice(inside)])

    def place(self, joints: F64, *, delay_s: float, gain: float) -> None:
        """Jogs the arm to joints (6,), where it stands; from now on it follows `delay_s` late by `gain` per 0.1 s."""
        self.joints, self._speeds = joints.copy(), np.zeros(6)
        self._delay_s, self._gain = delay_s, gain
        self._end_stream()

    def stall(self, seconds: float) -> None:
        """Lets robot time pass."""
        while seconds > 1e-9:
            slice_s = min(seconds, 0.01)
            while self._waiting and self._waiting[0].t + self._delay_s <= self.t:
                self._heard = self._waiting.popleft().joints
            before = self.joints
            self.joints = before + (1 - (1 - self._gain) ** (slice_s * 10)) * (self._heard - before)
            self._speeds = (self.joints - before) / slice_s
            self.t += slice_s
            seconds -= slice_s

    def _end_stream(self) -> None:
        self._heard = self.joints.copy()
        self._waiting.clear()
        self._speeds = np.zeros(6)
        if self.streams[-1]:
            self.streams.append([])

    def _reach(self, pose: F64, near: F64) -> F64 | None:
        position, rotation, joints = pose[None, :3], matrix_from_vector(pose[3:]), near[None]
        for _ in range(ITERATIONS):
            reached, turned = self._kinematics.forward(joints)
            miss = max(np.abs(reached - position).max(), np.abs(turned - rotation).max())
            if miss < EXACT:
                break
            joints = self._kinematics.inverse(joints, position, rotation, iterations=1, damping=1e-10)
        return np.asarray(joints[0]) if miss < REACHED else None

    # --- what ur_rtde offers, under its names

    def servoL(self, pose: list[float], v: float, a: float, time: float, lookahead: float, gain: float) -> bool:  # noqa: N802
        """Takes a target; stops protectively as the controller would."""
        numbers = np.array(pose, float)
        assert numbers.shape == (6,) and np.isfinite(numbers).all(), pose
        assert v == a == 0 and 0 < time <= 0.1 and 0.03 <= lookahead <= 0.2 and 100 <= gain <= 2000
        if self.stops_now:
            return False
        stream = self.streams[-1]
        before = stream[-1].joints if stream else self.joints
        joints = self._reach(numbers, before)
        if joints is None or np.abs(joints - before).max() > JUMP_RAD:
            self.stops_now = True
            self.stops += 1
            stream.append(Target(self.t, time, numbers, before))
            return False
        stream.append(Target(self.t, time, numbers, joints))
        self._waiting.append(stream[-1])
        is_late = self._rng.random() < self.late_share
        self.stall(time + (self._rng.uniform(0, self.late_s) if is_late else 0.0))
        return True

    def servoStop(self, deceleration: float = 10.0) -> bool:  # noqa: N802
        """Stands still at once."""
        self._end_stream()
        return True

    def getTimestamp(self) -> float:  # noqa: N802
        self.t += READING_S
        return self.t

    def getActualQ(self) -> list[float]:  # noqa: N802
        return list(self.joints)

    def getActualTCPPose(self) -> list[float]:  # noqa: N802
        position, rotation = self._kinematics.forward(self.joints[None])
        return [*position[0], *vector_from_matrix(rotation[0])]

    def getActualTCPSpeed(self) -> list[float]:  # noqa: N802
        return list(self._kinematics.tool_velocity(self.joints[None], self._speeds[None])[0])

    def getActualTCPForce(self) -> list[float]:  # noqa: N802
        return [0.0] * 6

    def getTCPOffset(self) -> list[float]:  # noqa: N802
        return [*UR5E.flange_from_tcp[:3, 3], *vector_from_matrix(UR5E.flange_from_tcp[:3, :3])]

    def getPayload(self) -> float:  # noqa: N802
        return UR5E.gripper.mass_kg

    def getPayloadCog(self) -> list[float]:  # noqa: N802
        return list((UR5E.flange_from_tcp @ np.append(UR5E.gripper.com_from_tcp_m, 1.0))[:3])

    def getTargetSpeedFraction(self) -> float:  # noqa: N802
        return 1.0

    def reuploadScript(self) -> bool:  # noqa: N802
        return True

    def getSafetyMode(self) -> int:  # noqa: N802
        return _PROTECTIVE_STOP if self.stops_now else _NORMAL

    def getRobotStatus(self) -> int:  # noqa: N802
        return _POWERED if self.stops_now else _POWERED_AND_RUNNING

    def isConnected(self) -> bool:  # noqa: N802
        return True

    def isProgramRunning(self) -> bool:  # noqa: N802
        return not self.stops_now

    def setWatchdog(self, hertz: float) -> bool:  # noqa: N802
        return hertz > 0

    def kickWatchdog(self) -> bool:  # noqa: N802
        return True

    def stopScript(self) -> None:  # noqa: N802
        self._end_stream()

    def disconnect(self) -> None:
        self._end_stream()


@dataclass
class Extremes:
    """The largest values between one streamed target and the next, in robot time."""

    pairs: int = 0
    speed_m_s: float = 0.0
    speed_rad_s: float = 0.0
    acceleration_m_s2: float = 0.0
    acceleration_rad_s2: float = 0.0
    """Both of targets that are faster than the ones before."""
    braking_m_s2: float = 0.0
    braking_rad_s2: float = 0.0
    """Both of slower ones."""
    joint_share: float = 0.0
    """Joint speed as a share of the data sheet's."""
    outside_m: float = 0.0
    """Farthest that a target lies outside the box, in a stream that began inside."""
    crawl_m_s: float = 0.0
    """Speed between targets of which the first is outside the box."""

    def add(self, stream: list[Target], low: F64, high: F64, slice_s: float) -> None:
        """Looks at all targets of a stream.

        A target's velocity is its motion over the time since the one before, its own slice at most; one that comes
        after more than two slices of the stream starts from rest. An acceleration needs three targets.
        """
        began_inside, velocity = False, np.zeros(6)
        for index, (a, b) in enumerate(itertools.pairwise(stream)):
            outside = float(np.maximum(low - a.pose[:3], a.pose[:3] - high).max())
            began_inside = began_inside or outside <= 1e-6
            if (gap := b.t - a.t) <= 0:
                continue  # refused: a protective stop
            motion = _motion(a, b)
            way, turn = np.linalg.norm(motion[:3]), np.linalg.norm(motion[3:])
            self.pairs += 1
            self.speed_m_s = max(self.speed_m_s, float(way) / gap)
            self.speed_rad_s = max(self.speed_rad_s, float(turn) / gap)
            shares = np.abs(b.joints - a.joints) / gap / UR5E.velocity_limits
            self.joint_share = max(self.joint_share, float(shares.max()))
            if began_inside:
                self.outside_m = max(self.outside_m, float(np.maximum(low - b.pose[:3], b.pose[:3] - high).max()))
            if outside > 1e-6:
                self.crawl_m_s = max(self.crawl_m_s, float(way) / gap)
            credited = min(gap, b.slice_s)
            now = motion / credited
            before = np.zeros(6) if gap > 2 * slice_s + 1e-3 else velocity
            change = (now - before) / credited if index > 0 else np.zeros(6)
            for part, unit in ((slice(0, 3), "m_s2"), (slice(3, 6), "rad_s2")):
                is_faster = np.linalg.norm(now[part]) > np.linalg.norm(before[part])
                name = f"{'acceleration' if is_faster else 'braking'}_{unit}"
                setattr(self, name, max(getattr(self, name), float(np.linalg.norm(change[part]))))
            velocity = now


def _motion(a: Target, b: Target) -> F64:
    turn = turn_between(matrix_from_vector(a.pose[3:]), matrix_from_vector(b.pose[3:]))
    return np.concatenate([b.pose[:3] - a.pose[:3], turn])
