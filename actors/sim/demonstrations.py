"""This module collects twin demonstrations: the scripted expert works in the twin, its successful episodes are kept.

A disturbance moves the tool off the expert's path, so that the demonstrations contain recoveries; the stored action is
the one that the expert commanded.

    python -m actors.sim demonstrate --settings demonstrate.json
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing

import numpy as np

from actors.interfaces import EpisodeResult
from actors.loop import EpisodeLoop
from actors.policies import NoPolicy
from actors.recorder import EpisodeRecorder
from actors.sim.settings import DemonstrationSettings
from actors.sim.twins import TwinExpert, load_scene, make_twin, twin_tags
from actors.sinks import EpisodeFilter, demonstration_writer, succeeded
from protos.episode import Episode, Segment
from protos.errors import TwinRLError
from protos.schema import Configuration, Outcome
from protos.space import ConfigurationSpace
from twin.env import VectorTwin

log = logging.getLogger(__name__)
ACTOR = "twin-expert"


class DemonstrationGuide:
    """Asks for starts until every region has its successful episodes; `accept` is for an `EpisodeFilter`."""

    def __init__(self, space: ConfigurationSpace, wanted: Mapping[str, int], seed: int) -> None:
        self._space, self._rng = space, np.random.default_rng(seed)
        self._wanted = dict(wanted)
        self._done: Counter[str] = Counter()
        self._failed = 0

    def next(self) -> Configuration | None:
        """Returns a random start in the region that lacks most, None when none lacks any."""
        missing = {region: n - self._done[region] for region, n in self._wanted.items()}
        region = max(missing, key=lambda name: missing[name])
        return self._space.sample(self._rng, region=region) if missing[region] > 0 else None

    def report(self, result: EpisodeResult) -> None:
        """Counts failures. Raises TwinRLError when there are too many."""
        self._failed += result.outcome is not Outcome.SUCCESS
        limit = 20 + 2 * sum(self._wanted.values())
        if self._failed > limit:
            raise TwinRLError(
                f"the expert failed {self._failed} times (limit {limit}): the scene or task is not solvable"
            )

    def accept(self, segments: Sequence[Segment]) -> bool:
        """Returns True for a successful episode of a region that still lacks some."""
        region = segments[-1].configuration.region
        if not succeeded(segments) or self._done[region] >= self._wanted[region]:
            return False
        self._done[region] += 1
        return True


def expert_episodes(twin: VectorTwin, wanted: Mapping[str, int], *, scene: str, seed: int) -> list[Episode]:
    """Runs the task's expert in all slots of a twin until each region has its `wanted` successful episodes.

    Raises TwinRLError when the expert fails too often.
    """
    episodes: list[Episode] = []
    guide = DemonstrationGuide(twin.task.space, wanted, seed)
    sink = EpisodeFilter(lambda segments: episodes.append(Episode.of(segments)), guide.accept)
    recorder = EpisodeRecorder(twin_tags(twin.task, scene, actor=ACTOR, incarnation=str(seed)))
    EpisodeLoop(twin, NoPolicy(), guide, recorder, sink, TwinExpert(twin)).run(lambda: False)
    return episodes


def demonstrate(settings: DemonstrationSettings) -> int:
    """Collects the demonstrations and writes them to the buffer "demo"; returns the number of episodes.

    Raises TwinRLError when the expert fails too often, Unreachable when the replay does not take them.
    """
    world = settings.world
    with closing(make_twin(world, n=settings.twins, disturbance=settings.disturbance)) as twin:
        scene = load_scene(world.scene).name
        episodes = expert_episodes(twin, settings.episodes, scene=scene, seed=world.seed)
    with demonstration_writer(settings.replay, world.schema, actor=ACTOR) as deliver:
        for episode in episodes:
            deliver(list(episode.segments()))
    log.info("%d twin demonstrations", len(episodes))
    return len(episodes)
