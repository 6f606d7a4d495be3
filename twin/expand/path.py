"""This module holds tool paths, one pose and gripper command per row, and times them in control steps.

A control step moves the tool at most `metres` along each axis and turns it at most `radians` about each (an action of
1). Contacts keep their demonstrated timing where that is slow enough; free motions go at an even share of the limit.
"""

from dataclasses import dataclass

import numpy as np

from protos.schema import F64, Bools
from twin.rotations import matrix_from_vector, turn_between


@dataclass(frozen=True, kw_only=True)
class ToolPath:
    """A tool path is T poses in the base frame with the gripper's command at each."""

    positions: F64  # (T, 3) m
    rotations: F64  # (T, 3, 3) base_from_tcp
    closed: Bools  # (T,) the gripper is told to close

    def __len__(self) -> int:
        return len(self.positions)

    def pose(self, index: int) -> F64:
        """Returns base_from_tcp (4, 4) at one step."""
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = self.rotations[index], self.positions[index]
        return out

    def part(self, first: int, last: int) -> "ToolPath":
        """Returns the steps first..last, both included."""
        rows = slice(first, last + 1)
        return ToolPath(positions=self.positions[rows], rotations=self.rotations[rows], closed=self.closed[rows])


def joined(parts: list[ToolPath]) -> ToolPath:
    """Joins paths, one after the other."""
    return ToolPath(
        positions=np.concatenate([part.positions for part in parts]),
        rotations=np.concatenate([part.rotations for part in parts]),
        closed=np.concatenate([part.closed for part in parts]),
    )


def slerp(a: F64, b: F64, share: F64) -> F64:
    """Returns rotations (k, 3, 3) at the shares (k,) of the shortest way from `a` (0) to `b` (1), both (3, 3)."""
    return matrix_from_vector(np.asarray(share)[:, None] * turn_between(a, b)) @ a


def angle_between(a: F64, b: F64) -> F64:
    """Returns the angles (...,) between rotations (..., 3, 3) [rad]."""
    return np.linalg.norm(turn_between(b, a), axis=-1)


def steps_between(path: ToolPath, action_scale: tuple[float, float]) -> F64:
    """Returns the actions' sizes (T - 1,) from each pose to the next; a locked turn counts nothing."""
    metres, radians = action_scale
    travel = np.abs(np.diff(path.positions, axis=0)).max(axis=1) / metres
    if radians == 0:
        return travel
    turn = turn_between(path.rotations[:-1], path.rotations[1:])
    return np.maximum(travel, np.abs(turn).max(axis=1) / radians)


def evenly(path: ToolPath, action_scale: tuple[float, float], speed: float) -> ToolPath:
    """Divides a way into steps of equal size, each at most `speed` of the largest action; both ends are kept."""
    sizes = steps_between(path, action_scale)
    along = np.concatenate([[0.0], np.cumsum(sizes)])
    count = max(int(np.ceil(along[-1] / speed - 1e-9)), 1)
    return _at(path, np.interp(np.linspace(0, along[-1], count + 1), along, np.arange(len(path))))


def no_faster(path: ToolPath, action_scale: tuple[float, float]) -> ToolPath:
    """Adds poses wherever a step asks for more than the largest action."""
    parts = [path.part(0, 0)]
    for step, size in enumerate(steps_between(path, action_scale)):
        count = max(int(np.ceil(size - 1e-9)), 1)
        parts.append(_at(path, step + np.arange(1, count + 1) / count))
    return joined(parts)


def _at(path: ToolPath, index: F64) -> ToolPath:
    """Interpolates poses at fractional indices (k,); the gripper's command is that of the index before."""
    low = np.minimum(index.astype(int), len(path) - 1)
    high, share = np.minimum(low + 1, len(path) - 1), index - low
    positions = path.positions[low] + share[:, None] * (path.positions[high] - path.positions[low])
    rotations = [
        slerp(path.rotations[a], path.rotations[b], np.array([s])) for a, b, s in zip(low, high, share, strict=True)
    ]
    return ToolPath(positions=positions, rotations=np.concatenate(rotations), closed=path.closed[low])
