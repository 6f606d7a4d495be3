"""Expansion as the process of a run: demonstrations out of a replay, twin demonstrations into it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from actors.sim import DemonstrationSettings, ExpansionPlan, ExpansionRunSettings, TwinWorld
from actors.sim.demonstrations import demonstrate
from protos.schema import Outcome, Schema, Source
from protos.settings import save_settings
from services.replay import EmbeddedServer, ReplaySettings, read_episodes
from twin.scene import synthetic_scene


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Provides a replay with three demonstrations of the twin's expert in region A, and expansion settings for them."""
    folder = tmp_path_factory.mktemp("expansion")
    synthetic_scene(0.03).save(folder / "scene")
    world = TwinWorld(scene=folder / "scene", schema=Schema(side_px=16, wrist_px=16), seed=3)
    with EmbeddedServer(folder / "valkey") as server:
        replay = ReplaySettings(urls=(server.url,))
        demonstrate(DemonstrationSettings(world=world, replay=replay, episodes={"A": 3}, twins=3))
        yield ExpansionRunSettings(
            world=world,
            replay=replay,
            source=Source.TWIN,
            plan=ExpansionPlan(episodes={"A": 1, "B": 2}, twins=3),
            report=folder / "coverage.json",
        )


def run(settings, folder):
    path = save_settings(settings, folder / "expand.json")
    command = [sys.executable, "-m", "actors.sim", "expand", "--settings", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_demonstrations_in_a_replay_become_more_of_them(settings, tmp_path):
    done = run(settings, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 twin demonstrations from 3" in done.stderr
    assert json.loads(settings.report.read_text())["regions"] == {"A": 1, "B": 2}
    everything = read_episodes(settings.replay, settings.world.schema, ("demo",))
    made = [each for each in everything if each.name.startswith("twin-expand/")]
    assert sorted(each.configuration.region for each in made) == ["A", "B", "B"]
    for each in made:
        assert (each.outcome, each.source, each.task) == (Outcome.SUCCESS, Source.TWIN, "pick_and_place")
        assert len(each.observation) == len(each.action) + 1


def test_a_replay_without_demonstrations_of_the_arm_ends_in_one_line(settings, tmp_path):
    done = run(replace(settings, source=Source.REAL), tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "twinrl: no successful episode of pick_and_place to expand"
