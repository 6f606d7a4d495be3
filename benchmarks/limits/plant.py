"""This module stands in for ur_rtde and the arm behind it, in this process, and keeps every servo target.

It follows targets late and sluggishly, as the simulated controller does, and answers what that one answers with a
protective stop: a target that no joints reach, and one that is half a radian of any joint from the one before. Robot
time passes when targets are sent and when `stall` is called. Its kinematics are the twin's, not the driver's.
"""

from collections import deque

import numpy as np

from benchmarks.limits.extremes import Target
from benchmarks.limits.postures import KINEMATICS, joints_at, reach
from protos.schema import F64
from twin.robots import UR5E
from twin.rotations import vector_from_matrix

JUMP_RAD = 0.5
READING_S = 2e-4
"""Robot time that passes whenever the clock is read: somebody may wait for the next package."""
_NORMAL, _PROTECTIVE_STOP = 1, 3
_POWERED, _POWERED_AND_RUNNING = 0b01, 0b11


class Plant:
    """A UR5e that is ur_rtde's receive and control interface at once. Refuses what ur_rtde would refuse."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.t, self.stops = 1.0, 0
        self._waiting = deque[Target]()
        self.streams: list[list[Target]] = [[]]
        """Servo targets; a stop or a move ends a stream."""
        self.stops_now = False
        """True from a protective stop on, until it is unlocked."""
        self.late_share, self.late_s = 0.0, 0.09
        """Share of the servo targets after which the computer stalls, and for how long at most."""
        self.place(joints_at(np.array([-0.54, 0.0, 0.16]), 0.0), delay_s=0.0, gain=1.0)

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

    def unlock(self) -> None:
        """Ends a protective stop."""
        self.stops_now = False

    def tool(self) -> F64:
        """Returns the position (3,) of the TCP [m]."""
        return KINEMATICS.forward(self.joints[None])[0][0]

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
        joints = reach(numbers, before)
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
        position, rotation = KINEMATICS.forward(self.joints[None])
        return [*position[0], *vector_from_matrix(rotation[0])]

    def getActualTCPSpeed(self) -> list[float]:  # noqa: N802
        return list(KINEMATICS.tool_velocity(self.joints[None], self._speeds[None])[0])

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
