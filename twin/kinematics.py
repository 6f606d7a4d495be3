"""This module computes forward and inverse kinematics of any robot with its gripper, for many arms at once (numba).

Poses are of the tool centre point in the base frame. The inverse is damped least squares (Wampler 1986): with a warm
start, three iterations follow a moving target to well below 0.1 mm. The motions that a redundant arm can make without
moving its tool draw it to its home posture, away from its limits (Liegeois 1977).
"""

import math

import numba
import numpy as np
from numpy.typing import ArrayLike

from protos.schema import F64
from twin.robots import Robot
from twin.rotations import TOOL_DOWN, about_z

HOME_PULL = 0.3
"""Share of the way to the home posture that free motions make good in one iteration."""
_JIT = {"cache": True, "nogil": True}


class Kinematics:
    """Kinematics belong to one robot; `n` below counts arms, `joints` its joints.

    `flange_from_tcp` (4, 4) is another tool than the robot's own.
    """

    def __init__(self, robot: Robot, *, flange_from_tcp: F64 | None = None) -> None:
        mount, *others = (link.parent_from_joint.matrix for link in robot.links)
        tool = robot.flange.matrix @ (robot.flange_from_tcp if flange_from_tcp is None else flange_from_tcp)
        self._chain: F64 = np.stack([robot.base_from_mount.matrix @ mount, *others, tool])[:, :3]  # (joints + 1, 3, 4)
        self._limits: F64 = np.array([link.range for link in robot.links])  # (joints, 2)
        self.home: F64 = np.array(robot.home)

    def forward(self, q: ArrayLike) -> tuple[F64, F64]:
        """Computes tool positions (n, 3) and rotations base_from_tcp (n, 3, 3) of joint angles (n, joints)."""
        joints = np.ascontiguousarray(q, float)
        positions, rotations = np.empty((len(joints), 3)), np.empty((len(joints), 3, 3))
        _forward(joints, self._chain, positions, rotations)
        return positions, rotations

    def inverse(
        self, q: ArrayLike, position: ArrayLike, rotation: ArrayLike, *, iterations: int = 3, damping: float = 1e-5
    ) -> F64:
        """Returns joint angles (n, joints) near `q`, within the joints' ranges, whose tool comes closest to a pose.

        The pose is position (n, 3) and rotation (n, 3, 3).
        """
        joints, target = np.array(q, float), np.ascontiguousarray(rotation, float)
        if target.shape != (len(joints), 3, 3):
            target = np.ascontiguousarray(np.broadcast_to(target, (len(joints), 3, 3)))
        place = np.ascontiguousarray(position, float)
        _inverse(joints, place, target, self._chain, self._limits, self.home, iterations, damping)
        return joints

    def tool_velocity(self, q: ArrayLike, velocity: ArrayLike) -> F64:
        """Computes the tool's linear and angular velocity (n, 6) of joint angles and velocities (n, joints)."""
        joints, rates = np.ascontiguousarray(q, float), np.ascontiguousarray(velocity, float)
        out = np.empty((len(joints), 6))
        _tool_velocity(joints, rates, self._chain, out)
        return out

    def start_joints(self, position: ArrayLike, yaw: ArrayLike = 0.0) -> F64:
        """Returns joint angles (n, joints) with the tool at position (n, 3), pointing down, turned by `yaw`."""
        position = np.atleast_2d(np.asarray(position, float))
        rotation = about_z(np.broadcast_to(yaw, len(position))) @ TOOL_DOWN
        q = self.inverse(np.tile(self.home, (len(position), 1)), position, rotation, iterations=30, damping=1e-3)
        return self.inverse(q, position, rotation, iterations=5)


@numba.njit(**_JIT)
def _walk(q: F64, chain: F64, origins: F64, axes: F64, R: F64) -> None:
    """Computes joint origins (joints + 1, 3; the last is the TCP), joint axes (joints, 3) and the tool rotation."""
    joints = q.shape[0]
    for j in range(3):
        origins[0, j] = 0.0
        for k in range(3):
            R[j, k] = 1.0 if j == k else 0.0
    for i in range(joints + 1):
        F, before = chain[i], origins[max(i - 1, 0)]
        c, s = (math.cos(q[i]), math.sin(q[i])) if i < joints else (1.0, 0.0)
        for k in range(3):  # row k of R holds the k-th coordinates of the x, y and z axis
            x, y, z = R[k, 0], R[k, 1], R[k, 2]
            origins[i, k] = before[k] + x * F[0, 3] + y * F[1, 3] + z * F[2, 3]
            across = x * F[0, 0] + y * F[1, 0] + z * F[2, 0]
            along = x * F[0, 1] + y * F[1, 1] + z * F[2, 1]
            R[k, 0], R[k, 1] = across * c + along * s, along * c - across * s
            R[k, 2] = x * F[0, 2] + y * F[1, 2] + z * F[2, 2]
            if i < joints:
                axes[i, k] = R[k, 2]


