"""A program does what the URScript that ur_rtde uploads does with its registers.

    client                                   program
    waits for output_int_0 = READY
    writes input_int_0 = command, input_double_0.. = arguments
                                             executes; output_int_0 = DONE when finished
    sees DONE, writes input_int_0 = 0
                                             output_int_0 = READY

Servo and speed commands, and questions about the moment, are executed whenever they arrive and leave READY standing:
the client does not wait for them. An error in a command's arguments ends the script with a popup, as a runtime error
of URScript does; so does a command that is not simulated, by its name. A number that ur_rtde does not know is done at
once.

Source: ur_rtde 1.6 (https://gitlab.com/sdurobotics/ur_rtde), `scripts/rtde_control.script` and
`src/rtde_control_interface.cpp`.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from actors.simulated_ur.kinematics import ControllerKinematics, Line, transformed
from actors.simulated_ur.motion import SETTLED_RAD_S, Move, ProtectiveStopError, SimulatedArm
from protos.schema import F64

log = logging.getLogger(__name__)

READY, DONE = 1, 2
CLEAR, STOP_SCRIPT = 0, 255
JOINT_LIMIT_RAD = 2 * np.pi
ROTATION_ARM_M = 0.1
"""A move that mostly turns is as long as the way of a point this far from the TCP."""
STEP_S = 0.002
_WITHOUT_EFFECT = (7, 19, 20, 21, 42, 53, 63)
"""Commands that end or tune what never runs here: force mode, freedrive, jogging, looking for a contact."""
_NOT_SIMULATED = {
    6: "forceMode",
    12: "servoC",
    25: "toolContact",
    38: "getJointTorques",
    41: "jogStart",
    45: "movePath",
    51: "moveUntilContact",
    56: "ftRtdeInputEnable",
    57: "enableExternalFtSensor",
    59: "setGravity",
    62: "startContactDetection",
    64: "readContactDetection",
    66: "directTorque",
    67: "getMassMatrix",
    68: "getCoriolisAndCentrifugalTorques",
    69: "getTargetJointAccelerations",
    70: "getJacobian",
    71: "getJacobianTimeDerivative",
}


class ScriptEndedError(Exception):
    """The script comes to its end for the reason given."""


class ScriptFailedError(ScriptEndedError):
    """The script ends with a runtime error, which the pendant shows."""


class Tool(Protocol):
    """The part of the controller that a script sets: the tool at the flange."""

    def set_tool(self, offset: F64) -> None: ...
    def set_payload(self, kilograms: float, centre: F64) -> None: ...
    def zero_force(self) -> None: ...


class Program:
    """The uploaded script: reads the command registers, moves the arm, answers in the output registers."""

    def __init__(
        self, arm: SimulatedArm, kinematics: ControllerKinematics, variables: dict[str, Any], tool: Tool
    ) -> None:
        self._arm, self._kinematics, self._variables, self._tool = arm, kinematics, variables, tool
        self.running = False
        self.watchdog_s = float("inf")
        """A client that is silent for longer ends the script, in seconds."""
        self._waits_for_motion = self._executing = False
        self._streamed = self._streamed_commands()
        self._commands = self._awaited_commands()

    def _streamed_commands(self) -> dict[int, Callable[[], None]]:
        arm, kinematics = self._arm, self._kinematics
        return {
            9: lambda: self._speed(self._doubles()),
            10: lambda: self._speed(kinematics.joint_velocities(arm.target, self._doubles())),
            11: lambda: self._servo(self._doubles()),
            24: lambda: self._servo(self._joints_near_target()),
            26: lambda: self._answer(np.array([STEP_S])),
            27: lambda: self._answer(arm.world.joints),  # the history of the joints: there is none but now
            58: lambda: self._answer(kinematics.flange_pose(arm.world.joints)),
        }

    def _awaited_commands(self) -> dict[int, Callable[[], None]]:
        arm, kinematics = self._arm, self._kinematics
        return {
            1: lambda: self._move_joints(self._doubles()),
            2: lambda: self._move_joints(self._joints_near_target()),
            3: lambda: self._move_line(self._doubles()),
            4: lambda: self._move_line(kinematics.pose_of(self._doubles())),
            15: self._stop_line,  # speedStop
            16: self._stop_line,  # servoStop
            33: self._stop_line,  # stopL
            34: lambda: self._stop(float(np.abs(arm.velocity).max())),  # stopJ
            8: self._tool.zero_force,
            17: self._set_payload,
            65: self._set_payload,
            18: arm.end_motion,  # teachMode and freedriveMode: nobody pushes this arm, so it stays
            52: arm.end_motion,
            54: lambda: self._variables.update(output_int_register_1=0),  # freedrive status: all is well
            29: lambda: self._tool.set_tool(self._doubles()),
            30: self._inverse,
            46: self._inverse,
            28: lambda: self._answer(kinematics.pose_of(arm.target)),
            31: self._protective_stop,
            39: lambda: self._answer(transformed(self._doubles(), self._doubles(6))),
            43: lambda: self._answer(kinematics.pose_of(arm.world.joints)),
            44: lambda: self._answer(kinematics.with_tool(self._doubles(6)).pose_of(self._doubles())),
            35: self._watch,
            36: self._reachable,
            60: self._reachable,
            61: self._reachable,
            37: lambda: self._answer_bool(bool(np.all(np.abs(self._doubles()) < JOINT_LIMIT_RAD))),
            40: lambda: self._answer(kinematics.flange_from_tcp),
            47: lambda: self._answer_bool(float(np.abs(arm.world.joint_velocities).max()) < SETTLED_RAD_S),
        }

    def start(self) -> None:
        """Starts anew, without a watchdog."""
        self.running, self._executing, self._waits_for_motion = True, False, False
        self.watchdog_s = float("inf")
        self._set_state(READY)

    def stop(self) -> None:
        """Ends the script; a client that waits for a motion waits in vain, as on the robot."""
        self.running = self._waits_for_motion = False

    def is_streamed(self, number: int | None) -> bool:
        """Returns True for a command that a client streams without waiting for an answer."""
        return self.running and number in self._streamed

    def command_arrived(self) -> None:
        """Executes what is in the command register; called when a client has written it.

        Raises ScriptEndedError for the command that ends the script, ScriptFailedError for one that cannot be executed;
        ProtectiveStopError and OutOfReachError for one that the controller answers with a protective stop.
        """
        if not self.running:
            return
        number = self._variables["input_int_register_0"]
        if number == CLEAR:
            self._executing = False
            self._set_state(READY)
        elif number == STOP_SCRIPT:
            raise ScriptEndedError("told to")
        elif number in _NOT_SIMULATED and not self._executing:
            raise ScriptFailedError(f"{_NOT_SIMULATED[number]} (command {number} of ur_rtde) is not simulated")
        elif (stream := self._streamed.get(number)) is not None:
            stream()
            self._set_state(READY)
        elif not self._executing:
            self._executing = True
            self._begin(number)

    def time_passed(self) -> None:
        """Tells the client when the move or stop that it waits for is over."""
        if self._waits_for_motion and self._arm.is_done:
            self._waits_for_motion = False
            self._set_state(DONE)

    def _begin(self, number: int) -> None:
        self._waits_for_motion = False
        if (command := self._commands.get(number)) is not None:
            command()
        elif number not in _WITHOUT_EFFECT:
            log.warning("command %d is none of ur_rtde's", number)
        if not self._waits_for_motion:
            self._set_state(DONE)

    def _set_state(self, state: int) -> None:
        self._variables["output_int_register_0"] = state

    def _double(self, index: int) -> float:
        return float(self._variables[f"input_double_register_{index}"])

    def _positive(self, index: int, what: str) -> float:
        value = self._double(index)
        if not 0 < value < float("inf"):
            raise ScriptFailedError(f"{what} is {value:g}: it must be above 0")
        return value

    def _doubles(self, first: int = 0) -> F64:
        numbers = np.array([self._double(first + i) for i in range(6)])
        if not np.isfinite(numbers).all():
            raise ScriptFailedError(f"arguments {numbers.tolist()}: every number must be finite")
        return numbers

    def _joints_near_target(self) -> F64:
        return self._kinematics.joints_for(self._doubles(), near=self._arm.target)

    def _answer(self, numbers: F64) -> None:
        for index, number in enumerate(numbers):
            self._variables[f"output_double_register_{index}"] = float(number)

    def _answer_bool(self, value: bool) -> None:
        self._variables["output_int_register_1"] = int(value)

    def _inverse(self) -> None:
        self._answer(self._kinematics.joints_for(self._doubles(), near=self._arm.world.joints))

    def _reachable(self) -> None:
        self._answer_bool(self._kinematics.is_reachable(self._doubles(), near=self._arm.target))

    def _watch(self) -> None:
        """Sets the watchdog: from now on, fewer commands per second of wall time than asked for stop the script."""
        hertz = self._double(0)
        self.watchdog_s = 1.0 / hertz if hertz > 0 else float("inf")

    def _set_payload(self) -> None:
        centre = self._doubles(1)[:3]
        self._tool.set_payload(self._double(0), centre)

    def _protective_stop(self) -> None:
        raise ProtectiveStopError("the script asked for it")

    def _servo(self, joints: F64) -> None:
        self._arm.servo(joints, self._double(8))

    def _speed(self, velocity: F64) -> None:
        self._arm.speed(velocity, self._positive(6, "acceleration"))

    def _stop_line(self) -> None:
        velocity = self._kinematics.velocity_of(self._arm.target, self._arm.velocity)
        self._stop(max(float(np.linalg.norm(velocity[:3])), float(np.linalg.norm(velocity[3:])) * ROTATION_ARM_M))

    def _stop(self, speed: float) -> None:
        self._arm.stop(speed / self._positive(0, "deceleration"))
        self._waits_for_motion = not self._arm.run_to_end()

    def _move_joints(self, goal: F64) -> None:
        start = self._arm.target
        length = float(np.abs(goal - start).max())
        self._move(lambda share: start + share * (goal - start), length)

    def _move_line(self, goal: F64) -> None:
        path = Line(self._kinematics, self._arm.target, goal)
        self._move(path.joints, max(path.length_m, path.angle_rad * ROTATION_ARM_M))

    def _move(self, path: Callable[[float], F64], length: float) -> None:
        """Begins a move with speed and acceleration from the registers; an asynchronous one is done at once."""
        speed, acceleration = self._positive(6, "speed"), self._positive(7, "acceleration")
        self._arm.begin(Move(path, length=length, speed=speed, acceleration=acceleration))
        is_done, is_asynchronous = self._arm.run_to_end(), self._variables["input_int_register_1"]
        self._waits_for_motion = not (is_done or is_asynchronous)
