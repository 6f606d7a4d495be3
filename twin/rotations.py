"""This module converts rotations: matrices (3, 3), quaternions (w, x, y, z), rotation vectors [rad]; (..., k) each.

The rotation vector of a tool that leaves this process is `protos.proprioception.tool_vector`, which does not jump at
pi. Rotations are composed, limited and interpolated as rotations here, never as vectors.

A single rotation, which an arm's driver converts many times in a cycle, is computed number by number: a tenth of the
time that arrays of one would take.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from protos.schema import F64

TOOL_DOWN: F64 = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""base_from_tcp of a gripper that points down and opens along y."""
YAW_LIMIT_RAD = 0.75 * np.pi
"""A tool is turned at most this far from `TOOL_DOWN` about the vertical: all over the work box the last joint of an arm
stays within its range, and no rotation vector comes near pi from `TOOL_DOWN`, where it would jump."""


def matrix_from_quaternion(quaternion: ArrayLike) -> F64:
    """Converts (..., 4) wxyz, of any length, to (..., 3, 3)."""
    q = np.asarray(quaternion, float)
    q = q * np.sqrt(2 / (q * q).sum(-1, keepdims=True))
    w, x, y, z = q[..., 0], q[..., 1], q[..., 2], q[..., 3]
    out = np.empty((*q.shape[:-1], 3, 3))
    out[..., 0, 0], out[..., 1, 1], out[..., 2, 2] = 1 - y * y - z * z, 1 - x * x - z * z, 1 - x * x - y * y
    out[..., 0, 1], out[..., 1, 2], out[..., 2, 0] = x * y - w * z, y * z - w * x, x * z - w * y
    out[..., 1, 0], out[..., 2, 1], out[..., 0, 2] = x * y + w * z, y * z + w * x, x * z + w * y
    return out


