"""This module makes demonstrations and episodes by hand, for the tests of expansion."""

import numpy as np

from protos.episode import Episode
from protos.schema import Configuration, Observation, Outcome, Source
from twin.expand.demonstration import Demonstration
from twin.expand.path import ToolPath
from twin.rotations import TOOL_DOWN

OLD = {"tool": (-0.54, 0.0, 0.16, 0.0), "cube": (-0.55, 0.10, 0.018, 0.0), "target": (-0.39, 0.0, 0.001, 0.0)}


def configuration(region="A", cell=0, **poses):
    return Configuration(region=region, cell=cell, poses=OLD | poses)


def episode(name, start, proprio, action):
    """Returns an episode with images of one pixel."""
    images = np.zeros((len(proprio), 1, 1, 3), np.uint8)
    return Episode(
        name=name,
        instruction="",
        configuration=start,
        observation=Observation(side=images, wrist=images, proprio=proprio),
        action=action,
        reward=np.zeros(len(action), np.float32),
        human=np.zeros(len(action), bool),
        outcome=Outcome.SUCCESS,
        source=Source.TWIN,
    )


def demonstration(name="by hand", **poses):
    """Moves over to the cube and down, over to the target and down, up again; 2 cm per step, two steps per grasp."""
    start = configuration(**poses)
    tool, cube, target = (np.array(start.poses[each][:3]) for each in ("tool", "cube", "target"))
    up = np.array([0, 0, 1.0])
    grasp, release, high = cube - 0.004 * up, target + 0.016 * up, 0.12 * up
    corners = [tool, cube + high, grasp, grasp, grasp + high, release + high, release, release, release + 0.05 * up]
    closing = [False, False, False, True, True, True, True, False, False]
    positions, closed = [corners[0]], [False]
    for a, b, is_closed in zip(corners, corners[1:], closing[1:], strict=False):
        count = max(int(np.ceil(np.abs(b - a).max() / 0.02)), 2)
        positions += [a + (b - a) * (k + 1) / count for k in range(count)]
        closed += [is_closed] * count
    path = ToolPath(
        positions=np.array(positions),
        rotations=np.broadcast_to(TOOL_DOWN, (len(positions), 3, 3)),
        closed=np.array(closed),
    )
    return Demonstration(name=name, configuration=start, path=path)
