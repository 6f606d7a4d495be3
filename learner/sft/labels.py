"""This module makes auxiliary labels from what an episode itself knows.

The initial configuration says where object and target start; the operator or the guide put them there. The gripper
says when the object moves: it is grasped once the fingers were told to close, stopped half way, and the tool is at the
object. From then on it moves with the tool, until the fingers open again or run together.

                    closed on it                    opened, or slipped
    where it started ──────────► moves with the tool ──────────► stays
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from protos.errors import InputError
from protos.schema import F32, GRIPPER, GRIPPER_ACTION, TCP_POSE, TCP_POSITION, Configuration

TURNS = 2
"""Number of labels that tell turns, after the nine of positions."""
_OPENED = 0.05
"""Opening beyond the grasp's narrowest that counts as letting go."""


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """These settings name the bodies, and the scales of the labels."""

    manipulated: str = "cube"
    target: str = "target"
    centre: tuple[float, float] = (-0.5, 0.0)
    """Middle of the workspace, x and y in the base frame [m]."""
    far_m: float = 0.2
    """Scale of positions in the workspace."""
    near_m: float = 0.06
    """Scale, and limit, of positions relative to the tool."""
    held_opening: tuple[float, float] = (0.25, 0.75)
    """Gripper openings that mean something is between the fingers."""
    reach_m: float = 0.03
    """A closing gripper further from the object than this has not got it."""
    grasp_z_m: float = 0.0
    """Height of the fingers' grasp above the object's origin: the point that the labels follow."""
    turn_rad: float = 0.0
    """Turned by this much about the vertical the object looks the same; 0 leaves the labels of turns out."""
    near_rad: float = 0.5
    """Scale of turns relative to the tool."""

    @property
    def count(self) -> int:
        """Number of labels of an observation."""
        return 9 if self.turn_rad == 0 else 9 + TURNS


def hindsight_labels(
    configuration: Configuration, proprio: F32, action: F32, settings: LabelSettings | None = None
) -> F32:
    """Returns labels (T, `count`) of the first T observations of an episode: proprio (≥ T, 25), action (T, 7).

    0:4  object x, y and target x, y, about the centre, per `far_m`
    4:7  object minus tool x, y, z, per `near_m`, clipped to ±1
    7:9  target minus tool x, y, per `near_m`, clipped to ±1
    9:11 turn from the tool to the object, and to the target, per `near_rad`
    """
    settings = settings or LabelSettings()
    tool = _tool(proprio[: len(action)])
    target = _pose(configuration.poses, settings.target)
    thing = object_path(configuration, proprio, action, settings)
    far = np.concatenate([thing[:, :2], np.broadcast_to(target[:2], (len(thing), 2))], axis=1)
    far = (far - np.tile(settings.centre, 2)) / settings.far_m
    near = np.concatenate([(thing - tool)[:, :3], target[:2] - tool[:, :2]], axis=1) / settings.near_m
    parts = [far, near.clip(-1.0, 1.0)]
    if settings.turn_rad > 0:
        turns = np.stack([thing[:, 3], np.full(len(thing), target[3])], 1) - tool[:, 3:]
        period = settings.turn_rad
        parts.append(((turns + period / 2) % period - period / 2) / settings.near_rad)
    return np.concatenate(parts, axis=1).astype(np.float32)


def object_path(configuration: Configuration, proprio: F32, action: F32, settings: LabelSettings) -> F32:
    """Returns the object's pose at the first T observations, (T, 4) x, y, z [m] and yaw [rad], base frame."""
    start = _pose(configuration.poses, settings.manipulated)
    start[2] += settings.grasp_z_m
    path = np.empty((len(action), 4), np.float32)
    pose, offset, narrowest = start, None, 1.0
    for t, tool in enumerate(_tool(proprio[: len(action)])):
        opening = float(proprio[t, GRIPPER])
        if offset is None:
            told_to_close = t > 0 and action[t - 1, GRIPPER_ACTION] < 0
            if told_to_close and _holds(opening, (pose - tool)[:3], settings):
                offset, narrowest = pose - tool, opening
        elif opening > narrowest + _OPENED or opening < settings.held_opening[0]:
            offset, pose = None, np.array([*pose[:2], start[2], pose[3]], np.float32)  # let go: it drops to the table
        if offset is not None:
            pose, narrowest = tool + offset, min(narrowest, opening)
        path[t] = pose
    return path


def _holds(opening: float, away: F32, settings: LabelSettings) -> bool:
    low, high = settings.held_opening
    return low <= opening <= high and float(np.linalg.norm(away)) <= settings.reach_m


def _tool(proprio: F32) -> F32:
    """Returns the tool's x, y, z [m] and its turn about the vertical [rad] while it points down, (T, 4)."""
    x, y = proprio[:, TCP_POSE][:, 3:5].T
    # pointing down is half a turn about a horizontal axis, which turns by half the yaw; TOOL_DOWN's lies at -45 degrees
    yaw = 2 * np.arctan2(y, x) + np.pi / 2
    return np.column_stack([proprio[:, TCP_POSITION], (yaw + np.pi) % (2 * np.pi) - np.pi]).astype(np.float32)


def _pose(poses: Mapping[str, tuple[float, float, float, float]], name: str) -> F32:
    if name not in poses:
        raise InputError(f"an episode's configuration has no body {name!r}; it has {', '.join(poses) or 'none'}")
    return np.array(poses[name], np.float32)
