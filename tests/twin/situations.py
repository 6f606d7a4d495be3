"""This module makes task states by hand."""

from collections.abc import Mapping

import numpy as np

from twin.rotations import TOOL_DOWN, about_z
from twin.tasks import TaskState


def situation(
    *,
    bodies: Mapping[str, tuple[float, ...]],
    tool: tuple[float, float, float] = (0.0, 0.0, 0.2),
    tool_yaw: float = 0.0,
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0),
    opening: float = 1.0,
    closing: bool = False,
) -> TaskState:
    """Returns one slot: bodies name -> (x, y, z) or (x, y, z, yaw); the arm is where it was told to be."""
    rotation = (about_z(tool_yaw) @ TOOL_DOWN)[None]
    return TaskState(
        tool=np.array([tool], float),
        tool_rotation=rotation,
        tool_velocity=np.array([velocity], float),
        commanded=np.array([tool], float),
        commanded_rotation=rotation,
        opening=np.array([opening]),
        closing=np.array([closing]),
        told_to_close=np.array([closing]),
        bodies={name: np.array([pose[:3]], float) for name, pose in bodies.items()},
        rotations={name: about_z(pose[3] if len(pose) > 3 else 0.0)[None] for name, pose in bodies.items()},
    )