@numba.njit(**_JIT)
def _jacobian(origins: F64, axes: F64, J: F64) -> None:
    """Computes the geometric Jacobian (6, joints): linear rows z x (p - o), angular rows z."""
    tool = origins[-1]
    for j in range(axes.shape[0]):
        for k in range(3):
            m, n = (k + 1) % 3, (k + 2) % 3
            J[k, j] = axes[j, m] * (tool[n] - origins[j, n]) - axes[j, n] * (tool[m] - origins[j, m])
            J[3 + k, j] = axes[j, k]


@numba.njit(**_JIT)
def _forward(q: F64, chain: F64, positions: F64, rotations: F64) -> None:
    joints = q.shape[1]
    origins, axes = np.empty((joints + 1, 3)), np.empty((joints, 3))
    for n in range(q.shape[0]):
        _walk(q[n], chain, origins, axes, rotations[n])
        positions[n] = origins[joints]


@numba.njit(**_JIT)
def _tool_velocity(q: F64, rates: F64, chain: F64, out: F64) -> None:
    joints = q.shape[1]
    origins, axes, R, J = np.empty((joints + 1, 3)), np.empty((joints, 3)), np.empty((3, 3)), np.empty((6, joints))
    for n in range(q.shape[0]):
        _walk(q[n], chain, origins, axes, R)
        _jacobian(origins, axes, J)
        for i in range(6):
            out[n, i] = 0.0
            for j in range(joints):
                out[n, i] += J[i, j] * rates[n, j]


@numba.njit(**_JIT)
def _inverse(
    q: F64, position: F64, rotation: F64, chain: F64, limits: F64, home: F64, iterations: int, damping: float
) -> None:
    """Iterates damped least squares, in place: q += J^T (J J^T + damping I)^-1 (e - J z) + z; z pulls towards home."""
    joints = q.shape[1]
    origins, axes, R, J = np.empty((joints + 1, 3)), np.empty((joints, 3)), np.empty((3, 3)), np.empty((6, joints))
    A, e, z = np.empty((6, 6)), np.empty(6), np.zeros(joints)
    for n in range(q.shape[0]):
        for _ in range(iterations):
            _walk(q[n], chain, origins, axes, R)
            _jacobian(origins, axes, J)
            _pose_error(position[n], rotation[n], origins[joints], R, e)
            for j in range(joints if joints > 6 else 0):
                z[j] = HOME_PULL * (home[j] - q[n, j])
                for i in range(6):
                    e[i] -= J[i, j] * z[j]
            for i in range(6):
                for j in range(i + 1):
                    A[i, j] = damping if i == j else 0.0
                    for k in range(joints):
                        A[i, j] += J[i, k] * J[j, k]
            _solve(A, e)
            for j in range(joints):
                angle = q[n, j] + z[j]
                for i in range(6):
                    angle += J[i, j] * e[i]
                q[n, j] = min(max(angle, limits[j, 0]), limits[j, 1])


@numba.njit(**_JIT)
def _pose_error(position: F64, rotation: F64, tool: F64, R: F64, e: F64) -> None:
    """Computes the error of a pose (6,); of the orientation, half the sum of the axes' cross products."""
    for k in range(3):
        e[k] = position[k] - tool[k]
        e[3 + k] = 0.0
        m, o = (k + 1) % 3, (k + 2) % 3
        for axis in range(3):
            e[3 + k] += 0.5 * (R[m, axis] * rotation[o, axis] - R[o, axis] * rotation[m, axis])


@numba.njit(**_JIT)
def _solve(A: F64, b: F64) -> None:
    """Solves b := A^-1 b for a positive definite A (6, 6), whose lower half becomes its Cholesky factor."""
    for i in range(6):
        for j in range(i + 1):
            rest = A[i, j]
            for k in range(j):
                rest -= A[i, k] * A[j, k]
            A[i, j] = math.sqrt(rest) if i == j else rest / A[j, j]
        for k in range(i):
            b[i] -= A[i, k] * b[k]
        b[i] /= A[i, i]
    for i in range(5, -1, -1):
        for k in range(i + 1, 6):
            b[i] -= A[k, i] * b[k]
        b[i] /= A[i, i]
