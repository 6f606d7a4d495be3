"""This module drives a UR arm by ur_rtde: it observes it, servos it within limits, holds it when anything is wrong.

    servo(target) ─► limits ─► goal ─► streamed targets (servoL) ─► controller    every cycle: safety, joints, force
         │ feeds                                                                          │ trouble
         ▼                                                                                ▼
      watchdog ── no fresh action for 150 ms ─► hold (servoStop)                   hold, ArmStopped
         └─ feeds the controller's watchdog, which ends the script when this process dies

The arm moves only in `move_to`, `servo` and `rest`. Each needs `armed=True`, which an operator grants, and an arm that
is not `held`: before its first motion, after every hold that nobody planned and after a standstill a person says "go
on", and the caller passes it on by `release`. Time is the robot's own clock.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from actors.real.collisions import load_hulls
from actors.real.kinematics import ModelName
from actors.real.link import ArmState, Link
from actors.real.pendant import PendantSettings
from actors.real.safety import CRAWL_M_S, Limits, angle_between
from actors.real.stream import StreamLimiter
from protos.errors import ArmHeld, ArmStopped, InputError
from protos.process import Closing
from protos.schema import F64
from protos.settings import bounded
from protos.space import Box

log = logging.getLogger(__name__)

ARRIVED_M, ARRIVED_RAD = 0.004, 0.03
ARRIVAL_LOOK_S = 0.01
"""A move is looked at so often, whether it has arrived or must be stopped."""
FEED_RATIO = 4
"""The controller's watchdog hears from us so many times as often as it asks for."""
SHORTEST_SLICE_S = 1e-3
"""The rest of a period that is shorter than this is waited for."""
TURN_ARM_M = 0.1
"""A move that mostly turns is as long as the way of a point this far from the TCP."""
LATE_SHARE = 0.25
"""A step that begins later than this share of its period starts a new rhythm instead of catching up: what is left would
be too short for a full action at the limits of speed and acceleration."""


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """Address and driving parameters of one arm."""

    host: str = "127.0.0.41"
    model: ModelName = "ur5e"
    obstacles: tuple[Path | Box, ...] = ()
    """Things that no part of the arm may touch, fingers included: boxes in the base frame, and folders of objects that
    `twinrl cut` made."""
    connect_timeout_s: float = 5.0
    stream_hz: float = 50.0
    """Servo targets per second of robot time; 125 to 500 suit a real arm."""
    blend: float = 1.0
    """Share of a control period in which the servo target travels to the new command; the rest it stands there."""
    lookahead_s: float = 0.05
    gain: float = 300.0
    hold_after_s: float = 0.15
    """Time without a fresh action after which the arm is held where it is."""
    standstill_s: float = 1.0
    """Time without a motion after which a person is asked before the next one."""
    controller_watchdog_hz: float = 10.0
    """The controller ends its script by itself when it hears less than this, whatever becomes of this computer."""
    move_speed_m_s: float = 0.25
    move_acceleration_m_s2: float = 1.0
    move_timeout_s: float = 20.0
    pendant: PendantSettings = field(default_factory=PendantSettings)
    """Values that must be set at the teach pendant."""

    BOUNDS: ClassVar[Mapping[str, tuple[float, float]]] = {
        "connect_timeout_s": (0.1, 60.0),
        "stream_hz": (10.0, 500.0),
        "blend": (0.05, 1.0),
        "lookahead_s": (0.03, 0.2),  # ur_rtde's own limits, as for the gain
        "gain": (100.0, 2000.0),
        "hold_after_s": (0.02, 1.0),
        "standstill_s": (0.2, 10.0),
        "controller_watchdog_hz": (2.0, 50.0),
        "move_speed_m_s": (0.01, 0.5),
        "move_acceleration_m_s2": (0.1, 2.5),
        "move_timeout_s": (5.0, 120.0),
    }

    def __post_init__(self) -> None:
        bounded(self, "arm ", self.BOUNDS)


