"""This module sets up the same situations and makes the same motions in two worlds.

    two domains        situations drawn over the workspace ─► images of both
                       square pulses along each axis ───────► TCP paths of both
    recorded episodes  frames before the first grasp ───────► images of the twin at the recorded tool pose
                       actions before the first grasp ──────► TCP path of the twin beside the recorded one

Up to the first grasp the bodies lie where the configuration put them, so a recorded situation can be set up again.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from protos.episode import Episode
from protos.schema import (
    ACTION_DIM,
    F32,
    F64,
    GRIPPER_ACTION,
    TCP_POSE,
    TCP_POSITION,
    Configuration,
    Observation,
    Schema,
)
from twin.env import VectorTwin
from twin.randomize import Domain
from twin.rotations import TOOL_DOWN, matrix_from_vector, yaw_of
from twin.scene import Scene
from twin.tasks import TOOL, Task

SITUATIONS = 24
PULSE_STEPS, REST_STEPS = 5, 8
PULSE_M = 0.05
"""Way of the tool in one pulse."""
LATENCIES = 24
"""Every motion is made this often, as a world draws its latency for each episode."""
LOWEST_M = 0.08
"""Tool height of drawn situations, clear of everything that lies on the table."""
LONGEST_STEPS = 40


@dataclass(frozen=True, kw_only=True)
class World:
    """A twin, in one domain; of what varies from episode to episode the middle, but every latency."""

    scene: Scene
    task: Task
    domain: Domain
    schema: Schema
    seed: int = 0

    def twins(self, n: int) -> VectorTwin:
        """Starts n twins; the caller closes them."""
        domain = self.domain.still
        return VectorTwin(self.scene, self.task, n=n, domain=domain, seed=self.seed, schema=self.schema)

    def images(self, starts: Sequence[Configuration]) -> Observation:
        """Returns the first observation of an episode from each start."""
        with closing(self.twins(len(starts))) as twins:
            for slot, start in enumerate(starts):
                twins.reset(slot, start)
            return twins.observe()

    def paths(self, starts: Sequence[Configuration], actions: Sequence[F32]) -> list[F64]:
        """TCP positions (T + 1, 3) of each start under its actions (T, 7)."""
        longest = max(map(len, actions))
        padded = np.zeros((longest, len(actions), ACTION_DIM), np.float32)
        padded[:, :, GRIPPER_ACTION] = 1
        for slot, sequence in enumerate(actions):
            padded[: len(sequence), slot] = sequence
        with closing(self.twins(len(starts))) as twins:
            for slot, start in enumerate(starts):
                twins.reset(slot, start)
            places = [twins.state().tool.copy()]
            for action in padded:
                twins.step(action)
                places.append(twins.state().tool.copy())
        return [np.stack(places)[: len(sequence) + 1, slot] for slot, sequence in enumerate(actions)]


def situations(task: Task, seed: int = 0) -> list[Configuration]:
    """Starts over all regions; in every second one the tool is anywhere in the work box."""
    rng, box = np.random.default_rng(seed), task.work_box
    low, high = max(box.z[0], LOWEST_M), box.z[1]
    found = []
    for number in range(SITUATIONS):
        start = task.space.sample(rng, region=list(task.space.regions)[number % len(task.space.regions)])
        if number % 4 >= 2:
            place = (float(rng.uniform(*box.x)), float(rng.uniform(*box.y)), float(rng.uniform(low, high)))
            start = replace(start, poses={**start.poses, TOOL: (*place, start.poses[TOOL][3])})
        found.append(start)
    return found


def pulses(task: Task) -> tuple[list[Configuration], list[F32]]:
    """Starts and actions: forth and back along each axis of the base frame, from over the middle of the workspace."""
    rng = np.random.default_rng(0)
    size = min(1.0, PULSE_M / (PULSE_STEPS * task.action_scale[0]))
    start = task.space.sample(rng)
    box = task.work_box
    middle = (sum(box.x) / 2, sum(box.y) / 2, max(sum(box.z) / 2, LOWEST_M), 0.0)
    start = replace(start, poses={**start.poses, TOOL: middle})
    actions = []
    for axis in range(3):
        sequence = np.zeros((2 * (PULSE_STEPS + REST_STEPS), ACTION_DIM), np.float32)
        sequence[:, GRIPPER_ACTION] = 1
        sequence[:PULSE_STEPS, axis] = size
        sequence[PULSE_STEPS + REST_STEPS :, axis][:PULSE_STEPS] = -size
        actions += [sequence] * LATENCIES
    return [start] * len(actions), actions


def before_grasp(episode: Episode) -> int:
    """Steps before the gripper is first told to close, and at most `LONGEST_STEPS`."""
    closing_at = np.flatnonzero(episode.action[:, GRIPPER_ACTION] < 0)
    return min(int(closing_at[0]) if len(closing_at) else len(episode.action), LONGEST_STEPS)


def situation_of(episode: Episode, step: int) -> Configuration:
    """The configuration with the tool where it was measured at a step before the grasp; a lean of the tool is lost."""
    pose = episode.observation.proprio[step, TCP_POSE].astype(float)
    yaw = float(yaw_of(matrix_from_vector(pose[3:]) @ TOOL_DOWN.T))
    x, y, z = (float(value) for value in pose[:3])
    return replace(episode.configuration, poses={**episode.configuration.poses, TOOL: (x, y, z, yaw)})


def recorded_situations(episodes: Sequence[Episode]) -> tuple[list[Configuration], Observation]:
    """Returns up to `SITUATIONS` situations, spread over the episodes and the time before their grasps, and their
    images.
    """
    each = max(SITUATIONS // len(episodes), 1)
    starts, rows = [], []
    for episode in episodes[:SITUATIONS]:
        for step in np.unique(np.linspace(0, before_grasp(episode), each).astype(int)):
            starts.append(situation_of(episode, int(step)))
            rows.append(episode.observation.rows([int(step)]))
    seen = Observation(
        side=np.concatenate([row.side for row in rows]),
        wrist=np.concatenate([row.wrist for row in rows]),
        proprio=np.concatenate([row.proprio for row in rows]),
    )
    return starts, seen


def recorded_motions(episodes: Sequence[Episode]) -> tuple[list[Configuration], list[F32], list[F64]]:
    """Starts, actions and measured TCP paths up to the grasps; episodes that grasp at once are left out."""
    moved = [(episode, before_grasp(episode)) for episode in episodes]
    moved = [(episode, steps) for episode, steps in moved if steps >= PULSE_STEPS]
    starts = [situation_of(episode, 0) for episode, _ in moved]
    actions = [episode.action[:steps] for episode, steps in moved]
    paths = [episode.observation.proprio[: steps + 1, TCP_POSITION].astype(float) for episode, steps in moved]
    return starts, actions, paths
