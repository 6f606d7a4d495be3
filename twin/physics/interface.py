"""What a twin needs of a physics engine. Slot i is one world; slots never touch each other.

    reset(slots, joints, poses) ─► command(joints, opening) ─► step(20) ─► joints, tool_*, wrench, body_*
                                        ▲                                          │
                                        └──────────── every control step ──────────┘

* Everything is in the base frame, in metres, radians, newtons; quaternions are wxyz.
* Outputs describe the state after the last `reset`, `place` or `step`. `command` changes none of them. What is marked
  as a live view changes with the next of these calls: copy what must outlive it.
* A slot whose state is not finite shows NaN in its own outputs until its `reset`; the others do not notice.
* The same calls in the same order give the same numbers, whatever the number of threads.
* Not safe for use from several threads at once.
"""

from collections.abc import Mapping
from typing import Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from protos.schema import F64
from twin.robots.base import Robot
from twin.tasks.base import Task

Pose = tuple[float, float, float, float]


class Physics(Protocol):
    """n worlds of one robot and one task, stepped together; `joints` counts the arm's joints."""

    @property
    def n(self) -> int: ...
    @property
    def robot(self) -> Robot: ...
    @property
    def task(self) -> Task: ...

    @property
    def model(self) -> mujoco.MjModel:
        """Bodies, their order and their shapes, whatever engine moves them."""

    def reset(self, slots: NDArray[np.intp], joints: F64, poses: Mapping[str, F64]) -> None:
        """Starts anew: the arm at rest at joints (len(slots), joints), the gripper open, every body at its pose.

        `poses` maps names to (len(slots), 4) x, y, z, yaw.
        """

    def place(self, slots: NDArray[np.intp], poses: Mapping[str, F64]) -> None:
        """Puts bodies, at rest, to poses name -> (len(slots), 4) x, y, z, yaw; everything else stays."""

    def command(self, joints: F64, opening: NDArray[np.floating]) -> None:
        """Set points of all slots until the next call: joint angles (n, joints) [rad], gripper opening (n,) 0..1."""

    def step(self, steps: int) -> None:
        """`steps` physics steps of 5 ms in every slot."""

    @property
    def joints(self) -> F64:
        """(n, joints) rad."""

    @property
    def joint_velocities(self) -> F64:
        """(n, joints) rad/s."""

    @property
    def tool_position(self) -> F64:
        """(n, 3) m, a live view."""

    @property
    def tool_rotation(self) -> F64:
        """base_from_tcp (n, 3, 3), a live view."""

    @property
    def tool_velocity(self) -> F64:
        """(n, 6) m/s and rad/s."""

    @property
    def opening(self) -> F64:
        """(n,) measured, 0 closed .. 1 open."""

    @property
    def wrench(self) -> F64:
        """(n, 6) force [N] and torque [Nm] that the world puts on the tool, at the TCP.

        The gripper's own weight is taken out, as the controller of an arm does with its payload setting; its inertia
        is not. The value is that of the last physics step, zero right after a reset.
        """

    @property
    def body_positions(self) -> F64:
        """(n, bodies, 3) m, in the model's order; a live view."""

    @property
    def body_rotations(self) -> F64:
        """base_from_body (n, bodies, 9), row by row, in the model's order; a live view."""

    def body_position(self, name: str) -> F64:
        """(n, 3) m, a live view."""

    def body_rotation(self, name: str) -> F64:
        """base_from_body (n, 3, 3), a live view."""

    def body_pose(self, slot: int, name: str) -> Pose:
        """x, y, z, yaw of one body."""

    def close(self) -> None:
        """Gives back what the engine holds; nothing else may be called afterwards."""
