"""Paths in control steps that the task's actions can follow.

A control step moves the tool at most `metres` along each axis and turns it at most `radians` about each (an action of
1). Contacts keep their demonstrated timing where that is slow enough; free motions go at an even share of the limit.
"""

import numpy as np

from protos.schema import F64
from twin.expand.path import ToolPath, joined, slerp
from twin.rotations import vector_from_matrix


def steps_between(path: ToolPath, action_scale: tuple[float, float]) -> F64:
    """How large an action (T - 1,) takes the tool from each pose to the next; a locked turn counts nothing."""
    metres, radians = action_scale
    travel = np.abs(np.diff(path.positions, axis=0)).max(axis=1) / metres
    if radians == 0:
        return travel
    turn = vector_from_matrix(path.rotations[1:] @ np.swapaxes(path.rotations[:-1], -1, -2))
    return np.maximum(travel, np.abs(turn).max(axis=1) / radians)


def evenly(path: ToolPath, action_scale: tuple[float, float], speed: float) -> ToolPath:
    """The same way in steps of equal size, each at most `speed` of the largest action; both ends are kept."""
    sizes = steps_between(path, action_scale)
    along = np.concatenate([[0.0], np.cumsum(sizes)])
    count = max(int(np.ceil(along[-1] / speed - 1e-9)), 1)
    return _at(path, np.interp(np.linspace(0, along[-1], count + 1), along, np.arange(len(path))))


def no_faster(path: ToolPath, action_scale: tuple[float, float]) -> ToolPath:
    """The same poses with more in between wherever a step asks for more than the largest action."""
    parts = [path.part(0, 0)]
    for step, size in enumerate(steps_between(path, action_scale)):
        count = max(int(np.ceil(size - 1e-9)), 1)
        parts.append(_at(path, step + np.arange(1, count + 1) / count))
    return joined(parts)


def _at(path: ToolPath, index: F64) -> ToolPath:
    """Poses at fractional indices (k,); the gripper's command is that of the index before."""
    low = np.minimum(index.astype(int), len(path) - 1)
    high, share = np.minimum(low + 1, len(path) - 1), index - low
    positions = path.positions[low] + share[:, None] * (path.positions[high] - path.positions[low])
    rotations = [
        slerp(path.rotations[a], path.rotations[b], np.array([s])) for a, b, s in zip(low, high, share, strict=True)
    ]
    return ToolPath(positions=positions, rotations=np.concatenate(rotations), closed=path.closed[low])
