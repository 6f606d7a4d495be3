"""Every task's demonstrations can be expanded: from the expert's in region A to both regions."""

from contextlib import closing

import pytest

from actors.sim import ExpansionPlan, TwinWorld
from actors.sim.demonstrations import expert_episodes
from actors.sim.expansion import check_complete, expand_in_twin, usable
from protos.schema import Outcome, Schema
from twin import tasks
from twin.env import VectorTwin
from twin.expand import ExpansionSettings
from twin.randomize import DOMAINS
from twin.scene import Scene, synthetic_scene

SMALL = Schema(side_px=16, wrist_px=16)
SHOWN = 3


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    synthetic_scene(0.03).save(folder)
    return folder


def shown_by_the_expert(scene, task):
    twin = VectorTwin(Scene.load(scene), task, n=SHOWN, domain=DOMAINS["twin"], seed=0, schema=SMALL)
    with closing(twin):
        return expert_episodes(twin, {"A": SHOWN}, scene="s", seed=0)


@pytest.mark.parametrize("name", tasks.names())
def test_a_task_shown_in_a_is_done_in_both_regions(scene, name):
    task = tasks.get(name)
    plan = ExpansionPlan(
        episodes={"A": 2, "B": 3}, disturbance=0.0, twins=5, how=ExpansionSettings(planned=0.5, tries_per_episode=3)
    )
    demonstrations = usable(task, shown_by_the_expert(scene, task), plan)
    assert len(demonstrations) == SHOWN
    episodes = []
    coverage = expand_in_twin(TwinWorld(scene=scene, task=name, schema=SMALL), demonstrations, plan, episodes.append)
    check_complete(coverage, plan)
    assert coverage.rate > 0.6
    assert all(segments[-1].outcome is Outcome.SUCCESS for segments in episodes)
    assert all(segments[0].instruction == task.instruction for segments in episodes)
