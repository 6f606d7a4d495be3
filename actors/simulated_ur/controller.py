"""The controller: variables, robot time, the way of moving, safety.

inputs (RTDE) ──► receive ──► Program ──► begin(mode) ──┐
wall clock ─────► tick ─────────────────────────────────┴─► advance: mode ──joint target──► world, slice by slice
state ◄── variables ◄── world
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from actors.simulated_ur import variables as var
from actors.simulated_ur.clock import RobotClock
from actors.simulated_ur.commands import Program
from actors.simulated_ur.kinematics import ControllerKinematics, OutOfReachError
from actors.simulated_ur.motion import Hold, Mode, Servo
from actors.simulated_ur.world import World
from protos.schema import CONTROL_HZ, F64, Configuration
from twin.robots import Robot
from twin.robots.ur5e import UR5E

log = logging.getLogger(__name__)

SLICE_S = 0.02
"""Joint targets change at most this often."""
JUMP_LIMIT_RAD = 0.5
"""A servo target farther than this from the one before is a protective stop, as on the real controller."""
LONGEST_MOVE_S = 60.0


class Controller:
    """One simulated arm. `latency_steps` are the delays, in control steps, of which each episode draws one."""

    def __init__(
        self,
        world: World,
        *,
        fast: bool,
        robot: Robot = UR5E,
        latency_steps: tuple[int, ...] = (0,),
        gain: float = 1.0,
        seed: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.world = world
        self.kinematics = kinematics = ControllerKinematics(robot)
        self.time_s = 0.0
        self.variables = var.start_values()
        self.clock = RobotClock(self._advance, fast=fast, now=now)
        self.mode: Mode = Hold(world.joints.copy())
        self.program = Program(self)
        self.safety_text = ""
        self._target = world.joints.copy()
        self._measured: Mapping[str, Callable[[], Any]] = {
            "timestamp": lambda: self.time_s,
            "actual_q": lambda: world.joints,
            "actual_qd": lambda: world.joint_velocities,
            "target_q": lambda: self._target,
            "actual_TCP_pose": lambda: kinematics.pose_of(world.joints),
            "actual_TCP_speed": lambda: kinematics.velocity_of(world.joints, world.joint_velocities),
            "actual_TCP_force": lambda: world.wrench,
            "target_TCP_pose": lambda: kinematics.pose_of(self._target),
        }
        self._mode_began_s = 0.0
        self._latency_steps, self._gain = latency_steps, gain
        self._rng = np.random.default_rng(seed)
        self._delay_s = latency_steps[0] / CONTROL_HZ
        self._gripper_waiting: deque[tuple[float, float]] = deque()
        self._last_input = time.monotonic()
        self._watchdog_s = float("inf")

    # --- what the outside does

    def tick(self) -> None:
        """Lets real time pass; called at a steady rate."""
        self.clock.catch_up()
        silent_s = time.monotonic() - self._last_input
        if self.program.running and silent_s > self._watchdog_s:
            self.stop_program(f"watchdog: no command for {silent_s:.2f} s")

    def receive(self, inputs: Mapping[str, Any]) -> None:
        """Input registers from a client."""
        self.clock.catch_up()
        self._last_input = time.monotonic()
        self.variables.update(inputs)
        if "input_int_register_0" in inputs:
            self.program.command_arrived()

    def state(self, names: Collection[str]) -> Mapping[str, Any]:
        """The variables; those among `names` that have to be measured are as of now."""
        for name in self._measured.keys() & names:
            self.variables[name] = self._measured[name]()
        return self.variables

    def start_program(self) -> None:
        """The uploaded script starts; refused while a safety stop is active."""
        if self.is_stopped:
            log.warning("script refused: %s", self.safety_text)
            return
        self._watchdog_s = float("inf")
        self._last_input = time.monotonic()
        self.variables["runtime_state"] = var.RUNTIME_PLAYING
        self.variables["robot_status_bits"] = var.STATUS_POWER_ON | var.STATUS_PROGRAM_RUNNING
        self.program.start()

    def stop_program(self, why: str) -> None:
        """The script ends and the arm stays where it is."""
        log.info("script stops: %s", why)
        self.program.stop()
        self.variables["runtime_state"] = var.RUNTIME_STOPPED
        self.variables["robot_status_bits"] = var.STATUS_POWER_ON
        self.begin(Hold(self._target))

    def protective_stop(self, why: str) -> None:
        """Brakes at once; only `unlock` ends it."""
        log.warning("protective stop: %s", why)
        self.safety_text = why
        self.variables["safety_mode"] = var.SAFETY_PROTECTIVE_STOP
        self.variables["safety_status_bits"] = var.SAFETY_BIT_PROTECTIVE_STOP
        self.stop_program("protective stop")
        self.begin(Hold(self.world.joints.copy()))

    def unlock(self) -> None:
        """The operator releases a protective stop. Nothing moves."""
        self.variables["safety_mode"] = var.SAFETY_NORMAL
        self.variables["safety_status_bits"] = var.SAFETY_BIT_NORMAL
        self.safety_text = ""

    @property
    def is_stopped(self) -> bool:
        return bool(self.variables["safety_mode"] != var.SAFETY_NORMAL)

    def place(self, configuration: Configuration) -> None:
        """A person puts the objects there; the next episode's latency is drawn."""
        self.clock.catch_up()
        self.world.place(configuration)
        self._delay_s = int(self._rng.choice(self._latency_steps)) / CONTROL_HZ

    @property
    def opening(self) -> float:
        """Of the gripper, measured, 0 closed .. 1 open."""
        return self.world.opening

    def command_gripper(self, opening: float) -> None:
        """0 closed .. 1 open; heard as late as servo targets are."""
        self.clock.catch_up()
        delay_s = self._delay_s if isinstance(self.mode, Servo) else 0.0
        self._gripper_waiting.append((self.time_s + delay_s, opening))

    # --- what the program does

    def begin(self, mode: Mode) -> None:
        self.mode, self._mode_began_s = mode, self.time_s

    @property
    def target(self) -> F64:
        """Joint target of the moment."""
        return self._target

    def servo(self, joints: F64, seconds: float) -> None:
        """A servo target, executed for `seconds` of robot time."""
        if np.abs(joints - self._last_servo_target()).max() > JUMP_LIMIT_RAD:
            self.protective_stop("servo target too far from the one before")
            return
        if not isinstance(self.mode, Servo):
            self.begin(Servo(self._target, delay_s=self._delay_s, gain=self._gain))
        assert isinstance(self.mode, Servo)
        self.mode.add(self.time_s - self._mode_began_s, joints)
        self.clock.grant(min(seconds, 1.0))

    def run_to_end(self) -> None:
        """Executes a move or a stop at once where the clock runs ahead."""
        deadline_s = self.time_s + LONGEST_MOVE_S
        while self.clock.fast and not self._mode_is_done() and self.time_s < deadline_s:
            self.clock.grant(SLICE_S)

    def watch(self, hertz: float) -> None:
        """From now on, less than `hertz` commands per second of wall time stop the script."""
        self._watchdog_s = 1.0 / hertz if hertz > 0 else float("inf")

    # --- time

    def _advance(self, seconds: float) -> None:
        while seconds > 1e-9:
            slice_s = min(seconds, SLICE_S)
            self._move(slice_s)
            self.time_s += slice_s
            seconds -= slice_s
            if self.program.waits_for_motion and self._mode_is_done():
                self.program.motion_ended()

    def _move(self, slice_s: float) -> None:
        try:
            self._target = self.mode.target(self.time_s + slice_s - self._mode_began_s, slice_s)
        except OutOfReachError as error:
            self.protective_stop(str(error))
        while self._gripper_waiting and self._gripper_waiting[0][0] <= self.time_s:
            self.world.set_gripper(self._gripper_waiting.popleft()[1])
        self.world.set_joint_targets(self._target)
        self.world.advance(slice_s)

    def _mode_is_done(self) -> bool:
        speed = float(np.abs(self.world.joint_velocities).max())
        return self.mode.done(self.time_s - self._mode_began_s, speed)

    def _last_servo_target(self) -> F64:
        return self.mode.newest if isinstance(self.mode, Servo) else self._target
