"""Auxiliary labels from what an episode itself knows.

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
from protos.schema import F32, GRIPPER, GRIPPER_ACTION, TCP_POSITION, Configuration

LABELS = 9
_OPENED = 0.05
"""Opening beyond the grasp's narrowest that counts as letting go."""


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """Which bodies, and the scales of the labels."""

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


def hindsight_labels(
    configuration: Configuration, proprio: F32, action: F32, settings: LabelSettings | None = None
) -> F32:
    """Labels (T, 9) of the first T observations of an episode: proprio (≥ T, 19), action (T, 7).

    0:4  object x, y and target x, y, about the centre, per `far_m`
    4:7  object minus tool x, y, z, per `near_m`, clipped to ±1
    7:9  target minus tool x, y, per `near_m`, clipped to ±1
    """
    settings = settings or LabelSettings()
    tool = proprio[: len(action), TCP_POSITION]
    target = _position(configuration.poses, settings.target)[:2]
    thing = object_path(configuration, proprio, action, settings)
    far = np.concatenate([thing[:, :2], np.broadcast_to(target, (len(thing), 2))], axis=1)
    far = (far - np.tile(settings.centre, 2)) / settings.far_m
    near = np.concatenate([thing - tool, target - tool[:, :2]], axis=1) / settings.near_m
    return np.concatenate([far, near.clip(-1.0, 1.0)], axis=1).astype(np.float32)


def object_path(configuration: Configuration, proprio: F32, action: F32, settings: LabelSettings) -> F32:
    """Where the object was at each of the first T observations, (T, 3) [m] in the base frame."""
    start = _position(configuration.poses, settings.manipulated)
    path = np.empty((len(action), 3), np.float32)
    position, offset, narrowest = start, None, 1.0
    for t in range(len(action)):
        tool, opening = proprio[t, TCP_POSITION], float(proprio[t, GRIPPER])
        if offset is None:
            told_to_close = t > 0 and action[t - 1, GRIPPER_ACTION] < 0
            if told_to_close and _holds(opening, position - tool, settings):
                offset, narrowest = position - tool, opening
        elif opening > narrowest + _OPENED or opening < settings.held_opening[0]:
            offset, position = None, np.append(position[:2], start[2])  # let go: it drops to the table
        if offset is not None:
            position, narrowest = tool + offset, min(narrowest, opening)
        path[t] = position
    return path


def _holds(opening: float, away: F32, settings: LabelSettings) -> bool:
    low, high = settings.held_opening
    return low <= opening <= high and float(np.linalg.norm(away)) <= settings.reach_m


def _position(poses: Mapping[str, tuple[float, float, float, float]], name: str) -> F32:
    if name not in poses:
        raise InputError(f"an episode's configuration has no body {name!r}; it has {', '.join(poses) or 'none'}")
    return np.asarray(poses[name][:3], np.float32)
