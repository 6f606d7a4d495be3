"""This module computes rotations and velocities of recorded poses, all rows at once.

Quaternions are (w, x, y, z). Euler angles are roll, pitch, yaw about the fixed x, y, z axes, in this order: R =
Rz(yaw) Ry(pitch) Rx(roll), scipy's "xyz".
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.proprioception import proprioception
from protos.schema import F32, F64

RotationForm = Literal["euler", "rotation_vector", "quaternion_xyzw"]
ROTATION_COLUMNS: dict[RotationForm, int] = {"euler": 3, "rotation_vector": 3, "quaternion_xyzw": 4}
_SMALL = 1e-8


def quaternions(rotation: NDArray[np.floating], form: RotationForm) -> F64:
    """Returns unit quaternions (n, 4) of rotations in another form (n, 3 or 4)."""
    if rotation.shape[1] != ROTATION_COLUMNS[form]:
        raise InputError(f"a rotation as {form} has {ROTATION_COLUMNS[form]} numbers, this one {rotation.shape[1]}")
    if form == "euler":
        return _from_euler(rotation.astype(np.float64))
    if form == "rotation_vector":
        return _from_vectors(rotation.astype(np.float64))
    norm = np.linalg.norm(rotation, axis=1, keepdims=True)
    unit = np.where(norm > _SMALL, rotation / norm.clip(_SMALL), (0.0, 0.0, 0.0, 1.0))
    return unit[:, (3, 0, 1, 2)]


def rotation_vectors(quaternion: F64) -> F64:
    """Returns rotation vectors (n, 3) [rad], no longer than π."""
    quaternion = quaternion * np.where(quaternion[:, :1] < 0, -1.0, 1.0)
    sine = np.linalg.norm(quaternion[:, 1:], axis=1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, quaternion[:, :1])
    return quaternion[:, 1:] * np.where(sine > _SMALL, angle / sine.clip(_SMALL), 2.0)


def turns(before: F64, after: F64) -> F64:
    """Returns rotation vectors (n, 3) [rad] from one orientation to the other, applied on the left."""
    return rotation_vectors(_product(after, before * (1.0, -1.0, -1.0, -1.0)))


def composed(turn: NDArray[np.floating]) -> F64:
    """Returns the orientations (n + 1, 4) that turns (n, 3) [rad], each applied on the left, lead through."""
    path = np.tile((1.0, 0.0, 0.0, 0.0), (len(turn) + 1, 1))
    for row, step in enumerate(quaternions(turn, "rotation_vector")):
        path[row + 1] = _product(step[None], path[row : row + 1])[0]
    return path


def interpolated(rotation: F64, times: F64, at: F64) -> F64:
    """Returns the orientations (m, 4) at `at` (m,) of those (n, 4) at `times` (n,), along the shortest arcs."""
    if len(rotation) == 1:
        return rotation.repeat(len(at), axis=0)
    before = (np.searchsorted(times, at, side="right") - 1).clip(0, len(times) - 2)
    share = ((at - times[before]) / (times[before + 1] - times[before])).clip(0.0, 1.0)
    turned = turns(rotation[before], rotation[before + 1])
    return _product(_from_vectors(share[:, None] * turned), rotation[before])


def proprio(position: NDArray[np.floating], rotation: F64, opening: NDArray[np.floating], times: F64 | None) -> F32:
    """Returns proprioception (n, 25) of positions (n, 3) [m], quaternions (n, 4) and gripper openings (n,) in 0 … 1.

    Velocities are differences to the row before by their `times` [s], zero in the first row and where times are None.
    Forces and motion under way are zero.
    """
    velocity = np.zeros((len(position), 6))
    if times is not None:
        period = np.diff(times)[:, None]
        velocity[1:, :3] = np.diff(position, axis=0) / period
        velocity[1:, 3:] = turns(rotation[:-1], rotation[1:]) / period
    vectors = rotation_vectors(rotation)
    return proprioception(position=position, rotation=vectors, velocity=velocity, opening=opening.clip(0.0, 1.0))


def between(value: NDArray[np.floating], ends: tuple[float, float]) -> NDArray[np.floating]:
    """Maps gripper values (n,) to 0 at the first end and 1 at the second."""
    return ((value - ends[0]) / (ends[1] - ends[0])).clip(0.0, 1.0)


def _from_euler(angles: F64) -> F64:
    quaternion = np.tile((1.0, 0.0, 0.0, 0.0), (len(angles), 1))
    for axis in range(3):
        step = np.zeros_like(quaternion)
        step[:, 0], step[:, 1 + axis] = np.cos(angles[:, axis] / 2), np.sin(angles[:, axis] / 2)
        quaternion = _product(step, quaternion)
    return quaternion


def _from_vectors(vector: F64) -> F64:
    angle = np.linalg.norm(vector, axis=1, keepdims=True)
    return np.concatenate([np.cos(angle / 2), vector * np.sinc(angle / (2 * np.pi)) / 2], axis=1)


def _product(a: F64, b: F64) -> F64:
    """Returns the Hamilton product row by row."""
    scalar = a[:, :1] * b[:, :1] - (a[:, 1:] * b[:, 1:]).sum(axis=1, keepdims=True)
    vector = a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:] + np.cross(a[:, 1:], b[:, 1:])
    return np.concatenate([scalar, vector], axis=1)
