"""The controller's kinematics: those of a UR5e. TCP poses (6,) [m, rotation vector] to joints and back."""

import numpy as np
from numpy.typing import NDArray

from twin import robots
from twin.kinematics import Kinematics
from twin.rotations import TOOL_DOWN_VECTOR, continuous, matrix_from_vector, vector_from_matrix

F64 = NDArray[np.float64]
ROBOT = robots.get("ur5e")
_ARM = Kinematics(ROBOT)
FLANGE_FROM_TCP = np.concatenate([ROBOT.flange_from_tcp[:3, 3], vector_from_matrix(ROBOT.flange_from_tcp[:3, :3])])
"""The tool as set at the pendant."""
EXACT_M = 1e-3
ATTEMPTS = ((3, 1e-5), (20, 1e-4), (60, 1e-3))
"""(iterations, damping): following a moving target takes a few, a far goal more and calmer ones."""


class OutOfReachError(Exception):
    """No joint angles put the TCP there."""


def pose_of(joints: F64) -> F64:
    """TCP pose of joint angles."""
    position, rotation = _ARM.forward(joints[None])
    return np.concatenate([position[0], continuous(vector_from_matrix(rotation[0]), TOOL_DOWN_VECTOR)])


def velocity_of(joints: F64, rates: F64) -> F64:
    """TCP velocity (6,) [m/s, rad/s] of joint angles and velocities."""
    return _ARM.tool_velocity(joints[None], rates[None])[0]


def joints_for(pose: F64, *, near: F64) -> F64:
    """Joint angles near `near` with the TCP at `pose`. Raises OutOfReachError."""
    position, rotation = pose[None, :3], matrix_from_vector(pose[3:])
    joints = near[None]
    for iterations, damping in ATTEMPTS:
        joints = _ARM.inverse(joints, position, rotation, iterations=iterations, damping=damping)
        reached, turned = _ARM.forward(joints)
        if max(np.abs(reached - position).max(), np.abs(turned - rotation).max()) < EXACT_M:
            return joints[0]
    raise OutOfReachError(f"no joint angles for the TCP pose {np.round(pose, 3).tolist()}")


def is_reachable(pose: F64, *, near: F64) -> bool:
    """Whether `joints_for` finds an answer."""
    try:
        joints_for(pose, near=near)
    except OutOfReachError:
        return False
    return True


def joint_velocities(joints: F64, velocity: F64) -> F64:
    """Joint velocities (6,) that move the TCP at `velocity` (6,) [m/s, rad/s]."""
    jacobian = _ARM.tool_velocity(np.tile(joints, (6, 1)), np.eye(6)).T
    return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-6 * np.eye(6), velocity)


class Line:
    """A straight way of the TCP from where joints `start` put it to the pose `goal`; the rotation turns evenly."""

    def __init__(self, start: F64, goal: F64) -> None:
        self._from = pose_of(start)
        turn = matrix_from_vector(goal[3:]) @ matrix_from_vector(self._from[3:]).T
        self._way, self._turn = goal[:3] - self._from[:3], vector_from_matrix(turn)
        self._joints = start
        self.length_m = float(np.linalg.norm(self._way))
        self.angle_rad = float(np.linalg.norm(self._turn))

    def joints(self, share: float) -> F64:
        """Joint angles after `share` (0..1) of the way; called with growing shares."""
        rotation = matrix_from_vector(share * self._turn) @ matrix_from_vector(self._from[3:])
        pose = np.concatenate([self._from[:3] + share * self._way, vector_from_matrix(rotation)])
        self._joints = joints_for(pose, near=self._joints)
        return self._joints
