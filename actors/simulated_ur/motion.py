"""How the simulated arm moves: commands in, one joint target per slice of time out.

    servo  the newest target that is at least `delay_s` old, approached by the share `gain` per 100 ms
    move   a trapezoidal profile along joints (moveJ) or along a line (moveL)
    speed  joint velocities, reached at a given acceleration
    hold   the last target

`delay_s` and `gain` are how the stand-in differs from the twin: a twin delays whole actions by 0 or 1 control steps and
executes them fully, this arm hears of every servo target k control steps later and follows it sluggishly.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from protos.schema import CONTROL_HZ, F64

SETTLED_RAD_S = 0.01
SETTLE_LIMIT_S = 0.5
"""A move or stop ends when the joints stand still, after this long at the latest."""


class Mode(Protocol):
    """One way of moving. `target(t, dt)` is the joint target `t` seconds after the mode began; `done(t, …)` ends it."""

    def target(self, t: float, dt: float) -> F64: ...
    def done(self, t: float, joint_speed: float) -> bool: ...


@dataclass
class Hold:
    """Stays where the target is."""

    joints: F64

    def target(self, t: float, dt: float) -> F64:
        return self.joints

    def done(self, t: float, joint_speed: float) -> bool:
        return joint_speed < SETTLED_RAD_S or t > SETTLE_LIMIT_S


class Servo:
    """Follows targets that arrive from outside, late and sluggishly."""

    def __init__(self, joints: F64, *, delay_s: float, gain: float) -> None:
        self._joints, self._heard = joints, joints
        self.newest = joints
        self._delay_s, self._gain = delay_s, gain
        self._waiting: deque[tuple[float, F64]] = deque()

    def add(self, t: float, joints: F64) -> None:
        """A target commanded `t` seconds after the mode began."""
        self.newest = joints
        self._waiting.append((t + self._delay_s, joints))

    def target(self, t: float, dt: float) -> F64:
        while self._waiting and self._waiting[0][0] <= t:
            self._heard = self._waiting.popleft()[1]
        share = 1.0 - (1.0 - self._gain) ** (dt * CONTROL_HZ)
        self._joints = self._joints + share * (self._heard - self._joints)
        return self._joints

    def done(self, t: float, joint_speed: float) -> bool:
        return False


class Speed:
    """Joint velocities, approached at a bounded acceleration, for a time (0: until something else is commanded)."""

    def __init__(self, joints: F64, velocity: F64, acceleration: float, duration_s: float) -> None:
        self._joints, self._wanted, self._acceleration = joints, velocity, acceleration
        self._velocity = np.zeros(6)
        self._duration_s = duration_s

    def target(self, t: float, dt: float) -> F64:
        wanted = np.zeros(6) if 0 < self._duration_s < t else self._wanted
        change = self._acceleration * dt
        self._velocity = self._velocity + np.clip(wanted - self._velocity, -change, change)
        self._joints = self._joints + self._velocity * dt
        return self._joints

    def done(self, t: float, joint_speed: float) -> bool:
        return False


class Move:
    """A trapezoidal profile along `path`, which maps 0..1 to joints."""

    def __init__(self, path: Callable[[float], F64], *, length: float, speed: float, acceleration: float) -> None:
        self._path, self._length = path, length
        self._speed = min(speed, float(np.sqrt(length * acceleration)))  # a short way never reaches the full speed
        self._acceleration = acceleration
        self.duration_s = length / self._speed + self._speed / acceleration if length > 0 else 0.0

    def travelled(self, t: float) -> float:
        """Share of the way after `t` seconds."""
        if t >= self.duration_s:
            return 1.0
        ramp_s = self._speed / self._acceleration
        if t < ramp_s:
            way = self._acceleration * t * t / 2
        elif t <= self.duration_s - ramp_s:
            way = self._speed * (t - ramp_s / 2)
        else:
            way = self._length - self._acceleration * (self.duration_s - t) ** 2 / 2
        return way / self._length

    def target(self, t: float, dt: float) -> F64:
        return self._path(self.travelled(t))

    def done(self, t: float, joint_speed: float) -> bool:
        return t >= self.duration_s and (joint_speed < SETTLED_RAD_S or t > self.duration_s + SETTLE_LIMIT_S)
