"""This module maps TCP poses (6,) [m, rotation vector] to joint angles (6,) [rad] and back, as the controller does."""

import numpy as np

from protos.proprioception import tool_vector
from protos.schema import F64
from twin.kinematics import Kinematics
from twin.robots import Robot
from twin.rotations import matrix_from_vector, vector_from_matrix

EXACT_M = 1e-3
ATTEMPTS = ((3, 1e-5), (20, 1e-4), (60, 1e-3))
"""(iterations, damping): following a moving target takes a few, a far goal more and calmer ones."""


class OutOfReachError(Exception):
    """The TCP pose cannot be reached with any joint angles."""


class ControllerKinematics:
    """Computes the poses of one arm with the tool that is set at its pendant: at first that of the robot's model."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self.set_tool(None)

    def set_tool(self, offset: tuple[float, ...] | None) -> None:
        """Takes the pose of a tool in the flange's frame [m, rotation vector]; None is that of the robot's model."""
        tool = self._robot.flange_from_tcp.copy()
        if offset is not None:
            tool[:3, :3], tool[:3, 3] = matrix_from_vector(np.array(offset[3:])), offset[:3]
        self._arm = Kinematics(self._robot, flange_from_tcp=tool)
        self.flange_from_tcp: F64 = np.concatenate([tool[:3, 3], vector_from_matrix(tool[:3, :3])])
        """Pose of the tool (6,)."""

    def with_tool(self, offset: F64) -> "ControllerKinematics":
        """Returns the kinematics of the same arm with another tool (6,)."""
        other = ControllerKinematics(self._robot)
        other.set_tool(tuple(offset))
        return other

    def flange_pose(self, joints: F64) -> F64:
        """Returns the flange's pose (6,)."""
        position, rotation = self._arm.forward(joints[None])
        turn = rotation[0] @ matrix_from_vector(self.flange_from_tcp[3:]).T
        return np.concatenate([position[0] - turn @ self.flange_from_tcp[:3], vector_from_matrix(turn)])

    def pose_of(self, joints: F64) -> F64:
        """Returns the TCP pose (6,) of joint angles (6,)."""
        position, rotation = self._arm.forward(joints[None])
        return np.concatenate([position[0], tool_vector(vector_from_matrix(rotation[0]))])

    def velocity_of(self, joints: F64, rates: F64) -> F64:
        """Returns the TCP velocity (6,) [m/s, rad/s] of joint angles and velocities."""
        return self._arm.tool_velocity(joints[None], rates[None])[0]

    def joints_for(self, pose: F64, *, near: F64) -> F64:
        """Returns joint angles near `near` with the TCP at `pose`. Raises OutOfReachError."""
        position, rotation = pose[None, :3], matrix_from_vector(pose[3:])[None]
        joints = near[None]
        for iterations, damping in ATTEMPTS:
            joints = self._arm.inverse(joints, position, rotation, iterations=iterations, damping=damping)
            reached, turned = self._arm.forward(joints)
            if max(np.abs(reached - position).max(), np.abs(turned - rotation).max()) < EXACT_M:
                return joints[0]
        raise OutOfReachError(f"no joint angles for the TCP pose {np.round(pose, 3).tolist()}")

    def is_reachable(self, pose: F64, *, near: F64) -> bool:
        """Returns True if `joints_for` finds an answer."""
        try:
            self.joints_for(pose, near=near)
        except OutOfReachError:
            return False
        return True

    def joint_velocities(self, joints: F64, velocity: F64) -> F64:
        """Returns the joint velocities (6,) that move the TCP at `velocity` (6,) [m/s, rad/s]."""
        jacobian = self._arm.tool_velocity(np.tile(joints, (6, 1)), np.eye(6)).T
        return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-6 * np.eye(6), velocity)


def transformed(a_from_b: F64, b_from_c: F64) -> F64:
    """Returns the pose a_from_c (6,) of two poses (6,) [m, rotation vector]."""
    turn = matrix_from_vector(a_from_b[3:])
    rotation = vector_from_matrix(turn @ matrix_from_vector(b_from_c[3:]))
    return np.concatenate([a_from_b[:3] + turn @ b_from_c[:3], rotation])


class Line:
    """A straight line of the TCP from its pose at joints `start` to the pose `goal`; the rotation turns evenly."""

    def __init__(self, kinematics: ControllerKinematics, start: F64, goal: F64) -> None:
        self._kinematics = kinematics
        self._from = kinematics.pose_of(start)
        turn = matrix_from_vector(goal[3:]) @ matrix_from_vector(self._from[3:]).T
        self._way, self._turn = goal[:3] - self._from[:3], vector_from_matrix(turn)
        self._joints = start
        self.length_m = float(np.linalg.norm(self._way))
        self.angle_rad = float(np.linalg.norm(self._turn))

    def joints(self, share: float) -> F64:
        """Returns the joint angles after `share` (0..1) of the way; called with growing shares."""
        rotation = matrix_from_vector(share * self._turn) @ matrix_from_vector(self._from[3:])
        pose = np.concatenate([self._from[:3] + share * self._way, vector_from_matrix(rotation)])
        self._joints = self._kinematics.joints_for(pose, near=self._joints)
        return self._joints
