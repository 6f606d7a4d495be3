"""The controller holds what the ports show and command: variables, the program, safety stops, and the arm.

    inputs (RTDE) ──► receive ──► Program ──commands──► SimulatedArm ──joint targets──► world, slice by slice
    wall clock ─────► tick ────────────────────────────────┘                              │
    state (RTDE) ◄── variables ◄──────────────────────────────────────────────────────────┘

Its clock runs ahead of the wall clock while it executes servo commands, where that is asked for.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from actors.simulated_ur import rtde
from actors.simulated_ur.commands import Program, ScriptEndedError
from actors.simulated_ur.kinematics import ControllerKinematics, OutOfReachError
from actors.simulated_ur.motion import JumpError, SimulatedArm
from actors.simulated_ur.world import World
from protos.schema import U8, Configuration
from twin.robots import UR5E, Robot

log = logging.getLogger(__name__)


class Controller:
    """One simulated controller and its arm; `SimulatedArm` says what the numbers of the arm mean."""

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
        self.world, self._now = world, now
        self.kinematics = kinematics = ControllerKinematics(robot)
        self.variables = rtde.start_values()
        self.arm = arm = SimulatedArm(world, fast=fast, latency_steps=latency_steps, gain=gain, seed=seed, now=now)
        self.program = Program(arm, kinematics, self.variables)
        self.safety_text = ""
        self._measured: Mapping[str, Callable[[], Any]] = {
            "timestamp": lambda: arm.time_s,
            "actual_q": lambda: world.joints,
            "actual_qd": lambda: world.joint_velocities,
            "target_q": lambda: arm.target,
            "actual_TCP_pose": lambda: kinematics.pose_of(world.joints),
            "actual_TCP_speed": lambda: kinematics.velocity_of(world.joints, world.joint_velocities),
            "actual_TCP_force": lambda: world.wrench,
            "target_TCP_pose": lambda: kinematics.pose_of(arm.target),
        }
        self._last_input = now()

    # --- RTDE and the clock

    def tick(self) -> None:
        """Lets real time pass; called at a steady rate."""
        self._catch_up()
        silent_s = self._now() - self._last_input
        if self.program.running and silent_s > self.program.watchdog_s:
            self.stop_program(f"watchdog: no command for {silent_s:.2f} s")

    def receive(self, inputs: Mapping[str, Any]) -> None:
        """Takes input registers from a client."""
        self._catch_up()
        self._last_input = self._now()
        self.variables.update(inputs)
        if "input_int_register_0" not in inputs:
            return
        try:
            self.program.command_arrived()
        except ScriptEndedError as end:
            self.stop_program(str(end))
        except (JumpError, OutOfReachError) as error:
            self.protective_stop(str(error))

    def state(self, names: Collection[str]) -> Mapping[str, Any]:
        """Returns the variables; those among `names` that have to be measured are as of now."""
        for name in self._measured.keys() & names:
            self.variables[name] = self._measured[name]()
        return self.variables

    @property
    def time_s(self) -> float:
        """The robot's clock, in seconds."""
        return self.arm.time_s

    def _catch_up(self) -> None:
        self.arm.clock.catch_up()
        if self.arm.trouble:
            self.protective_stop(self.arm.trouble)
        self.program.time_passed()

    # --- the program and safety

    def start_program(self) -> None:
        """Starts the uploaded script; refused while a safety stop is active."""
        if self.is_stopped:
            log.warning("script refused: %s", self.safety_text)
            return
        self._last_input = self._now()
        self.variables["runtime_state"] = rtde.RUNTIME_PLAYING
        self.variables["robot_status_bits"] = rtde.STATUS_POWER_ON | rtde.STATUS_PROGRAM_RUNNING
        self.program.start()

    def stop_program(self, why: str) -> None:
        """Ends the script; the arm stays where it is."""
        log.info("script stops: %s", why)
        self.program.stop()
        self.variables["runtime_state"] = rtde.RUNTIME_STOPPED
        self.variables["robot_status_bits"] = rtde.STATUS_POWER_ON
        self.arm.hold()

    def protective_stop(self, why: str) -> None:
        """Brakes at once; only `unlock` ends it."""
        log.warning("protective stop: %s", why)
        self.safety_text = why
        self.variables["safety_mode"] = rtde.SAFETY_PROTECTIVE_STOP
        self.variables["safety_status_bits"] = rtde.SAFETY_BIT_PROTECTIVE_STOP
        self.stop_program("protective stop")
        self.arm.brake()

    def unlock(self) -> None:
        """Releases a protective stop, as an operator does. Nothing moves."""
        self.variables["safety_mode"] = rtde.SAFETY_NORMAL
        self.variables["safety_status_bits"] = rtde.SAFETY_BIT_NORMAL
        self.safety_text = ""

    @property
    def is_stopped(self) -> bool:
        """True while a safety stop is active."""
        return bool(self.variables["safety_mode"] != rtde.SAFETY_NORMAL)

    # --- the gripper and the lab

    @property
    def opening(self) -> float:
        """The measured opening of the gripper, 0 closed .. 1 open."""
        return self.world.opening

    def command_gripper(self, opening: float) -> None:
        """Moves the fingers to an opening, 0 closed .. 1 open."""
        self._catch_up()
        self.arm.command_gripper(opening)

    def place(self, configuration: Configuration) -> None:
        """Puts the objects where a person would; the next episode's latency is drawn."""
        self._catch_up()
        self.world.place(configuration)
        self.arm.draw_latency()

    def render(self) -> tuple[U8, U8]:
        """Returns the side and the wrist image of this moment."""
        self._catch_up()
        return self.world.render()
