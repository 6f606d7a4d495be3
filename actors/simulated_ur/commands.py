"""A program does what the URScript that ur_rtde uploads does with its registers.

    client                                   program
    waits for output_int_0 = READY
    writes input_int_0 = command, input_double_0.. = arguments
                                             executes; output_int_0 = DONE when finished
    sees DONE, writes input_int_0 = 0
                                             output_int_0 = READY

Servo and speed commands are executed whenever they arrive and leave READY standing: the client does not wait for them.

Source: ur_rtde 1.6 (https://gitlab.com/sdurobotics/ur_rtde), `scripts/rtde_control.script` and
`src/rtde_control_interface.cpp`.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from actors.simulated_ur.kinematics import ControllerKinematics, Line
from actors.simulated_ur.motion import SETTLED_RAD_S, Hold, Move, SimulatedArm, Speed
from protos.schema import F64

log = logging.getLogger(__name__)

READY, DONE = 1, 2
CLEAR, STOP_SCRIPT = 0, 255
JOINT_LIMIT_RAD = 2 * np.pi
ROTATION_ARM_M = 0.1
"""A move that mostly turns is as long as the way of a point this far from the TCP."""


class ScriptEndedError(Exception):
    """The script comes to its end for the reason given."""


class Program:
    """The uploaded script: reads the command registers, moves the arm, answers in the output registers."""

    def __init__(self, arm: SimulatedArm, kinematics: ControllerKinematics, variables: dict[str, Any]) -> None:
        self._arm, self._kinematics, self._variables = arm, kinematics, variables
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
        }

    def _awaited_commands(self) -> dict[int, Callable[[], None]]:
        arm, kinematics = self._arm, self._kinematics
        return {
            1: lambda: self._move_joints(self._doubles()),
            2: lambda: self._move_joints(self._joints_near_target()),
            3: lambda: self._move_line(self._doubles()),
            4: lambda: self._move_line(kinematics.pose_of(self._doubles())),
            15: self._stop,  # speedStop
            16: self._stop,  # servoStop
            33: self._stop,  # stopL
            34: self._stop,  # stopJ
            17: lambda: None,  # setPayload: the physics knows what hangs on the arm
            30: self._inverse,
            46: self._inverse,
            43: lambda: self._answer(kinematics.pose_of(arm.world.joints)),
            44: lambda: self._answer(kinematics.pose_of(self._doubles())),
            35: self._watch,
            36: self._reachable,
            60: self._reachable,
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

    def command_arrived(self) -> None:
        """Executes what is in the command register; called when a client has written it.

        Raises ScriptEndedError for the command that ends the script and for one that is not simulated; JumpError and
        OutOfReachError for a motion that the controller answers with a protective stop.
        """
        if not self.running:
            return
        number = self._variables["input_int_register_0"]
        if number == CLEAR:
            self._executing = False
            self._set_state(READY)
        elif number == STOP_SCRIPT:
            raise ScriptEndedError("told to")
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
        command = self._commands.get(number)
        if command is None:
            log.error("command %d of ur_rtde is not simulated", number)
            raise ScriptEndedError(f"command {number} is not simulated")
        self._waits_for_motion = False
        command()
        if not self._waits_for_motion:
            self._set_state(DONE)

    def _set_state(self, state: int) -> None:
        self._variables["output_int_register_0"] = state

    def _double(self, index: int) -> float:
        return float(self._variables[f"input_double_register_{index}"])

    def _doubles(self) -> F64:
        return np.array([self._double(i) for i in range(6)])

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

    def _servo(self, joints: F64) -> None:
        self._arm.servo(joints, self._double(8))

    def _speed(self, velocity: F64) -> None:
        self._arm.begin(Speed(self._arm.target, velocity, self._double(6), self._double(7)))

    def _stop(self) -> None:
        self._arm.begin(Hold(self._arm.target))
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
        self._arm.begin(Move(path, length=length, speed=self._double(6), acceleration=self._double(7)))
        is_done, is_asynchronous = self._arm.run_to_end(), self._variables["input_int_register_1"]
        self._waits_for_motion = not (is_done or is_asynchronous)
