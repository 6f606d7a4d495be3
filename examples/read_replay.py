"""This example reads the episodes of a replay; without the URL of one it starts a server and fills it with two.

python examples/read_replay.py [redis://host:port]
"""

import sys
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

from actors.sim.demonstrations import expert_episodes
from protos.schema import Schema
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, find_schema, read_episodes, totals
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import Domain
from twin.scene import synthetic_scene


def fill(replay: ReplaySettings) -> None:
    """Writes two episodes of the task's expert to the buffer "demo", as a twin actor does."""
    scene, task, schema = synthetic_scene(), tasks.get("pick_and_place"), Schema()
    with closing(VectorTwin(scene, task, n=2, domain=Domain(), seed=0, schema=schema)) as twin:
        episodes = expert_episodes(twin, {"A": 1, "B": 1}, scene=scene.name, seed=0)
    with ReplayWriter(replay, schema, actor="example", spool=None) as writer:
        for episode in episodes:
            for segment in episode.segments():
                writer.add(segment, ("demo",))
        assert writer.flush(30.0) == 0, "the replay did not take everything within 30 s"


with ExitStack() as stack:
    if len(sys.argv) > 1:
        replay = ReplaySettings(urls=(sys.argv[1],))
    else:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        replay = ReplaySettings(urls=(stack.enter_context(EmbeddedServer(folder)).url,))
        fill(replay)
    print("transitions by buffer:", totals(replay))
    for episode in read_episodes(replay, find_schema(replay) or Schema(), ("demo",)):
        side = episode.observation.side
        print(f"{episode.name}: {episode.steps} steps from region {episode.configuration.region}, ", end="")
        print(f"{episode.outcome.value}, return {episode.reward.sum():g}, images {side.shape} {side.dtype}")
