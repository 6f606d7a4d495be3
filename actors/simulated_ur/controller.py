"""The controller holds what the ports show and command: variables, the program, its pendant, and the arm.

    inputs (RTDE) ──► receive ──► Program ──commands──► SimulatedArm ──joint targets──► world, slice by slice
    wall clock ─────► tick ────────────────────────────────┘                              │
    state (RTDE) ◄── variables ◄──────────────────────────────────────────────────────────┘

Its clock runs ahead of the wall clock while it executes servo commands, where that is asked for. As far as the script's
watchdog is concerned robot time then passes by commands alone, so a computer that stalls ends nothing; in real time the
watchdog counts the client's silence as a robot does.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from actors.simulated_ur import outputs, rtde
from actors.simulated_ur.commands import Program, ScriptEndedError, ScriptFailedError
from actors.simulated_ur.kinematics import ControllerKinematics, OutOfReachError
from actors.simulated_ur.motion import NO_DRIVE, ProtectiveStopError, SimulatedArm
from actors.simulated_ur.pendant import ROBOT_MODES, SAFETY_MODES, Pendant, Version
from actors.simulated_ur.world import World
from protos.schema import F64, U8, Configuration
from twin.labs import Drive
from twin.randomize import Span
from twin.robots import UR5E, Robot

log = logging.getLogger(__name__)

STALL_S = 0.02
"""A longer gap between two ticks is a stall of this computer, not silence of the client."""
CYCLE_S = 0.005
"""Less real time than this, a step of the physics, passes later where commands are streamed, together with more."""
NEW_VARIABLES = frozenset({"payload", "payload_cog", "payload_inertia", "tcp_offset", "ft_raw_wrench"})
"""Variables that old software does not tell: PolyScope before 5.6 and every CB3, as far as is assumed here."""
TELLS_NEW_VARIABLES: Version = (5, 6, 0, 0)


class Controller:
    """One simulated controller and its arm; `SimulatedArm` says what the numbers of the arm mean."""

    def __init__(
        self,
        world: World,
        *,
        fast: bool,
        robot: Robot = UR5E,
        pendant: Pendant | None = None,
        latency_steps: tuple[float, ...] = (0,),
        gain: Span = (1.0, 1.0),
        drive: Drive = NO_DRIVE,
        seed: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.world, self._now = world, now
        self.kinematics = kinematics = ControllerKinematics(robot)
        self.variables = rtde.start_values()
        self.is_fast = fast
        self.arm = arm = SimulatedArm(
            world, fast=fast, latency_steps=latency_steps, gain=gain, drive=drive, seed=seed, now=now
        )
        self.program = Program(arm, kinematics, self.variables, self)
        self._robot, self._force_zero = robot, np.zeros(6)
        self.popup = ""
        """Message that the pendant shows; empty when there is none."""
        self.pendant = Pendant()
        self.set_pendant(pendant or self.pendant)
        self._measured: Mapping[str, Callable[[], Any]] = {
            "timestamp": lambda: arm.time_s,
            "actual_q": lambda: world.joints,
            "actual_qd": lambda: world.joint_velocities,
            "target_q": lambda: arm.target,
            "actual_TCP_pose": lambda: kinematics.pose_of(world.joints),
            "actual_TCP_speed": lambda: kinematics.velocity_of(world.joints, world.joint_velocities),
            "actual_TCP_force": lambda: world.wrench + self._force_zero,
            "target_TCP_pose": lambda: kinematics.pose_of(arm.target),
        }
        self._silent_s, self._ticked = 0.0, now()

    # --- RTDE and the clock

    def tick(self) -> None:
        """Lets real time pass; called at a steady rate."""
        self._catch_up()
        now = self._now()
        gap_s, self._ticked = min(now - self._ticked, STALL_S), now
        if not self.is_fast:
            self._silent_s += gap_s
        if self.program.running and self._silent_s > self.program.watchdog_s:
            self.stop_program(f"watchdog: no command for {self._silent_s:.2f} s")

    def receive(self, inputs: Mapping[str, Any]) -> None:
        """Takes input registers from a client."""
        self._catch_up(least_s=CYCLE_S if self.program.is_streamed(inputs.get("input_int_register_0")) else 0.0)
        self.variables.update(inputs)
        if "input_int_register_0" not in inputs:
            self._switch(inputs)
            return
        self._silent_s = 0.0
        try:
            self.program.command_arrived()
        except ScriptFailedError as error:
            self._show(str(error))
            self.stop_program(str(error))
        except ScriptEndedError as end:
            self.stop_program(str(end))
        except (ProtectiveStopError, OutOfReachError) as error:
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

    @property
    def version(self) -> Version:
        """The version of its software."""
        return self.pendant.version

    @property
    def absent(self) -> Collection[str]:
        """Variables that this version does not tell."""
        return NEW_VARIABLES if self.pendant.version < TELLS_NEW_VARIABLES else ()

    def _switch(self, inputs: Mapping[str, Any]) -> None:
        """Takes what a client wrote about the speed slider and the outputs."""
        share = inputs.get("speed_slider_fraction", -1.0)
        if inputs.get("speed_slider_mask") and 0 <= share <= 1:
            self.set_pendant(replace(self.pendant, speed_slider=share))
        outputs.switch(self.variables, inputs)

    def _catch_up(self, *, least_s: float = 0.0) -> None:
        self.arm.clock.catch_up(least_s=least_s)
        if self.arm.trouble:
            self.protective_stop(self.arm.trouble)
        self.program.time_passed()

    # --- the program

    def start_program(self) -> None:
        """Starts the uploaded script, in place of one that runs; ignored in local control and while nothing may run."""
        pendant = self.pendant
        if not (pendant.is_remote and pendant.may_run):
            control = "remote" if pendant.is_remote else "local"
            log.warning("script ignored: %s, %s, %s control", pendant.mode, pendant.safety, control)
            return
        if self.program.running:
            self.stop_program("another script arrived")
        self._silent_s = 0.0
        self.variables["runtime_state"] = rtde.RUNTIME_PLAYING
        self.program.start()
        self._show_status()

    def refuse_script(self) -> None:
        """Answers a script that is not ur_rtde's: it ends the one that runs, as on the robot; it is not executed."""
        self._show("this script is not ur_rtde's control script, which alone is simulated")
        if self.program.running:
            self.stop_program("another script arrived")

    def stop_program(self, why: str) -> None:
        """Ends the script; the arm decelerates and stands."""
        log.info("script stops: %s", why)
        self.program.stop()
        self.variables["runtime_state"] = rtde.RUNTIME_STOPPED
        self._show_status()
        self.arm.end_motion()

    @property
    def is_running(self) -> bool:
        """True while the script runs."""
        return self.program.running

    def _show(self, message: str) -> None:
        log.error("popup: %s", message)
        self.popup = message

    def _show_status(self) -> None:
        power = rtde.STATUS_POWER_ON if self.pendant.is_powered else 0
        self.variables["robot_status_bits"] = power | (rtde.STATUS_PROGRAM_RUNNING if self.program.running else 0)

    # --- the pendant

    def set_pendant(self, pendant: Pendant) -> None:
        """Makes the robot as its pendant says. Nothing moves; what may not go on stops."""
        before, self.pendant = self.pendant, pendant
        if before.tcp_offset != pendant.tcp_offset:
            self.kinematics.set_tool(pendant.tcp_offset)
        if before.force_bias != pendant.force_bias:
            self._force_zero = np.array(pendant.force_bias)
        self.arm.speed_fraction = pendant.speed_slider
        self._show_pendant(pendant)
        if self.program.running and not (pendant.may_run and pendant.is_remote):
            self.stop_program(f"{pendant.mode}, {pendant.safety}")
        if not pendant.may_run:
            self.arm.brake()

    def _show_pendant(self, pendant: Pendant) -> None:
        gripper, mass, centre = self._robot.gripper, pendant.payload_kg, pendant.payload_cog_m
        own_centre = self._robot.flange_from_tcp @ np.append(gripper.com_from_tcp_m, 1.0)
        safety = SAFETY_MODES[pendant.safety]
        self.variables |= {
            "robot_mode": ROBOT_MODES[pendant.mode],
            "safety_mode": safety,
            "safety_status": safety,
            "safety_status_bits": pendant.safety_bits,
            "speed_scaling": pendant.speed_slider,
            "target_speed_fraction": pendant.speed_slider,
            "tcp_offset": self.kinematics.flange_from_tcp,
            "payload": gripper.mass_kg if mass is None else mass,
            "payload_cog": own_centre[:3] if centre is None else centre,
        }
        self._show_status()

    def set_tool(self, offset: F64) -> None:
        """Takes another TCP offset (6,)."""
        x, y, z, rx, ry, rz = offset.tolist()
        self.set_pendant(replace(self.pendant, tcp_offset=(x, y, z, rx, ry, rz)))

    def set_payload(self, kilograms: float, centre: F64) -> None:
        """Takes another payload; a centre of three zeros leaves the one before."""
        x, y, z = centre.tolist() if centre.any() else list(self.variables["payload_cog"])
        self.set_pendant(replace(self.pendant, payload_kg=kilograms, payload_cog_m=(x, y, z)))

    def zero_force(self) -> None:
        """Makes the wrench of this moment the new zero."""
        self._force_zero = -np.array(self.world.wrench)

    def protective_stop(self, why: str) -> None:
        """Brakes at once; only unlocking it at the dashboard ends it."""
        log.warning("protective stop: %s", why)
        self.set_pendant(replace(self.pendant, safety="PROTECTIVE_STOP"))

    # --- the gripper and the lab

    @property
    def opening(self) -> float:
        """The measured opening of the gripper, 0 closed .. 1 open."""
        return self.world.opening

    @property
    def gripper_fault(self) -> int:
        """The gripper's register FLT."""
        return self.pendant.gripper_fault

    def command_gripper(self, opening: float) -> None:
        """Moves the fingers to an opening, 0 closed .. 1 open."""
        self._catch_up()
        self.arm.command_gripper(opening)

    def fingertips(self) -> F64:
        """Returns the pose (6,) of the tool that is mounted, whatever is set at the pendant."""
        self._catch_up()
        return ControllerKinematics(self._robot).pose_of(self.world.joints)

    def place(self, configuration: Configuration) -> None:
        """Puts the objects where a person would; the next episode's latency is drawn."""
        self._catch_up()
        self.world.place(configuration)
        self.arm.start_episode()

    def render(self) -> tuple[U8, U8]:
        """Returns the side and the wrist image of this moment."""
        self._catch_up()
        return self.world.render()
