"""`twinrl identify` on the replay of a run."""

import json
from contextlib import closing
from dataclasses import replace

import pytest

from actors.sim.demonstrations import expert_episodes
from protos.errors import InputError
from protos.schema import Schema, Source
from protos.settings import save_settings
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import Domain
from twin.scene import Scene, synthetic_scene
from twinrl.commands.fidelity import identify as command
from twinrl.identification import kept
from twinrl.run import stages
from twinrl.run.context import RunContext, Services, WorldSeed
from twinrl.run.settings import RunSettings
from twinrl.run.stored_replay import replay_of, run_settings

SMALL = Schema(side_px=32, wrist_px=16)
TASK = tasks.get("pick_and_place")
SCENE = synthetic_scene(0.03)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the folder of a run with two demonstrations of a late arm, and one of the twin."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = RunSettings(name="run", runs=folder.parent, schema=SMALL)
    save_settings(settings, folder / "settings.json")
    SCENE.save(folder / "scene")
    with closing(VectorTwin(SCENE, TASK, n=2, domain=Domain(latency_steps=(2,)), seed=5, schema=SMALL)) as twin:
        episodes = expert_episodes(twin, {"A": 2}, scene="s", seed=5)
    episodes = [replace(episode, source=Source.REAL) for episode in episodes]
    with EmbeddedServer(folder / "replay") as server:
        replay = ReplaySettings(urls=(server.url,), prefix=settings.prefix)
        with ReplayWriter(replay, SMALL, actor="arm", spool=None) as writer:
            for episode in [*episodes, replace(episodes[0], name="twin", source=Source.TWIN)]:
                for segment in episode.segments():
                    writer.add(segment, ("demo",))
            assert writer.flush(20) == 0
    return folder


def test_a_run_is_identified_from_its_arms_demonstrations(run, capsys):
    assert command([str(run)]) == 0
    told = capsys.readouterr().out
    assert "2 demonstrations of the arm" in told and "latency" in told
    found = kept(run)
    assert found.domain.latency_steps == (1.8, 2.0, 2.2)
    assert Scene.load(run / "identified").name == SCENE.name
    assert command([str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2


def test_a_run_that_identifies_its_twin_works_in_what_was_found(run):
    settings = run_settings(run)
    supervisor = None  # no child is started
    contexts = [
        RunContext(folder=run, settings=each, supervisor=supervisor, services=Services(run, each, supervisor))
        for each in (settings, replace(settings, identify=True))
    ]
    with replay_of(run) as replay:
        contexts[1].services.replay = lambda: replay
        stages.identify(contexts[1])
    plain, identified = (stages.world(context, WorldSeed.TWIN_RL) for context in contexts)
    assert plain.domain == settings.twin and plain.scene == (run / "scene").absolute()
    assert identified.domain == kept(run).domain and identified.domain.latency_steps == (1.8, 2.0, 2.2)
    assert identified.scene == (run / "identified").absolute()
    assert plain.seed == identified.seed


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run was made there"):
        command([str(tmp_path)])
