"""Tries a policy in the twin from every cell of the grid, without exploration.

The same episode loop as everywhere, with a list of configurations for a guide and nowhere to send segments. The lines
it writes are the report's heat-maps and, for the newest policy, the guide's success map.

    python -m actors.sim.evaluate --settings evaluate.json
"""

import logging

import numpy as np

from actors.evaluation import ListGuide, NoSink, write_lines
from actors.interfaces import EpisodeResult
from actors.loop import EpisodeLoop
from actors.policies import StoredPolicy
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sim.settings import EvaluationSettings
from protos.schema import Source

log = logging.getLogger(__name__)


def evaluate(settings: EvaluationSettings) -> list[EpisodeResult]:
    """Runs `rollouts` episodes in every region; writes one line each to `settings.out`."""
    import torch

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
        physics=world.physics,
    )
    tags = EpisodeTags(
        actor="evaluation", incarnation="0", task=task.name, scene=scene.name, instruction="", source=Source.TWIN
    )
    policy = StoredPolicy(settings.policy, task.instruction, explore=0.0, seed=world.seed)
    EpisodeLoop(twin, policy, guide, EpisodeRecorder(tags), NoSink()).run(lambda: False)
    twin.close()
    write_lines(settings.out, guide.results, task.space.manipulated)
    return guide.results