def quaternion_from_matrix(matrix: ArrayLike) -> F64:
    """Converts (..., 3, 3) to (..., 4) wxyz with w >= 0; dividing by the largest component keeps the others exact."""
    m = np.asarray(matrix, float)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    candidates = np.empty((*m.shape[:-2], 4, 4))  # row k is 4 * component k * quaternion
    candidates[..., 0, 0], candidates[..., 1, 1] = 1 + xx + yy + zz, 1 + xx - yy - zz
    candidates[..., 2, 2], candidates[..., 3, 3] = 1 - xx + yy - zz, 1 - xx - yy + zz
    for i, j, both in ((0, 1, wx), (0, 2, wy), (0, 3, wz), (1, 2, xy), (1, 3, xz), (2, 3, yz)):
        candidates[..., i, j] = candidates[..., j, i] = both
    best = np.argmax(np.diagonal(candidates, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(candidates, best[..., None, None], -2)[..., 0, :]
    q = q / np.sqrt((q * q).sum(-1, keepdims=True))
    return np.where(q[..., :1] < 0, -q, q)


def multiply(left: ArrayLike, right: ArrayLike) -> F64:
    """Multiplies quaternions: `left` after `right`."""
    a, b = np.asarray(left, float), np.asarray(right, float)
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    scalar = aw * bw - (av * bv).sum(-1, keepdims=True)
    return np.concatenate([scalar, aw * bv + bw * av + np.cross(av, bv)], -1)


def matrix_from_vector(vector: ArrayLike) -> F64:
    """Converts rotation vectors (..., 3) to matrices (Rodrigues)."""
    v = np.asarray(vector, float)
    if v.ndim == 1 and math.isfinite(square := v @ v):
        return _single_matrix(v, square)
    half = np.linalg.norm(v, axis=-1, keepdims=True) / 2
    # sinc is sin(pi x)/(pi x): finite at angle zero
    return matrix_from_quaternion(np.concatenate([np.cos(half), v / 2 * np.sinc(half / np.pi)], -1))


def vector_from_matrix(matrix: ArrayLike) -> F64:
    """Converts matrices to rotation vectors with an angle in [0, pi]."""
    m = np.asarray(matrix, float)
    if m.ndim == 2:
        return _single_vector(m)
    q = quaternion_from_matrix(m)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    return q[..., 1:] * np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0)


def within_angle(vector: ArrayLike, limit_rad: float) -> F64:
    """Shortens rotation vectors (..., 3) to an angle of at most `limit_rad`."""
    v = np.asarray(vector, float)
    if v.ndim == 1:
        return v * (limit_rad / max(math.sqrt(v @ v), limit_rad))
    angle = np.linalg.norm(v, axis=-1, keepdims=True)
    return v * (limit_rad / np.maximum(angle, limit_rad))


def upright(base_from_tcp: ArrayLike, tilt_rad: float) -> F64:
    """Turns tools (..., 3, 3) back the shortest way until they lean at most `tilt_rad` from pointing down."""
    R = np.asarray(base_from_tcp, float)
    if R.ndim == 2:
        return _single_upright(R, tilt_rad)
    approach = R[..., :, 2]
    axis = np.stack([-approach[..., 1], approach[..., 0], 0 * approach[..., 0]], -1)  # approach x down
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    lean = np.arctan2(sine, -approach[..., 2:])
    return matrix_from_vector(axis / np.maximum(sine, 1e-12) * np.maximum(lean - tilt_rad, 0)) @ R


def about_z(yaw: ArrayLike) -> F64:
    """Returns rotation matrices about the z axis."""
    angle = np.asarray(yaw, float)
    return matrix_from_vector(np.stack([0 * angle, 0 * angle, angle], -1))


def yaw_of(matrix: ArrayLike) -> F64:
    """Returns the heading of the x axis [rad]."""
    m = np.asarray(matrix, float)
    return np.arctan2(m[..., 1, 0], m[..., 0, 0])


def turn_between(start: ArrayLike, end: ArrayLike) -> F64:
    """Returns the rotation vectors (..., 3) [rad] that turn `start` (..., 3, 3) into `end`, applied on the left."""
    return vector_from_matrix(np.asarray(end, float) @ np.swapaxes(np.asarray(start, float), -1, -2))


def heading(base_from_tcp: ArrayLike) -> F64:
    """Returns the tool's turn (...) about the vertical from `TOOL_DOWN` [rad], in -pi to pi."""
    return yaw_of(upright(base_from_tcp, 0.0) @ TOOL_DOWN.T)


def within_yaw(base_from_tcp: ArrayLike, before: ArrayLike) -> F64:
    """Turns tools (..., 3, 3) back about the vertical until their heading is within `YAW_LIMIT_RAD`.

    `before` is where the tool comes from by less than half a turn: past pi the heading is counted on from there.
    """
    R = np.asarray(base_from_tcp, float)
    if R.ndim == 2:
        return _single_within_yaw(R, np.asarray(before, float))
    start = heading(before)
    on = heading(base_from_tcp) - start
    yaw = start + (on + np.pi) % (2 * np.pi) - np.pi
    return about_z(np.clip(yaw, -YAW_LIMIT_RAD, YAW_LIMIT_RAD) - yaw) @ R


def _single_within_yaw(rotation: F64, before: F64) -> F64:
    """Does what `within_yaw` does, for one tool (3, 3)."""
    start = _single_heading(before)
    yaw = start + (_single_heading(rotation) - start + math.pi) % (2 * math.pi) - math.pi
    back = min(max(yaw, -YAW_LIMIT_RAD), YAW_LIMIT_RAD) - yaw
    return matrix_from_vector((0.0, 0.0, back)) @ rotation if back else rotation


def _single_heading(rotation: F64) -> float:
    """Does what `heading` does, for one tool (3, 3)."""
    x, y, _ = _single_upright(rotation, 0.0)[:, 1].tolist()  # of `TOOL_DOWN` the axis y points along -x
    return math.atan2(-y, -x)


def _single_upright(rotation: F64, tilt_rad: float) -> F64:
    """Does what `upright` does, for one tool (3, 3)."""
    x, y, z = rotation[:, 2].tolist()
    sine = math.hypot(x, y)
    lean = math.atan2(sine, -z)
    if lean <= tilt_rad:
        return rotation
    share = (lean - tilt_rad) / max(sine, 1e-12)
    return matrix_from_vector((-y * share, x * share, 0.0)) @ rotation


def _single_matrix(vector: F64, square: float) -> F64:
    """Does what `matrix_from_vector` does, for one vector (3,) with this square of its angle."""
    x, y, z = vector.tolist()
    half = math.sqrt(square) / 2
    w, share = math.cos(half), math.sin(half) / (2 * half) if half > 0 else 0.5
    x, y, z = x * share, y * share, z * share
    scale = 2 / (w * w + x * x + y * y + z * z)
    xx, yy, zz, xy, xz, yz = x * x * scale, y * y * scale, z * z * scale, x * y * scale, x * z * scale, y * z * scale
    wx, wy, wz = w * x * scale, w * y * scale, w * z * scale
    return np.array(((1 - yy - zz, xy - wz, xz + wy), (xy + wz, 1 - xx - zz, yz - wx), (xz - wy, yz + wx, 1 - xx - yy)))


def _single_vector(matrix: F64) -> F64:
    """Does what `vector_from_matrix` does, for one matrix (3, 3)."""
    (xx, yx, zx), (xy, yy, zy), (xz, yz, zz) = matrix.T.tolist()  # the columns are the turned axes
    wx, wy, wz = zy - yz, xz - zx, yx - xy
    squares = (1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz)
    best = max(range(4), key=squares.__getitem__)
    if best == 0:
        w, x, y, z = squares[0], wx, wy, wz
    elif best == 1:
        w, x, y, z = wx, squares[1], xy + yx, xz + zx
    elif best == 2:
        w, x, y, z = wy, xy + yx, squares[2], yz + zy
    else:
        w, x, y, z = wz, xz + zx, yz + zy, squares[3]
    sine, length = math.sqrt(x * x + y * y + z * z), math.sqrt(w * w + x * x + y * y + z * z)
    factor = 2 * math.atan2(sine, abs(w)) / sine if sine > 1e-9 * length else 2 / length
    factor = -factor if w < 0 else factor
    return np.array((factor * x, factor * y, factor * z))
