"""This module moves the simulated arm: commands in, one joint target per slice of robot time out.

    servo  the newest target that has arrived, `delay_s` after it was sent, approached by the share `gain` per 100 ms
    move   a trapezoidal profile along joints (moveJ) or along a line (moveL)
    speed  joint velocities, reached at a given acceleration, until something else is commanded
    stop   a steady deceleration to the rest
    hold   the last target

`delay_s` and `gain` are how the stand-in differs from the twin: a twin delays whole actions by 0 or 1 control steps and
executes them fully, this arm hears of every servo target k control steps later and follows it sluggishly.

Robot time is real time without commands, and runs ahead of the wall clock while servo commands are executed:

    wall   ──────── thinking 8 ms ────────┬ servoL(…, t=0.02) takes 1 ms ┬── thinking …
    robot  ──────── + 8 ms ───────────────┴ + 20 ms ─────────────────────┴──

A grant is robot time that a command asks for: it is simulated at once, as fast as it can be. A driver that paces itself
on the robot's own clock, as it does with a real arm, then runs as fast as the simulation, while the time that it spends
thinking still passes on the robot. With `fast=False` grants are ignored: robot time is real time.

The pendant's speed slider stretches every motion but a stop: at 40 % a way takes two and a half times as long, and a
servo target is approached more slowly.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from actors.simulated_ur.kinematics import OutOfReachError
from actors.simulated_ur.world import World
from protos.schema import CONTROL_HZ, F64
from twin.labs import Drive
from twin.randomize import Span

SETTLED_RAD_S = 0.01
SETTLE_LIMIT_S = 0.5
"""A move ends when the joints stand still, after this long at the latest."""
STALL_S = 0.1
"""A longer gap between two ticks is a stall of this computer; the robot does not make up for it with a leap."""
SLICE_S = 0.02
"""Joint targets change at most this often."""
JUMP_LIMIT_RAD = 0.5
"""A servo target farther than this from the one before is refused, as on the real controller."""
LONGEST_MOVE_S = 60.0
NO_DRIVE = Drive()


SCRIPT_END_RAD_S2 = 5.0
"""Deceleration of the fastest joint when a script ends while the arm moves; an assumption, UR does not publish it."""


class ProtectiveStopError(Exception):
    """The controller stops the arm for the reason given."""


class JumpError(ProtectiveStopError):
    """A servo target is too far from the one before."""


class Mode(Protocol):
    """One way of moving. `target(t, dt)` is the joint target `t` seconds after the mode began; `done(t, …)` ends it.

    Its seconds are longer than the robot's while the speed slider is below 100 %.
    """

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


class Stop:
    """Brakes from the velocity of the moment within `seconds`, all joints at once, and stays there.

    The way begins where the joints are; the lead that their target has before them, without which they would lag, goes
    with the velocity.
    """

    def __init__(self, joints: F64, velocity: F64, lead: F64, seconds: float) -> None:
        self._joints, self._velocity, self._lead, self._seconds = joints, velocity, lead, seconds

    def target(self, t: float, dt: float) -> F64:
        if self._seconds <= 0:
            return self._joints
        s = min(t, self._seconds)
        left = 1 - s / self._seconds
        return self._joints + self._velocity * s * (1 + left) / 2 + self._lead * left

    def done(self, t: float, joint_speed: float) -> bool:
        return t >= self._seconds  # a script goes on when its target stands


class Servo:
    """Follows targets that arrive from outside, late and sluggishly."""

    def __init__(self, joints: F64, *, delay_s: float, gain: float) -> None:
        self._joints, self._heard = joints, joints
        self.newest = joints
        self._delay_s, self._gain, self._arrives_s = delay_s, gain, 0.0
        self._waiting: deque[tuple[float, F64]] = deque()

    def add(self, t: float, joints: F64, *, jitter_s: float = 0.0) -> None:
        """Takes a target commanded `t` seconds after the mode began; it overtakes no earlier one."""
        self.newest, self._arrives_s = joints, max(self._arrives_s, t + max(self._delay_s + jitter_s, 0.0))
        self._waiting.append((self._arrives_s, joints))

    def target(self, t: float, dt: float) -> F64:
        while self._waiting and self._waiting[0][0] <= t:
            self._heard = self._waiting.popleft()[1]
        share = 1.0 - (1.0 - self._gain) ** (dt * CONTROL_HZ)
        self._joints = self._joints + share * (self._heard - self._joints)
        return self._joints

    def done(self, t: float, joint_speed: float) -> bool:
        return False


class Speed:
    """Approaches joint velocities at a bounded acceleration, until something else is commanded."""

    def __init__(self, joints: F64) -> None:
        self._joints, self._velocity, self._wanted = joints, np.zeros(6), np.zeros(6)
        self._acceleration = 0.0

    def command(self, velocity: F64, acceleration: float) -> None:
        """Takes the joint velocities to approach from now on [rad/s], and the acceleration [rad/s^2]."""
        self._wanted, self._acceleration = velocity, acceleration

    def target(self, t: float, dt: float) -> F64:
        change = self._acceleration * dt
        self._velocity = self._velocity + np.clip(self._wanted - self._velocity, -change, change)
        self._joints = self._joints + self._velocity * dt
        return self._joints

    def done(self, t: float, joint_speed: float) -> bool:
        return False


class Move:
    """Follows a trapezoidal profile along `path`, which maps 0..1 to joints."""

    def __init__(self, path: Callable[[float], F64], *, length: float, speed: float, acceleration: float) -> None:
        self._path, self._length = path, length
        self._speed = min(speed, float(np.sqrt(length * acceleration)))  # a short way never reaches the full speed
        self._acceleration = acceleration
        self.duration_s = length / self._speed + self._speed / acceleration if length > 0 else 0.0

    def travelled(self, t: float) -> float:
        """Returns the share of the way after `t` seconds."""
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


class RobotClock:
    """Lets robot time pass by calling `advance(seconds)`."""

    def __init__(
        self, advance: Callable[[float], None], *, fast: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._advance, self._now = advance, now
        self.fast = fast
        self._mark = now()

    def catch_up(self, *, least_s: float = 0.0) -> None:
        """Lets the real time pass that went by since the last call or grant.

        A clock that runs ahead leaves less than `least_s` for later.
        """
        now = self._now()
        if self.fast and now - self._mark < least_s:
            return
        elapsed, self._mark = now - self._mark, now
        self._advance(min(elapsed, STALL_S))

    def grant(self, seconds: float) -> None:
        """Lets `seconds` of robot time pass at once (with `fast`); the wall time that it takes does not count."""
        if self.fast:
            began = self._now()
            self._advance(seconds)
            self._mark += self._now() - began


class SimulatedArm:
    """Moves the arm and the gripper of a world, in one mode after another.

    `latency_steps` are the delays, in control steps, and `gain` the span, of which each episode draws one.
    """

    def __init__(
        self,
        world: World,
        *,
        fast: bool,
        latency_steps: tuple[float, ...] = (0,),
        gain: Span = (1.0, 1.0),
        drive: Drive = NO_DRIVE,
        seed: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.world = world
        self.time_s = 0.0
        self.clock = RobotClock(self._advance, fast=fast, now=now)
        self.target: F64 = world.joints.copy()
        """Joint target of the moment (6,)."""
        self.trouble = ""
        """The reason why the arm gave up its last move; empty when it did not."""
        self.velocity: F64 = np.zeros(6)
        """Velocity of the joint target (6,) [rad/s]."""
        self.speed_fraction = 1.0
        """Share of the commanded speed that the pendant's slider allows."""
        self.begin(Hold(self.target))
        self._latency_steps, self._gains, self._drive = latency_steps, gain, drive
        self._rng = np.random.default_rng(seed)
        self._delay_s, self._gain = latency_steps[0] / CONTROL_HZ + drive.servo_delay_s, sum(gain) / 2
        self._seed, self._episode = seed, 0
        self._jitter = np.random.default_rng((seed, 0))
        self._gripper_waiting: deque[tuple[float, float]] = deque()

    def begin(self, mode: Mode) -> None:
        """Moves in this way from now on."""
        self._mode, self._mode_s = mode, 0.0
        self._was_done = False

    def stop(self, seconds: float) -> None:
        """Brakes to the rest within a time."""
        joints, velocity = self.world.joints.copy(), self.world.joint_velocities.copy()
        self.begin(Stop(joints, velocity, self.target - joints, seconds))

    def end_motion(self) -> None:
        """Brakes as at the end of a script."""
        self.stop(float(np.abs(self.velocity).max()) / SCRIPT_END_RAD_S2)

    def brake(self) -> None:
        """Stays where the joints are, and forgets its trouble."""
        self.trouble = ""
        self.begin(Hold(self.world.joints.copy()))

    def servo(self, joints: F64, seconds: float) -> None:
        """Follows a servo target for `seconds` of robot time. Raises JumpError."""
        before = self._mode.newest if isinstance(self._mode, Servo) else self.target
        if not np.abs(joints - before).max() <= JUMP_LIMIT_RAD:  # NaN is none either
            raise JumpError("servo target too far from the one before")
        if not isinstance(self._mode, Servo):
            self.begin(Servo(self.target, delay_s=self._delay_s, gain=self._gain))
        assert isinstance(self._mode, Servo)
        jitter_s = self._drive.servo_jitter_s
        self._mode.add(self._mode_s, joints, jitter_s=jitter_s * float(self._jitter.normal()) if jitter_s else 0.0)
        self.clock.grant(min(seconds, 1.0))

    def speed(self, velocity: F64, acceleration: float) -> None:
        """Approaches joint velocities; the next such command goes on from the velocity reached."""
        if not isinstance(self._mode, Speed):
            self.begin(Speed(self.target))
        assert isinstance(self._mode, Speed)
        self._mode.command(velocity, acceleration)

    def run_to_end(self) -> bool:
        """Executes a move or a stop at once where the clock runs ahead; returns True once it is done.

        Raises OutOfReachError when the path leaves what the arm can reach.
        """
        deadline_s = self.time_s + LONGEST_MOVE_S
        while self.clock.fast and not self.is_done and self.time_s < deadline_s:
            self.clock.grant(SLICE_S)
            if self.trouble:
                raise OutOfReachError(self.trouble)
        return self.is_done

    @property
    def is_done(self) -> bool:
        """True once the present mode has come to its end."""
        if not self._was_done:
            speed = float(np.abs(self.world.joint_velocities).max())
            self._was_done = self._mode.done(self._mode_s, speed)
        return self._was_done

    def command_gripper(self, opening: float) -> None:
        """Moves the fingers to an opening, 0 closed .. 1 open; heard as late as servo targets are."""
        delay_s = self._delay_s if isinstance(self._mode, Servo) else 0.0
        self._gripper_waiting.append((self.time_s + delay_s, opening))

    def start_episode(self) -> None:
        """Draws the delay and the gain of the next episode."""
        self._delay_s = float(self._rng.choice(self._latency_steps)) / CONTROL_HZ + self._drive.servo_delay_s
        self._episode += 1
        self._jitter = np.random.default_rng((self._seed, self._episode))
        if self._gains[0] < self._gains[1]:
            self._gain = float(self._rng.uniform(*self._gains))

    def _advance(self, seconds: float) -> None:
        while seconds > 1e-9:
            slice_s = min(seconds, SLICE_S)
            self._move(slice_s)
            self.time_s += slice_s
            seconds -= slice_s
            self._was_done = self.is_done

    def _move(self, slice_s: float) -> None:
        before = self.target
        mode_slice_s = slice_s if isinstance(self._mode, Stop) else slice_s * self.speed_fraction
        self._mode_s += mode_slice_s
        try:
            self.target = self._mode.target(self._mode_s, mode_slice_s)
        except OutOfReachError as error:
            self.brake()
            self.trouble = str(error)
        self.velocity = (self.target - before) / slice_s
        while self._gripper_waiting and self._gripper_waiting[0][0] <= self.time_s:
            self.world.set_gripper(self._gripper_waiting.popleft()[1])
        self.world.set_joint_targets(self.target)
        self.world.advance(slice_s)
