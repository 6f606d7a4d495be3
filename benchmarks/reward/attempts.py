"""This module makes attempts of known outcome: a scripted operator who sees things where they are, or elsewhere.

    exact     sees the target where it is, and brings the object there under motion noise
    beside    believes the target off to one side, and lets the object go there
    empty     goes to the target with nothing in the fingers, closes and opens them
    astray    believes the object elsewhere, and never gets it

The simulator judges all alike; an attempt that solves the task although it was to fail is a success.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from actors.guides import ListGuide
from actors.human import ObjectPoses, ScriptedOperator, TakeoverSettings
from actors.loop import EpisodeLoop
from actors.policies import NoPolicy
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sinks import EpisodeFilter
from benchmarks.operator.inside import InsideRobot
from protos.episode import Episode, Segment
from protos.schema import F32, F64, GRIPPER_ACTION, TCP_POSITION, Observation, Schema, Source
from twin.labs import Lab
from twin.scene import Scene
from twin.tasks import Task

Kind = Literal["exact", "beside", "empty", "astray"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ASTRAY_M = 0.06
"""The object is believed so far off."""
HOVER_M, LOW_M = 0.08, 0.025
"""Heights above the target over which an empty hand arrives, and at which it opens."""
ARRIVED_M, CLOSED_STEPS = 0.01, 12
NOISE = 0.3
"""Strength of the motion noise, as in demonstrations."""

Pose = tuple[float, float, float, float]


@dataclass
class MistakenEyes:
    """Sees one body at an offset (2,) [m] from where it is; satisfies `actors.human.ObjectPoses`."""

    eyes: ObjectPoses
    body: str = ""
    offset: tuple[float, float] = (0.0, 0.0)

    def objects(self) -> Mapping[str, Pose]:
        found = dict(self.eyes.objects())
        if self.body:
            x, y, z, yaw = found[self.body]
            found[self.body] = (x + self.offset[0], y + self.offset[1], z, yaw)
        return found


class ErringOperator:
    """Acts in every step; satisfies `actors.interfaces.Operator`. Errs in each episode as its list of kinds says."""

    name = "erring"

    def __init__(self, robot: InsideRobot, kinds: list[Kind], beside_m: tuple[float, float], seed: int) -> None:
        self._robot, self._kinds, self._beside_m = robot, kinds[::-1], beside_m
        self._rng = np.random.default_rng(seed)
        self._eyes = MistakenEyes(robot.table)
        takeover = TakeoverSettings(always=True, seed=seed)
        self._operator = ScriptedOperator(robot.task, robot.environment, self._eyes, takeover)
        self._kind: Kind = "exact"
        self._closed_for = 0

    def override(self, slot: int, step: int, observation: Observation) -> F32:
        if step == 0:
            self._begin()
        if self._kind == "empty":
            return self._empty(observation.proprio[0, TCP_POSITION].astype(float))
        action = self._operator.override(slot, step, observation)
        assert action is not None, "it always acts"
        return action

    def _begin(self) -> None:
        task = self._robot.task
        self._kind, self._closed_for = self._kinds.pop(), 0
        far = {"beside": self._rng.uniform(*self._beside_m), "astray": ASTRAY_M}.get(self._kind, 0.0)
        turn = self._rng.uniform(-np.pi, np.pi)
        self._eyes.offset = far * np.cos(turn), far * np.sin(turn)
        self._eyes.body = {"beside": task.fixed_bodies[0], "astray": task.space.manipulated}.get(self._kind, "")

    def _empty(self, tool: F64) -> F32:
        target = np.array(self._robot.table.objects()[self._robot.task.fixed_bodies[0]][:3])
        off = float(np.hypot(*(target - tool)[:2]))
        goal = target + np.array([0.0, 0.0, LOW_M if off < ARRIVED_M else HOVER_M])
        self._closed_for += off < ARRIVED_M
        action = np.zeros(7, np.float32)
        action[:3] = np.clip((goal - self._robot.environment.commanded) / self._robot.task.action_scale[0], -1, 1)
        action[GRIPPER_ACTION] = 1.0 if self._closed_for >= CLOSED_STEPS else -1.0
        return action


def attempts(
    scene: Scene,
    task: Task,
    lab: Lab,
    schema: Schema,
    kinds: list[Kind],
    *,
    beside_m: tuple[float, float],
    seed: int,
) -> list[tuple[Kind, Episode]]:
    """Returns one judged episode of each of the `kinds`, from random starts in both regions."""
    robot = InsideRobot(scene, task, lab, schema, seed=seed, disturbance=NOISE)
    rng, episodes = np.random.default_rng(seed), list[Episode]()

    def keep(segments: list[Segment]) -> None:
        episodes.append(Episode.of(segments))

    starts = [task.space.sample(rng, region="AB"[k % 2]) for k in range(len(kinds))]
    tags = EpisodeTags(
        actor=f"attempts-{seed}",
        incarnation="bench",
        task=task.name,
        scene=scene.name,
        instruction=task.instruction,
        source=Source.REAL,
    )
    EpisodeLoop(
        robot.environment,
        NoPolicy(),
        ListGuide(starts),
        EpisodeRecorder(tags),
        EpisodeFilter(keep, lambda segments: True),
        ErringOperator(robot, kinds, beside_m, seed),
    ).run(lambda: False)
    return list(zip(kinds, episodes, strict=True))
