"""Tries a policy in the twin from every cell of the grid, without exploration.

The same episode loop as everywhere, with a list of configurations for a guide and nowhere to send segments. The lines
it writes are the report's heat-maps and, for the newest policy, the guide's success map.

    python -m actors.sim.evaluate --settings evaluate.json
"""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from actors.interfaces import Decision, EpisodeResult
from actors.loop import EpisodeLoop
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sim.settings import EvaluationSettings
from protos.schema import Configuration, Observation, Outcome, Segment, Source

log = logging.getLogger(__name__)


class ListGuide:
    """A fixed list of configurations; keeps the results, in order of finishing."""

    def __init__(self, configurations: Iterable[Configuration]) -> None:
        self._left = list(configurations)[::-1]
        self.results: list[EpisodeResult] = []

    def next(self) -> Configuration | None:
        return self._left.pop() if self._left else None

    def report(self, result: EpisodeResult) -> None:
        self.results.append(result)


class NoSink:
    """Evaluation leaves no transitions behind."""

    def add(self, segment: Segment) -> None:
        """Dropped on purpose: a policy must not learn from its exam."""


class LocalPolicy:
    """A policy in this process behind the loop's `Policy` interface."""

    def __init__(self, actor: Any, seed: int) -> None:
        import torch

        self._actor, self._generator = actor, torch.Generator().manual_seed(seed)

    def act(self, observation: Observation) -> Decision:
        action, embedding = self._actor.act(observation, explore=0.0, generator=self._generator)
        return Decision(action=action, embedding=embedding, version=0, backbone_id="")


def result_line(result: EpisodeResult, manipulated: str) -> dict[str, Any]:
    """One episode as the run folder keeps it."""
    x, y = result.configuration.poses[manipulated][:2]
    return {
        "region": result.configuration.region,
        "cell": result.configuration.cell,
        "x": x,
        "y": y,
        "outcome": result.outcome.value,
        "success": result.outcome is Outcome.SUCCESS,
        "steps": result.steps,
        "human_steps": result.human_steps,
        "interventions": result.interventions,
        "version": result.version,
    }


def evaluate(settings: EvaluationSettings) -> list[EpisodeResult]:
    """Runs `rollouts` episodes in every region; writes one line each to `settings.out`."""
    import torch

    from policy.acting import BatchActor
    from policy.checkpoint import load_policy
    from twin import tasks
    from twin.env import VectorTwin
    from twin.randomize import DOMAINS
    from twin.scene import Scene

    torch.set_num_threads(settings.threads)
    world = settings.world
    scene, task = Scene.load(world.scene), tasks.get(world.task)
    rng = np.random.default_rng(world.seed)
    regions = task.space.regions
    starts = [one for region in regions for one in task.space.spread(rng, region=region, rollouts=settings.rollouts)]
    guide = ListGuide(starts)
    twin = VectorTwin(
        scene,
        task,
        n=min(settings.twins, len(starts)),
        domain=DOMAINS[world.domain],
        seed=world.seed,
        schema=world.schema,
        threads=settings.threads,
    )
    tags = EpisodeTags(
        actor="evaluation", incarnation="0", task=task.name, scene=scene.name, instruction="", source=Source.TWIN
    )
    policy = LocalPolicy(BatchActor(load_policy(settings.policy), task.instruction), world.seed)
    EpisodeLoop(twin, policy, guide, EpisodeRecorder(tags), NoSink()).run(lambda: False)
    twin.close()
    write_lines(settings.out, guide.results, task.space.manipulated)
    return guide.results


def write_lines(path: Path, results: Iterable[EpisodeResult], manipulated: str) -> None:
    """Results as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(result_line(result, manipulated)) + "\n" for result in results))
