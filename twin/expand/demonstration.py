"""A demonstration as expansion sees it: the measured path of the tool, the gripper's commands, where things were."""

from dataclasses import dataclass

import numpy as np

from protos.errors import InputError
from protos.schema import F32, F64, GRIPPER_ACTION, TCP_POSE, Bools, Configuration
from twin.camera import pose_of
from twin.expand.path import ToolPath
from twin.rotations import TOOL_DOWN, about_z, matrix_from_vector
from twin.tasks import TOOL, Task

MISSED_M = 0.02
"""What is let go of within this distance was not grasped."""


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One successful episode of a task, of whatever arm."""

    name: str
    configuration: Configuration
    path: ToolPath

    @classmethod
    def of(cls, name: str, configuration: Configuration, proprio: F32, action: F32) -> "Demonstration":
        """From an episode's proprioception (T + 1, 25) and actions (T, 7), laid out as in `protos.schema`.

        The gripper's command at the last pose is that of the last action. Raises InputError for an episode without
        poses of its objects, with NaN, shorter than two steps, or one that begins with the gripper closed.
        """
        if len(action) < 2 or len(proprio) != len(action) + 1:
            raise InputError(
                f"demonstration {name}: {len(action)} actions and {len(proprio)} observations; "
                "at least 2 actions and one observation more are needed"
            )
        pose = proprio[:, TCP_POSE].astype(float)
        closed = action[:, GRIPPER_ACTION] < 0
        if not configuration.poses:
            raise InputError(f"demonstration {name}: it does not say where the objects were, so it cannot be moved")
        if not (np.isfinite(pose).all() and np.isfinite(action).all()):
            raise InputError(f"demonstration {name}: NaN or infinity among its poses or actions")
        if closed[0]:
            raise InputError(f"demonstration {name}: it begins with the gripper closed; it must begin open")
        path = ToolPath(
            positions=pose[:, :3],
            rotations=matrix_from_vector(pose[:, 3:]),
            closed=without_misses(np.append(closed, closed[-1]), pose[:, :3]),
        )
        return cls(name=name, configuration=configuration, path=path)


def without_misses(closed: Bools, positions: F64) -> Bools:
    """The gripper's commands (T,) without those that grasped nothing: it opened again before it had gone anywhere."""
    kept = closed.copy()
    edges = np.flatnonzero(np.diff(closed.astype(int))) + 1
    for close, release in zip(edges[::2], edges[1::2], strict=False):
        if np.linalg.norm(positions[close : release + 1] - positions[close], axis=1).max() < MISSED_M:
            kept[close:release] = False
    return kept


def body_poses(task: Task, configuration: Configuration) -> dict[str, F64]:
    """base_from_body (4, 4) of the task's bodies, as the configuration puts them."""
    poses = {name: task.pose(configuration, name) for name in task.bodies}
    return {name: pose_of((x, y, z), about_z(yaw)) for name, (x, y, z, yaw) in poses.items()}


def start_pose(task: Task, configuration: Configuration) -> F64:
    """base_from_tcp (4, 4) at which an episode begins."""
    x, y, z, yaw = task.pose(configuration, TOOL)
    return pose_of((x, y, z), about_z(yaw) @ TOOL_DOWN)
