"""Twin demonstrations: the scripted expert works in the twin, its successful episodes become demonstrations.

A disturbance moves the tool off the expert's path, so that the demonstrations contain recoveries; what is stored is
what the expert commanded.

    python -m actors.sim.demonstrations --settings demonstrate.json
"""

import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

import numpy as np

from actors.interfaces import EpisodeResult
from actors.loop import EpisodeLoop
from actors.policies import NoPolicy
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sim.settings import DemonstrationSettings
from actors.sim.twins import TwinExpert
from protos.episode import Episode, Segment
from protos.errors import TwinRLError
from protos.schema import Configuration, Outcome, Source
from protos.space import ConfigurationSpace
from services.replay import ReplayWriter
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import domain_named
from twin.scene import Scene

log = logging.getLogger(__name__)


class DemonstrationQuota:
    """Guide and sink at once: asks for starts until every region has its successful episodes, keeps only those.

    Segments wait until their episode's outcome is known; a failed episode leaves nothing.
    """

    def __init__(self, space: ConfigurationSpace, wanted: Mapping[str, int], seed: int) -> None:
        self._space, self._rng = space, np.random.default_rng(seed)
        self._wanted = dict(wanted)
        self._done: Counter[str] = Counter()
        self._failed = 0
        self._open: dict[str, list[Segment]] = {}
        self.accepted: list[Segment] = []

    def next(self) -> Configuration | None:
        missing = {region: n - self._done[region] for region, n in self._wanted.items()}
        region = max(missing, key=lambda name: missing[name])
        return self._space.sample(self._rng, region=region) if missing[region] > 0 else None

    def report(self, result: EpisodeResult) -> None:
        self._failed += result.outcome is not Outcome.SUCCESS
        limit = 20 + 2 * sum(self._wanted.values())
        if self._failed > limit:
            raise TwinRLError(
                f"the expert failed {self._failed} times (limit {limit}): the scene or task is not solvable"
            )

    def add(self, segment: Segment) -> None:
        waiting = self._open.setdefault(segment.episode, [])
        waiting.append(segment)
        if segment.outcome is Outcome.RUNNING:
            return
        del self._open[segment.episode]
        region = segment.configuration.region
        if segment.outcome is Outcome.SUCCESS and self._done[region] < self._wanted[region]:
            self._done[region] += 1
            self.accepted += waiting

    @property
    def episodes(self) -> int:
        return sum(self._done.values())


def expert_episodes(twin: VectorTwin, wanted: Mapping[str, int], *, scene: str, seed: int) -> list[Episode]:
    """Runs the task's expert in all slots of a twin until each region has its `wanted` successful episodes.

    Raises TwinRLError when the expert fails too often.
    """
    task = twin.task
    quota = DemonstrationQuota(task.space, wanted, seed)
    tags = EpisodeTags(
        actor="twin-expert",
        incarnation=str(seed),
        task=task.name,
        scene=scene,
        instruction=task.instruction,
        source=Source.TWIN,
    )
    EpisodeLoop(twin, NoPolicy(), quota, EpisodeRecorder(tags), quota, TwinExpert(twin)).run(lambda: False)
    of_episode: dict[str, list[Segment]] = {}
    for segment in quota.accepted:
        of_episode.setdefault(segment.episode, []).append(segment)
    return [Episode.of(segments) for segments in of_episode.values()]


def demonstrate(settings: DemonstrationSettings) -> int:
    """Collects the demonstrations and writes them to the buffer "demo"; returns the number of episodes."""
    world = settings.world
    scene, task = Scene.load(world.scene), tasks.get(world.task)
    domain = replace(domain_named(world.domain, world.latency_steps), disturbance=settings.disturbance)
    twin = VectorTwin(
        scene, task, n=settings.twins, domain=domain, seed=world.seed, schema=world.schema, physics=world.physics
    )
    with closing(twin):
        episodes = expert_episodes(twin, settings.episodes, scene=scene.name, seed=world.seed)
    writer = ReplayWriter(settings.replay, world.schema, actor="twin-expert", spool=None)
    for episode in episodes:
        for segment in episode.segments():
            writer.add(segment, ("demo",))
    unsent = writer.flush(30.0)
    writer.close()
    if unsent:
        raise TwinRLError(f"{unsent} segments of twin demonstrations did not reach replay within 30 s")
    log.info("%d twin demonstrations", len(episodes))
    return len(episodes)
