"""This module makes the proprioception of every observation: an arm's, a twin's and a dataset's.

A rotation by nearly pi has two rotation vectors, v and -v(2 pi/|v| - 1), and a tool that points down sits exactly
there: measured with noise, its pose would jump between +3.12 and -3.12. `tool_vector` takes one of the two, so the six
numbers of a pose change smoothly while the tool is turned by less than pi about the vertical; the vector's
angle may then exceed pi, which every consumer of rotation vectors accepts.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from protos.schema import F32, F64, GRIPPER, PROPRIO_DIM, TCP_POSE, TCP_VELOCITY, UNDER_WAY, WRENCH

TOOL_DOWN_VECTOR: F64 = np.array([1.0, -1.0, 0.0]) * np.pi / np.sqrt(2)
"""Rotation vector base_from_tcp of a gripper that points down and opens along y."""
_SHORT_RAD = np.pi / 2
"""A rotation no longer than this keeps its short vector: near zero the other one has no direction to rely on."""


def tool_vector(vector: ArrayLike) -> F64:
    """Returns the same rotations (..., 3) [rad], each as the vector nearer to `TOOL_DOWN_VECTOR`.

    Those no longer than pi/2 keep their short vector.
    """
    v = np.asarray(vector, float)
    if v.ndim == 1 and math.isfinite(square := v @ v):
        return _single_tool_vector(v, math.sqrt(square))
    angle = np.linalg.norm(v, axis=-1, keepdims=True)
    axis = v / np.maximum(angle, 1e-9)
    turn = np.remainder(angle, 2 * np.pi)  # about `axis`; 2 pi - turn about the opposite one
    short = np.where(turn > np.pi, (turn - 2 * np.pi) * axis, turn * axis)
    aligned = np.where((axis * TOOL_DOWN_VECTOR).sum(-1, keepdims=True) < 0, (turn - 2 * np.pi) * axis, turn * axis)
    return np.where(np.minimum(turn, 2 * np.pi - turn) <= _SHORT_RAD, short, aligned)


def _single_tool_vector(vector: F64, angle: float) -> F64:
    """Does what `tool_vector` does, for one vector (3,) of this angle."""
    turn = math.fmod(angle, 2 * math.pi)
    is_short = min(turn, 2 * math.pi - turn) <= _SHORT_RAD
    if turn > math.pi if is_short else vector @ TOOL_DOWN_VECTOR < 0:
        turn -= 2 * math.pi
    return vector * (turn / max(angle, 1e-9))


def proprioception(
    *,
    position: ArrayLike,
    rotation: ArrayLike,
    opening: ArrayLike,
    velocity: ArrayLike = 0.0,
    wrench: ArrayLike = 0.0,
    under_way: ArrayLike = 0.0,
) -> F32:
    """Returns proprioception (n, 25), laid out as in `protos.schema`.

    `position` (n, 3) [m] and `rotation` (n, 3), any rotation vector [rad], are the measured TCP pose, `opening` (n,) is
    the gripper's; `velocity`, `wrench` and `under_way` (n, 6) stay zero where nothing measured them.
    """
    place = np.asarray(position)
    out = np.zeros((len(place), PROPRIO_DIM), np.float32)
    out[:, TCP_POSE] = np.concatenate([place, tool_vector(rotation)], axis=1)
    out[:, GRIPPER] = opening
    out[:, TCP_VELOCITY], out[:, WRENCH], out[:, UNDER_WAY] = velocity, wrench, under_way
    return out
