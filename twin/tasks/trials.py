"""How often a task's expert succeeds, without pictures.

trials(tasks.get("pick_and_place"), DOMAINS["twin"], "B", 100, seed=0).successes
"""

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from protos.schema import Bools, Schema
from twin.env import VectorTwin
from twin.randomize import Domain
from twin.robots import Robot
from twin.robots.ur5e import UR5E
from twin.scene import synthetic_scene
from twin.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What n episodes of one region gave."""

    success: Bools  # (n,)
    steps: NDArray[np.int64]  # (n,) until success or the end
    cpu_s: float
    """Of physics, expert and inverse kinematics, all episodes together."""

    @property
    def successes(self) -> int:
        return int(self.success.sum())


def trials(task: Task, domain: Domain, region: str, n: int, seed: int, *, robot: Robot = UR5E) -> Trials:
    """n episodes of the task's expert, side by side, from starts spread evenly over the region's cells."""
    smallest = Schema(side_px=16, wrist_px=16)  # nothing is drawn
    scene = replace(synthetic_scene(spacing_m=0.05), robot=robot)
    twin = VectorTwin(scene, task, n=n, domain=domain, seed=seed, schema=smallest)
    for slot, start in enumerate(task.space.spread(np.random.default_rng(seed), region=region, rollouts=n)):
        twin.reset(slot, start)
    success, steps = np.zeros(n, bool), np.zeros(n, int)
    begun = time.process_time()
    for _ in range(task.max_steps):
        steps += ~success
        success |= twin.step(twin.expert_action()).success
        if success.all():
            break
    twin.close()
    return Trials(success=success, steps=steps, cpu_s=time.process_time() - begun)
