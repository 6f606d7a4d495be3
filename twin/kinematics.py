"""Forward and inverse kinematics of the UR5e with its gripper, for many arms at once (numba).

Poses are of the tool centre point in the base frame. The inverse is damped least squares (Wampler 1986): with a warm
start, three iterations follow a moving target to well below 0.1 mm.
"""

import math

import numba
import numpy as np
from numpy.typing import ArrayLike

from twin.robots.gripper import TCP_M
from twin.robots.ur5e import DH_A, DH_ALPHA, DH_D
from twin.rotations import F64, TOOL_DOWN, about_z

HOME = np.array([0.0, -1.2, 1.6, -1.97, -1.571, np.pi])
"""Tool down, in front of the robot; searches for start poses begin here."""
_DH = (DH_A, DH_D, np.cos(DH_ALPHA), np.sin(DH_ALPHA))
_JIT = {"cache": True, "nogil": True}


def forward(q: ArrayLike) -> tuple[F64, F64]:
    """Joint angles (n, 6) to tool positions (n, 3) and rotations base_from_tcp (n, 3, 3)."""
    joints = np.ascontiguousarray(q, float)
    positions, rotations = np.empty((len(joints), 3)), np.empty((len(joints), 3, 3))
    _forward(joints, *_DH, TCP_M, positions, rotations)
    return positions, rotations


def inverse(
    q: ArrayLike, position: ArrayLike, rotation: ArrayLike, *, iterations: int = 3, damping: float = 1e-5
) -> F64:
    """Joint angles (n, 6) near `q` whose tool comes closest to position (n, 3) and rotation (n, 3, 3)."""
    joints = np.array(q, float)
    target = np.ascontiguousarray(np.broadcast_to(rotation, (len(joints), 3, 3)), float)
    _inverse(joints, np.ascontiguousarray(position, float), target, *_DH, TCP_M, iterations, damping)
    return joints


def tool_velocity(q: ArrayLike, velocity: ArrayLike) -> F64:
    """Joint angles and velocities (n, 6) to the tool's linear and angular velocity (n, 6)."""
    joints, rates = np.ascontiguousarray(q, float), np.ascontiguousarray(velocity, float)
    out = np.empty((len(joints), 6))
    _tool_velocity(joints, rates, *_DH, TCP_M, out)
    return out


def start_joints(position: ArrayLike, yaw: ArrayLike = 0.0) -> F64:
    """Joint angles (n, 6) with the tool at position (n, 3), pointing down, turned by `yaw`."""
    position = np.atleast_2d(np.asarray(position, float))
    rotation = about_z(np.broadcast_to(yaw, len(position))) @ TOOL_DOWN
    q = inverse(np.tile(HOME, (len(position), 1)), position, rotation, iterations=30, damping=1e-3)
    return inverse(q, position, rotation, iterations=5)


@numba.njit(**_JIT)
def _chain(q: F64, a: F64, d: F64, cos_alpha: F64, sin_alpha: F64, tcp: float, origins: F64, axes: F64, R: F64) -> None:
    """Joint origins (7, 3; the last is the TCP), joint axes (6, 3) and the tool rotation of one arm."""
    for j in range(3):
        origins[0, j] = 0.0
        for k in range(3):
            R[j, k] = 1.0 if j == k else 0.0
    for i in range(6):
        c, s = math.cos(q[i]), math.sin(q[i])
        for k in range(3):  # row k of R holds the k-th coordinates of the x, y and z axis
            x, y, z = R[k, 0] * c + R[k, 1] * s, R[k, 1] * c - R[k, 0] * s, R[k, 2]
            axes[i, k] = z
            origins[i + 1, k] = origins[i, k] + x * a[i] + z * d[i]
            R[k, 0], R[k, 1], R[k, 2] = x, y * cos_alpha[i] + z * sin_alpha[i], z * cos_alpha[i] - y * sin_alpha[i]
    for k in range(3):
        origins[6, k] += R[k, 2] * tcp


@numba.njit(**_JIT)
def _jacobian(origins: F64, axes: F64, J: F64) -> None:
    """Geometric Jacobian (6, 6): linear rows z x (p - o), angular rows z."""
    for j in range(6):
        for k in range(3):
            m, n = (k + 1) % 3, (k + 2) % 3
            J[k, j] = axes[j, m] * (origins[6, n] - origins[j, n]) - axes[j, n] * (origins[6, m] - origins[j, m])
            J[3 + k, j] = axes[j, k]


@numba.njit(**_JIT)
def _forward(
    q: F64, a: F64, d: F64, cos_alpha: F64, sin_alpha: F64, tcp: float, positions: F64, rotations: F64
) -> None:
    origins, axes = np.empty((7, 3)), np.empty((6, 3))
    for n in range(q.shape[0]):
        _chain(q[n], a, d, cos_alpha, sin_alpha, tcp, origins, axes, rotations[n])
        for k in range(3):
            positions[n, k] = origins[6, k]


@numba.njit(**_JIT)
def _tool_velocity(q: F64, rates: F64, a: F64, d: F64, cos_alpha: F64, sin_alpha: F64, tcp: float, out: F64) -> None:
    origins, axes, R, J = np.empty((7, 3)), np.empty((6, 3)), np.empty((3, 3)), np.empty((6, 6))
    for n in range(q.shape[0]):
        _chain(q[n], a, d, cos_alpha, sin_alpha, tcp, origins, axes, R)
        _jacobian(origins, axes, J)
        for i in range(6):
            out[n, i] = 0.0
            for j in range(6):
                out[n, i] += J[i, j] * rates[n, j]


@numba.njit(**_JIT)
def _inverse(
    q: F64,
    position: F64,
    rotation: F64,
    a: F64,
    d: F64,
    cos_alpha: F64,
    sin_alpha: F64,
    tcp: float,
    iterations: int,
    damping: float,
) -> None:
    """Damped least squares, in place: q += J^T (J J^T + damping I)^-1 e."""
    origins, axes, R, J = np.empty((7, 3)), np.empty((6, 3)), np.empty((3, 3)), np.empty((6, 6))
    A, e = np.empty((6, 6)), np.empty(6)
    for n in range(q.shape[0]):
        for _ in range(iterations):
            _chain(q[n], a, d, cos_alpha, sin_alpha, tcp, origins, axes, R)
            _jacobian(origins, axes, J)
            for k in range(3):
                e[k] = position[n, k] - origins[6, k]
                e[3 + k] = 0.0
                m, o = (k + 1) % 3, (k + 2) % 3
                for axis in range(3):  # orientation error: half the sum of the axes' cross products
                    e[3 + k] += 0.5 * (R[m, axis] * rotation[n, o, axis] - R[o, axis] * rotation[n, m, axis])
            for i in range(6):
                for j in range(6):
                    A[i, j] = damping if i == j else 0.0
                    for k in range(6):
                        A[i, j] += J[i, k] * J[j, k]
            _solve(A, e)
            for j in range(6):
                for i in range(6):
                    q[n, j] += J[i, j] * e[i]


@numba.njit(**_JIT)
def _solve(A: F64, b: F64) -> None:
    """b := A^-1 b for a symmetric positive definite A (6, 6), which becomes its Cholesky factor."""
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
