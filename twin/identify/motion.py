"""This module replays the commands of recorded episodes in the twin: its servos and its arm, over an empty table.

    proprioception: measured pose + motion under way ─► commanded poses ─IK─► joint targets
    joint targets ─ latency ─ response ─► servos' set points ─► physics ─► tool path, beside the measured one

What was commanded is read from the proprioception, so that motion noise and limits are in it. Until the gripper is
first told to close nothing touches the arm: such a motion is free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from protos.episode import Episode
from protos.schema import CONTROL_HZ, F64, GRIPPER_ACTION, TCP_POSE, UNDER_WAY
from twin.kinematics import Kinematics
from twin.physics import TIMESTEP_S, make
from twin.randomize import LATENCY_PARTS, Domain
from twin.robots import Robot
from twin.rotations import matrix_from_vector
from twin.tasks import PARKED_Z_M, Task

LEAST_STEPS, MOST_STEPS = 5, 40
LEAST_WAY_M = 0.02
"""An episode whose tool was told to move less than this says nothing of latency and response."""
SLICE_STEPS = round(1 / CONTROL_HZ / TIMESTEP_S / LATENCY_PARTS)
PARKED_APART_M = 0.5


@dataclass(frozen=True, kw_only=True)
class Motion:
    """The motion of one episode, or its beginning: T steps."""

    targets: F64  # (T + 1, joints) that the poses commanded so far ask for
    measured: F64  # (T + 1, 3) tool positions


class Paths(NamedTuple):
    """The replayed motions."""

    positions: F64  # (n, T + 1, 3) of the tool
    force: F64  # (n, T + 1) upwards on the tool [N], which here carries nothing


def free_motions(robot: Robot, episodes: Sequence[Episode]) -> list[Motion]:
    """Returns the free motions of those episodes that have one."""
    moved = [(episode, free_steps(episode)) for episode in episodes]
    found = [motion_of(robot, episode, steps) for episode, steps in moved if steps >= LEAST_STEPS]
    return [each for each in found if each is not None]


def free_steps(episode: Episode) -> int:
    """Returns the steps before the gripper is first told to close, `MOST_STEPS` at most."""
    closing = np.flatnonzero(episode.action[:, GRIPPER_ACTION] < 0)
    return min(int(closing[0]) if len(closing) else episode.steps, MOST_STEPS)


def motion_of(robot: Robot, episode: Episode, steps: int) -> Motion | None:
    """Returns the first steps of an episode; None where its commands are not known or hardly move the tool."""
    proprio = episode.observation.proprio[: steps + 1].astype(float)
    pose, under_way = proprio[:, TCP_POSE], proprio[:, UNDER_WAY]
    commanded = pose[:, :3] + under_way[:, :3]
    if np.ptp(commanded, axis=0).max() < LEAST_WAY_M or not under_way.any():
        return None
    rotations = matrix_from_vector(under_way[:, 3:]) @ matrix_from_vector(pose[:, 3:])
    kinematics = Kinematics(robot)
    joints, targets = kinematics.start_joints(commanded[0]), []
    for position, rotation in zip(commanded, rotations, strict=True):
        joints = kinematics.inverse(joints, position[None], rotation[None], iterations=10)
        targets.append(joints[0])
    return Motion(targets=np.array(targets), measured=pose[:, :3])


class Replay:
    """Motions are replayed side by side; each may have a latency of its own."""

    def __init__(self, robot: Robot, task: Task, motions: Sequence[Motion]) -> None:
        self._robot, self._task = robot, task
        steps = max(len(each.targets) for each in motions)
        self._targets = np.stack(
            [np.pad(each.targets, ((0, steps - len(each.targets)), (0, 0)), mode="edge") for each in motions]
        )  # (n, T + 1, joints)

    def paths(self, latency: F64, response: float, stiffness: float) -> Paths:
        """Replays with latencies (n,) in control steps.

        A latency may be any number: between two slices the targets are mixed, so that the path changes smoothly.
        """
        n, steps, _ = self._targets.shape
        physics = make("mujoco", self._robot, self._task, Domain(servo_stiffness=(stiffness, stiffness)), n=n)
        away = {
            name: np.tile([PARKED_APART_M * (1 + number), 0.0, PARKED_Z_M, 0.0], (n, 1))
            for number, name in enumerate(self._task.bodies)
        }
        points, opening = self._targets[:, 0].copy(), np.ones(n)
        physics.reset(np.arange(n), points, away)
        share = 1 - (1 - response) ** (1 / LATENCY_PARTS)
        path, force = [physics.tool_position.copy()], [physics.wrench[:, 2]]
        for number in range((steps - 1) * LATENCY_PARTS):
            points += share * (self._heard(number - latency * LATENCY_PARTS) - points)
            physics.command(points, opening)
            physics.step(SLICE_STEPS)
            if number % LATENCY_PARTS == LATENCY_PARTS - 1:
                path.append(physics.tool_position.copy())
                force.append(physics.wrench[:, 2])
        physics.close()
        return Paths(np.stack(path, 1), np.stack(force, 1))

    def _heard(self, since: F64) -> F64:
        """Returns the targets (n, joints) heard so many slices (n,) after the first command."""
        command = np.floor(since / LATENCY_PARTS).astype(int)
        share = np.maximum(since - command * LATENCY_PARTS - (LATENCY_PARTS - 1), 0.0)[:, None]
        slots, last = np.arange(len(since)), self._targets.shape[1] - 1
        now, next_ = (self._targets[slots, np.clip(command + ahead, 0, last)] for ahead in (1, 2))
        return now + share * (next_ - now)
