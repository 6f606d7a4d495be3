"""This module weighs what the arm carries, by the force at its tool while it holds an object off the table.

What the gripper's own inertia adds is known from a replay of the same commands with empty fingers.
"""

from collections.abc import Sequence

import numpy as np

from protos.episode import Episode
from protos.schema import F64, GRIPPER, GRIPPER_ACTION, WRENCH, Bools
from twin.identify.motion import Replay, motion_of
from twin.identify.response import Response
from twin.robots import Robot
from twin.tasks import Task

LIFT_M = 0.03
"""An object that is carried this much above the place of the grasp touches nothing."""
EMPTY_OPENING = 0.05
"""Fingers that close further than this hold nothing."""
LEAST_STEPS = 5
GRAVITY = 9.81


def weighed(robot: Robot, task: Task, episodes: Sequence[Episode], response: Response) -> F64:
    """Returns the mass [kg] that each episode with a carry shows, of an arm with a known response."""
    carries = [(episode, carried) for episode in episodes if (carried := _carried(episode)).sum() >= LEAST_STEPS]
    found = [(episode, carried, motion_of(robot, episode, episode.steps)) for episode, carried in carries]
    moved = [(episode, carried, motion) for episode, carried, motion in found if motion is not None]
    if not moved:
        return np.empty(0)
    replay = Replay(robot, task, [motion for _, _, motion in moved])
    latency = np.full(len(moved), response.latency_steps)
    empty = replay.paths(latency, response.response, response.stiffness).force
    masses = [
        (force[: len(carried)][carried] - _force(episode)[carried]).mean() / GRAVITY
        for (episode, carried, _), force in zip(moved, empty, strict=True)
    ]
    return np.array(masses)


def _force(episode: Episode) -> F64:
    return episode.observation.proprio[: episode.steps, WRENCH.start + 2].astype(float)


def _carried(episode: Episode) -> Bools:
    """Returns the steps (T,) in which an object is held and touches nothing else; none where no force was measured."""
    proprio = episode.observation.proprio[: episode.steps]
    closed = episode.action[:, GRIPPER_ACTION] < 0
    if not closed.any() or not _force(episode).any():
        return np.zeros(len(closed), bool)
    height = proprio[:, 2]
    return closed & (height > height[closed].min() + LIFT_M) & (proprio[:, GRIPPER] > EMPTY_OPENING)
