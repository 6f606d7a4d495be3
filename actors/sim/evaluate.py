"""Tries a policy in the twin from every cell of the grid, without exploration.

The same episode loop as everywhere, with a list of configurations for a guide and nowhere to send segments. The lines
it writes are the report's heat-maps and, for the newest policy, the guide's success map. For many rollouts over many
processes there is `actors.sim.probe`.

    python -m actors.sim.evaluate --settings evaluate.json
"""

from collections.abc import Sequence

import numpy as np

from actors.evaluation import ListGuide, NoSink, write_lines
from actors.interfaces import EpisodeResult, Operator, Policy
from actors.loop import EpisodeLoop
from actors.policies import StoredPolicy
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sim.settings import EvaluationSettings
from actors.sim.worlds import make_twin
from protos.schema import Configuration, Source
from twin.env import VectorTwin


def evaluate(settings: EvaluationSettings) -> list[EpisodeResult]:
    """Runs `rollouts` episodes in every region; writes one line each to `settings.out`."""
    import torch

    from twin import tasks

    torch.set_num_threads(settings.threads)
    world = settings.world
    space = tasks.get(world.task).space
    rng = np.random.default_rng(world.seed)
    starts = [one for region in space.regions for one in space.spread(rng, region=region, rollouts=settings.rollouts)]
    twin = make_twin(world, n=min(settings.twins, len(starts)), seed=world.seed, threads=settings.threads)
    policy = StoredPolicy(settings.policy, twin.task.instruction, explore=0.0, seed=world.seed)
    results = try_from(starts, twin, policy)
    twin.close()
    write_lines(settings.out, results, space.manipulated)
    return results


def try_from(
    starts: Sequence[Configuration], twin: VectorTwin, policy: Policy, operator: Operator | None = None
) -> list[EpisodeResult]:
    """An episode from each start; results in order of finishing."""
    tags = EpisodeTags(
        actor="evaluation", incarnation="0", task=twin.task.name, scene="", instruction="", source=Source.TWIN
    )
    guide = ListGuide(starts)
    EpisodeLoop(twin, policy, guide, EpisodeRecorder(tags), NoSink(), operator).run(lambda: False)
    return guide.results
