"""What the URScript that ur_rtde uploads does with its registers.

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
from typing import TYPE_CHECKING

import numpy as np

from actors.simulated_ur.kinematics import Line, OutOfReachError
from actors.simulated_ur.motion import SETTLED_RAD_S, Hold, Move, Speed
from protos.schema import F64

if TYPE_CHECKING:
    from actors.simulated_ur.controller import Controller

log = logging.getLogger(__name__)

READY, DONE = 1, 2
CLEAR, STOP_SCRIPT = 0, 255
JOINT_LIMIT_RAD = 2 * np.pi
ROTATION_ARM_M = 0.1
"""A move that mostly turns is as long as the way of a point this far from the TCP."""


class Program:
    """The uploaded script: reads the command registers, answers in the output registers."""

    def __init__(self, controller: "Controller") -> None:
        self._controller, kinematics = controller, controller.kinematics
        self.running = False
        self.waits_for_motion = False
        self._executing = False
        self._streamed: dict[int, Callable[[], None]] = {
            9: lambda: self._speed(self._doubles(0)),
            10: lambda: self._speed(kinematics.joint_velocities(controller.target, self._doubles(0))),
            11: lambda: self._servo(self._doubles(0)),
            24: lambda: self._servo(kinematics.joints_for(self._doubles(0), near=controller.target)),
        }
        self._commands: dict[int, Callable[[], None]] = {
            1: lambda: self._move_joints(self._doubles(0)),
            2: lambda: self._move_joints(kinematics.joints_for(self._doubles(0), near=controller.target)),
            3: lambda: self._move_line(self._doubles(0)),
            4: lambda: self._move_line(kinematics.pose_of(self._doubles(0))),
            15: self._stop,  # speedStop
            16: self._stop,  # servoStop
            33: self._stop,  # stopL
            34: self._stop,  # stopJ
            17: lambda: None,  # setPayload: the physics knows what hangs on the arm
            30: self._inverse,
            46: self._inverse,
            43: lambda: self._answer(kinematics.pose_of(controller.world.joints)),
            44: lambda: self._answer(kinematics.pose_of(self._doubles(0))),
            35: lambda: controller.watch(self._double(0)),
            36: lambda: self._answer_bool(kinematics.is_reachable(self._doubles(0), near=controller.target)),
            60: lambda: self._answer_bool(kinematics.is_reachable(self._doubles(0), near=controller.target)),
            37: lambda: self._answer_bool(bool(np.all(np.abs(self._doubles(0)) < JOINT_LIMIT_RAD))),
            40: lambda: self._answer(kinematics.flange_from_tcp),
            47: lambda: self._answer_bool(float(np.abs(controller.world.joint_velocities).max()) < SETTLED_RAD_S),
        }

    def start(self) -> None:
        self.running, self._executing, self.waits_for_motion = True, False, False
        self._set_state(READY)

    def stop(self) -> None:
        """The script is over; a client that waits for a motion waits in vain, as on the robot."""
        self.running = self.waits_for_motion = False

    def command_arrived(self) -> None:
        """Looks at the command register once; called when a client has written it."""
        if not self.running:
            return
        number = self._controller.variables["input_int_register_0"]
        try:
            self._execute(number)
        except OutOfReachError as error:
            self._controller.protective_stop(str(error))

    def motion_ended(self) -> None:
        """The move or stop that the client waits for is over."""
        self.waits_for_motion = False
        self._set_state(DONE)

    def _execute(self, number: int) -> None:
        if number == CLEAR:
            self._executing = False
            self._set_state(READY)
        elif number == STOP_SCRIPT:
            self._controller.stop_program("told to")
        elif (stream := self._streamed.get(number)) is not None:
            stream()
            if self.running:
                self._set_state(READY)
        elif not self._executing:
            self._executing = True
            self._begin(number)

    def _begin(self, number: int) -> None:
        command = self._commands.get(number)
        if command is None:
            log.error("command %d of ur_rtde is not simulated", number)
            self._controller.stop_program(f"command {number} is not simulated")
            return
        self.waits_for_motion = False
        command()
        if not self.waits_for_motion and self.running:
            self._set_state(DONE)

    def _set_state(self, state: int) -> None:
        self._controller.variables["output_int_register_0"] = state

    def _double(self, index: int) -> float:
        return float(self._controller.variables[f"input_double_register_{index}"])

    def _doubles(self, first: int) -> F64:
        return np.array([self._double(first + i) for i in range(6)])

    def _answer(self, numbers: F64) -> None:
        for index, number in enumerate(numbers):
            self._controller.variables[f"output_double_register_{index}"] = float(number)

    def _answer_bool(self, value: bool) -> None:
        self._controller.variables["output_int_register_1"] = int(value)

    def _inverse(self) -> None:
        controller = self._controller
        self._answer(controller.kinematics.joints_for(self._doubles(0), near=controller.world.joints))

    def _servo(self, joints: F64) -> None:
        self._controller.servo(joints, self._double(8))

    def _speed(self, velocity: F64) -> None:
        controller = self._controller
        controller.begin(Speed(controller.target, velocity, self._double(6), self._double(7)))

    def _stop(self) -> None:
        self._controller.begin(Hold(self._controller.target))
        self._wait()

    def _move_joints(self, goal: F64) -> None:
        start = self._controller.target
        length = float(np.abs(goal - start).max())
        self._move(lambda share: start + share * (goal - start), length)

    def _move_line(self, goal: F64) -> None:
        start = self._controller.target
        path = Line(self._controller.kinematics, start, goal)
        self._move(path.joints, max(path.length_m, path.angle_rad * ROTATION_ARM_M))

    def _move(self, path: Callable[[float], F64], length: float) -> None:
        """Begins a move with speed and acceleration from the registers; an asynchronous one is done at once."""
        mode = Move(path, length=length, speed=self._double(6), acceleration=self._double(7))
        self._controller.begin(mode)
        if self._controller.variables["input_int_register_1"]:
            self._controller.run_to_end()
        else:
            self._wait()

    def _wait(self) -> None:
        self.waits_for_motion = True
        self._controller.run_to_end()
