"""A path of the tool: where it is and what the gripper is told, one row per control step."""

from dataclasses import dataclass

import numpy as np

from protos.schema import F64, Bools
from twin.rotations import matrix_from_vector, vector_from_matrix


@dataclass(frozen=True, kw_only=True)
class ToolPath:
    """T tool poses in the base frame."""

    positions: F64  # (T, 3) m
    rotations: F64  # (T, 3, 3) base_from_tcp
    closed: Bools  # (T,) the gripper is told to close

    def __len__(self) -> int:
        return len(self.positions)

    def pose(self, index: int) -> F64:
        """base_from_tcp (4, 4) at one step."""
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = self.rotations[index], self.positions[index]
        return out

    def part(self, first: int, last: int) -> "ToolPath":
        """The steps first..last, both included."""
        rows = slice(first, last + 1)
        return ToolPath(positions=self.positions[rows], rotations=self.rotations[rows], closed=self.closed[rows])


def joined(parts: list[ToolPath]) -> ToolPath:
    """One path after the other."""
    return ToolPath(
        positions=np.concatenate([part.positions for part in parts]),
        rotations=np.concatenate([part.rotations for part in parts]),
        closed=np.concatenate([part.closed for part in parts]),
    )


def slerp(a: F64, b: F64, share: F64) -> F64:
    """Rotations (k, 3, 3) on the shortest way from `a` to `b` (3, 3), `share` (k,) of it: 0 is `a`, 1 is `b`."""
    way = vector_from_matrix(b @ a.T)
    return matrix_from_vector(np.asarray(share)[:, None] * way) @ a


def angle_between(a: F64, b: F64) -> F64:
    """Angles (...,) between rotations (..., 3, 3) [rad]."""
    return np.linalg.norm(vector_from_matrix(np.asarray(a) @ np.swapaxes(b, -1, -2)), axis=-1)