class UrArm(Closing):
    """Observes and moves one arm. Connecting uploads the control script and moves nothing."""

    def __init__(
        self, settings: ArmSettings, limits: Limits, *, armed: bool, interruption: Callable[[], str] = lambda: ""
    ) -> None:
        """`interruption` is asked all the time while the arm moves; what it returns, unless empty, holds the arm."""
        self.settings, self.limits, self.armed = settings, limits, armed
        hulls = load_hulls(settings.obstacles)
        self._interruption = interruption
        self.holds = 0
        """Number of times that the watchdog held the arm."""
        self._link = Link.connect(settings.host, settings.connect_timeout_s, settings.pendant, settings.model)
        try:
            if differences := self._pendant_differences(at_rest=True):
                raise InputError(f"UR controller at {settings.host}: {differences}")
        except BaseException:
            self._link.close()
            raise
        self._commanded = self._link.state().pose
        self._limiter = StreamLimiter(limits, settings.model, settings.stream_hz, hulls)
        self._is_servoing = self._is_moving = False
        self._due_s, self._met = -math.inf, ""
        self._last_action = time.monotonic()
        self._held = "the first motion"
        self._closing = threading.Event()
        self._arm_controller()
        self._watchdog = threading.Thread(target=self._watch, name="arm watchdog", daemon=True)
        self._watchdog.start()

    # --- reading

    def observe(self) -> ArmState:
        """Returns the newest state. Raises ArmStopped when the controller itself is stopped or gone."""
        if why := self._link.trouble():
            raise self._stopped(why)
        return self._link.state()

    def can_be_commanded(self) -> bool:
        """Returns True while the controller itself is well and takes commands."""
        return not self._link.trouble()

    def wait_until_fit(self, timeout_s: float = 5.0) -> None:
        """Waits until the arm may move. Raises ArmStopped when that takes longer."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._check(self._link.state())
            except ArmHeld:
                raise
            except ArmStopped as error:
                if time.monotonic() > deadline:
                    raise
                log.debug("not fit yet: %s", error)
                time.sleep(0.05)
            else:
                return

    @property
    def time_s(self) -> float:
        """The robot's clock [s]."""
        return self._link.time_s

    def anchor(self) -> F64:
        """Returns the pose (6,) that the next command starts from: as commanded, or as measured after a hold."""
        with self._link.lock:
            return self._commanded.copy()

    @property
    def held(self) -> str:
        """The reason why a person must say "go on" before anything moves again; empty while the arm is free."""
        with self._link.lock:
            still_s = time.monotonic() - self._last_action
            if not self._held and still_s > self.settings.standstill_s:
                self._held = f"the arm has stood still for {still_s:.1f} s"
            return self._held

    def release(self) -> None:
        """Frees the arm: a person has just said "go on". Raises ArmStopped while the cause of the hold stands."""
        for is_last in (False, False, True):
            try:
                self._make_fit()
                break
            except ArmHeld as hold:  # the script ended once more, on a computer that stalls
                log.debug("not fit yet: %s", hold)
                if is_last:
                    raise
        with self._link.lock:
            self._commanded = self._link.state().pose
            self._limiter.forget()
            self._held, self._last_action = "", time.monotonic()

    def _make_fit(self) -> None:
        with self._link.lock:
            if why := self._link.trouble():
                raise ArmStopped(why)
            if self._link.script_end():
                self._link.upload()
                self._arm_controller()
            self._is_servoing = self._is_moving = False
        self.wait_until_fit()
        if differences := self._pendant_differences(at_rest=False):
            raise self._stopped(differences)

    # --- moving

    def servo(self, target: F64, period_s: float, *, is_gentle: bool = False) -> F64:
        """Moves the commanded TCP pose to `target` (6,) within one control period; returns the pose really commanded.

        Blocks until the period is over on the robot's clock. Raises ArmStopped, after holding, on any trouble, and
        ArmHeld while a person has to be asked.
        """
        self._require_consent()
        self._check(state := self._link.state())
        begin = self.anchor()
        self._last_action = time.monotonic()
        goal = self._clip(target, begin, state, period_s)
        start_s = state.t
        is_in_rhythm = 0.0 <= start_s - self._due_s < LATE_SHARE * period_s
        self._due_s = (self._due_s if is_in_rhythm else start_s) + period_s
        arrive_s = start_s + self.settings.blend * (self._due_s - start_s)
        is_short = False
        while (left_s := self._due_s - (now := self._link.time_s)) > SHORTEST_SLICE_S:
            slice_s = left_s / math.ceil(left_s * self.settings.stream_hz - 1e-3)
            self._stream(goal, now, slice_s, arrive_s - now, is_gentle)
            is_short = is_short or self._limiter.is_short
            self._link.wait_until(now + slice_s - 1e-4)
            self._check(state := self._link.state())
            self._check_following(state)
        self._link.wait_until(self._due_s - 1e-4)
        self._tell_met()
        return self._give_up_rest() if is_short else goal

    def rest(self, seconds: float) -> None:
        """Stays where it is for a time of the robot's clock."""
        end_s = self.time_s + seconds
        while self.time_s < end_s:
            self.servo(self.anchor(), min(0.1, max(end_s - self.time_s, 0.02)))

    def move_to(self, pose: F64) -> None:
        """Moves in a straight line to a TCP pose inside the work box, at the speed of the settings; blocks.

        Raises as `servo` does.
        """
        self._require_consent()
        if (outside := self.limits.outside(pose[:3])) > 0:
            raise InputError(f"pose {np.round(pose[:3], 3).tolist()} is {outside * 100:.1f} cm outside the work box")
        self._check(state := self._link.state())
        try:
            self.hold("before a move")
            if self.limits.outside(state.pose[:3]) > ARRIVED_M:
                inside = np.clip(state.pose[:3], self.limits.low + 2 * ARRIVED_M, self.limits.high - 2 * ARRIVED_M)
                self._move_line(np.concatenate([inside, state.pose[3:]]), CRAWL_M_S)
            self._move_line(pose, self.settings.move_speed_m_s)
        except ArmHeld as hold:
            raise self._held_for(str(hold)) from hold
        self._commanded = pose.copy()

    def _move_line(self, pose: F64, speed: float) -> None:
        control, settings = self._link.control, self.settings
        state = self._link.state()
        if met := self._limiter.met_on_line(pose, joints=state.joints, measured=state.pose):
            raise self._stopped(f"refused a move: {met} would come too close: jog the arm to where its way is free")
        start = state.pose
        if (turn := angle_between(start, pose)) > 0:
            length = max(float(np.linalg.norm(pose[:3] - start[:3])), TURN_ARM_M * turn)
            speed = min(speed, self.limits.settings.speed_m_s, self.limits.settings.speed_rad_s * length / turn)
        acceleration = settings.move_acceleration_m_s2
        self._is_moving = True
        self._link.execute("moveL", lambda: control.moveL(pose.tolist(), speed, acceleration, True))
        deadline = time.monotonic() + settings.move_timeout_s
        while not self._has_arrived(pose):
            if time.monotonic() > deadline:
                raise self._stopped(f"the arm did not arrive within {settings.move_timeout_s:g} s: look for obstacles")
            time.sleep(ARRIVAL_LOOK_S)
        self._is_moving, self._last_action = False, time.monotonic()

    def hold(self, why: str) -> None:
        """Stops whatever motion is under way; the next command starts from where the arm stands."""
        with self._link.lock:
            if self._is_servoing or self._is_moving:
                stop = self._link.control.stopL if self._is_moving else self._link.control.servoStop
                self._is_servoing = self._is_moving = False
                log.debug("hold: %s", why)
                self._link.execute("stop", stop)
            self._commanded = self._link.state().pose
            self._limiter.forget()

    def try_to_hold(self, why: str) -> None:
        """Holds as far as the controller still listens; one that does not has stopped by itself."""
        try:
            self.hold(why)
        except ArmStopped as error:
            log.info("hold (%s): %s", why, error)

    def close(self) -> None:
        """Holds the arm, ends the script, disconnects."""
        self._closing.set()
        self._watchdog.join(1.0)
        self.try_to_hold("closing")
        self._link.close()

    # --- inside

    def _arm_controller(self) -> None:
        """Sets the controller's own watchdog, which runs while its script does."""
        hertz = self.settings.controller_watchdog_hz
        self._link.execute("watchdog", lambda: self._link.control.setWatchdog(hertz))

    def _require_consent(self) -> None:
        if not self.armed:
            raise InputError('the arm is not armed: clear the workspace, then start with "--arm" (setting armed: true)')
        if why := self.held:
            raise ArmHeld(why)

    def _clip(self, target: F64, begin: F64, state: ArmState, period_s: float) -> F64:
        try:
            return self.limits.clip(target, commanded=begin, measured=state.pose, period_s=period_s)
        except ArmStopped as error:
            raise self._stopped(str(error)) from error

    def _stream(self, goal: F64, now_s: float, slice_s: float, left_s: float, is_gentle: bool) -> None:
        """Streams the next target on the way to a goal."""
        control, settings = self._link.control, self.settings
        with self._link.lock:
            if self._held:
                raise ArmHeld(self._held)
            if self._limiter.pose is None:
                state = self._link.state()
                begin = self._commanded if _is_at(state.pose, self._commanded) else state.pose  # somebody moved it
                self._limiter.start(begin, joints=state.joints, measured=state.pose)
            pose = self._limiter.next(goal, now_s=now_s, slice_s=slice_s, left_s=left_s, is_gentle=is_gentle)
            self._is_servoing, self._last_action, self._commanded = True, time.monotonic(), goal
            command = lambda: control.servoL(pose.tolist(), 0, 0, slice_s, settings.lookahead_s, settings.gain)  # noqa: E731
            try:
                self._link.stream("servoL", command)
            except ArmHeld as hold:
                raise self._held_for(str(hold)) from hold

    def _tell_met(self) -> None:
        """Warns, once, of the pair that keeps the arm from its goals."""
        if (met := self._limiter.meets) and met != self._met:
            log.warning("slowed or held: %s would come too close", met)
        self._met = met

    def _give_up_rest(self) -> F64:
        """Goes on from the target streamed last, where joints or a collision kept it from the goal."""
        with self._link.lock:
            if (streamed := self._limiter.pose) is not None:
                self._commanded = streamed
            return self._commanded.copy()

    def _pendant_differences(self, *, at_rest: bool) -> str:
        """Returns what is set otherwise at the pendant; empty when all is well. A pressed tool is none `at_rest`."""
        reading = self._link.read_pendant(self.settings.model)
        return "; ".join(self.settings.pendant.differences(reading, at_rest=at_rest))

    def _check(self, state: ArmState) -> None:
        why = self._link.trouble() or self.settings.pendant.slider_difference(self._link.speed_slider)
        if why := why or self.limits.check_measured(**vars(state)):
            raise self._stopped(why)
        if why := self._link.script_end() or self._interruption():
            trouble = self._link.trouble()  # heard of a little later than the end of the script
            raise self._stopped(trouble) if trouble else self._held_for(why)

    def _check_following(self, state: ArmState) -> None:
        with self._link.lock:
            streamed = self._limiter.pose
        if streamed is not None and (why := self.limits.check_following(streamed, state.pose)):
            raise self._stopped(why)

    def _held_for(self, why: str) -> ArmHeld:
        """Holds a well arm until a person says "go on"; returns the error to raise."""
        self.try_to_hold(why)
        self._held = why
        return ArmHeld(why)

    def _stopped(self, why: str) -> ArmStopped:
        """Holds the arm; returns the error to raise."""
        self.try_to_hold(why)
        self._held = why
        return ArmStopped(why)

    def _has_arrived(self, pose: F64) -> bool:
        self._check(state := self._link.state())
        return _is_at(state.pose, pose) and float(np.abs(state.velocity[:3]).max()) < ARRIVED_M

    def _watch(self) -> None:
        """Runs the watchdog; the body of its thread."""
        feed_s = 1 / (FEED_RATIO * self.settings.controller_watchdog_hz)
        wait_s = 0.0
        while not self._closing.wait(wait_s):
            try:
                with self._link.lock:
                    self._watch_once(feed_s)
            except ArmStopped as error:
                log.debug("watchdog: %s", error)  # the loop meets the same trouble at its next call and reports it
            wait_s = min(self.settings.hold_after_s / 5, max(feed_s - self._link.unheard_s, feed_s / 4))

    def _watch_once(self, feed_s: float) -> None:
        """Holds an arm whose caller is silent; feeds the controller's watchdog when nothing else does."""
        silent_s = time.monotonic() - self._last_action
        if self._is_servoing and silent_s > self.settings.hold_after_s:
            self.holds += 1
            self._held = f"no fresh action for {silent_s * 1e3:.0f} ms"
            log.warning("%s: arm held", self._held)
            self.hold(self._held)
        elif self._link.is_script_running:
            if self._link.unheard_s >= feed_s:
                self._link.execute("watchdog", self._link.control.kickWatchdog)
        elif not self._held:
            self._held = self._link.script_end()
            log.warning("%s: arm held", self._held)


def _is_at(pose: F64, goal: F64) -> bool:
    """Returns True if two TCP poses (6,) are the same to the exactness with which an arm arrives."""
    return float(np.abs(pose[:3] - goal[:3]).max()) < ARRIVED_M and angle_between(pose, goal) < ARRIVED_RAD
