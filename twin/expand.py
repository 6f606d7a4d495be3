"""Twin demonstrations from real ones: a demonstrated tool path carried over to new object and target poses.

    demonstrated:  start ──── reach ────► grasp ──── carry ────► release
    new:           start'                 grasp'                 release'

Near the object the path keeps its shape relative to the object, near the target relative to the target; in between it
is bent evenly (object-centric, as in MimicGen, Mandlekar et al. 2023). Positions are mapped by translation and turn,
orientations by the turn alone, which goes the shortest way from one body's to the next one's.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from twin.rotations import F64, about_z, continuous, matrix_from_vector, vector_from_matrix

Pose = tuple[float, float, float, float]


def expand(
    path: F64,
    closed: NDArray[np.bool_],
    old: Mapping[str, Pose],
    new: Mapping[str, Pose],
    *,
    body: str = "cube",
    target: str = "target",
    tool: str = "tool",
) -> F64:
    """A tool path (T, 6) (position, rotation vector) that does in the configuration `new` what `path` did in `old`.

    `closed` (T,) says where the gripper was commanded to close; `old` and `new` map names to (x, y, z, yaw). The path
    starts at the new tool pose, meets the object where it is now and lets go over the new target.
    """
    held = np.flatnonzero(closed)
    if np.shape(path) != (len(closed), 6) or not len(held) or held[0] == 0:
        raise InputError(
            f"path {np.shape(path)} with {len(held)} closed steps: (T, 6) needed, "
            "with the gripper open at first and closed later"
        )
    grasp, release = int(held[0]), int(held[-1])
    anchors = [0, grasp, release, len(path) - 1]
    names = [tool, body, target, target]
    turns = [new[name][3] - old[name][3] for name in names]
    moved = np.empty_like(path)
    for t, pose in enumerate(path):
        leg = next(i for i in range(len(anchors) - 1) if t <= anchors[i + 1])
        share = (t - anchors[leg]) / max(anchors[leg + 1] - anchors[leg], 1)
        yaw = turns[leg] + share * _shortest(turns[leg + 1] - turns[leg])
        moved[t] = _carried(pose, names[leg : leg + 2], share, about_z(yaw), old, new)
    return moved


def _shortest(angle: float) -> float:
    """The same turn between -pi and pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _carried(
    pose: F64, between: list[str], share: float, turn: F64, old: Mapping[str, Pose], new: Mapping[str, Pose]
) -> F64:
    """A tool pose (6,) moved with both bodies that it lies between, `share` of the way from one to the other."""
    ends = [np.array(new[name][:3]) + turn @ (pose[:3] - np.array(old[name][:3])) for name in between]
    position = (1 - share) * ends[0] + share * ends[1]
    vector = continuous(vector_from_matrix(turn @ matrix_from_vector(pose[3:])), pose[3:])
    return np.concatenate([position, vector])
