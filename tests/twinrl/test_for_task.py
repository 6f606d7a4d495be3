"""What tasks ask of policies and labels, and whether labels by hindsight tell where things really were."""

from dataclasses import replace

import numpy as np
import pytest
import tyro

from benchmarks.learning.run import LearningBench, plan
from learner.sft import LabelSettings, hindsight_labels, object_path
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.schema import Schema
from protos.settings import from_json, to_json
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import DOMAINS, Domain
from twin.rotations import TOOL_DOWN, yaw_of
from twin.scene import synthetic_scene
from twinrl.run.for_task import exploration, labels_for, policy_for
from twinrl.run.settings import RunSettings


def test_a_tool_that_does_not_turn_gets_the_tiny_policy():
    assert policy_for(tasks.get("pick_and_place")) == PolicySettings()
    assert labels_for(tasks.get("pick_and_place")).count == 9


@pytest.mark.parametrize("name", ["insert_hexagon_block", "insert_triple_column_block", "erase_whiteboard"])
def test_a_tool_that_turns_is_felt_and_commanded(name):
    policy, labels = policy_for(tasks.get(name)), labels_for(tasks.get(name))
    assert policy.active_action_dims == (0, 1, 2, 5, 6)
    assert {3, 4} <= set(policy.proprio_indices)
    assert policy.auxiliary_labels == labels.count == 11


def test_exploration_is_finer_than_a_sockets_clearance():
    task = tasks.get("insert_hexagon_block")
    assert exploration(tasks.get("pick_and_place"), 0.1) == pytest.approx(0.1)
    assert exploration(task, 0.1) * task.action_scale[0] == pytest.approx(0.00125)
    assert exploration(task, 0.01) == 0.01


def test_a_run_of_a_task_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="juggle"):
        RunSettings(task="juggle")
    with pytest.raises(InputError, match="juggle"):
        LearningBench(task="juggle")


def test_the_twin_of_a_run_varies_by_its_settings():
    assert RunSettings().twin == DOMAINS["varied"]
    told = tyro.cli(RunSettings, args=["--twin.latency-steps", "1", "2", "--twin.exposure-stops", "-0.3", "0.3"])
    assert told.twin == replace(DOMAINS["varied"], latency_steps=(1, 2), exposure_stops=(-0.3, 0.3))
    assert from_json(RunSettings, to_json(told)) == told


def test_settings_from_before_the_twin_could_vary_are_read():
    old = to_json(RunSettings()) | {"latency_steps": [1, 2]}
    del old["twin"]
    assert from_json(RunSettings, old).twin == Domain(latency_steps=(1, 2))
    with pytest.raises(InputError, match=r"latency_steps=\(11\.0,\)"):
        from_json(RunSettings, old | {"latency_steps": [11]})


def test_an_arm_of_no_lab_is_refused_at_once():
    assert RunSettings(seed=3).lab == "3" and RunSettings(lab="7").lab == "7"
    with pytest.raises(InputError, match="choose one of twin, standin, far, stiff, varied, wide"):
        RunSettings(lab="moon")


@pytest.mark.parametrize(("key", "where"), [("standin", {}), ("takeover_at", "real_rl")])
def test_settings_of_an_arm_without_labs_are_refused_by_name(key, where):
    old = to_json(RunSettings())
    (old[where] if where else old)[key] = 0.7
    with pytest.raises(InputError, match=f"{key}: no such setting"):
        from_json(RunSettings, old)


def test_each_task_is_measured_in_a_folder_of_its_own():
    folders = {name: plan(LearningBench(task=name), 0).folder for name in tasks.names()}
    assert len(set(folders.values())) == len(folders)


@pytest.mark.parametrize("name", tasks.names())
@pytest.mark.parametrize("region", ["A", "B"])
def test_hindsight_finds_the_object_while_it_waits_and_while_it_is_carried(name, region):
    """Where, and turned how, the point lies that the fingers take, from proprioception alone."""
    task, settings = tasks.get(name), labels_for(tasks.get(name))
    start, proprio, action, truth, _ = record(task, region)
    found = object_path(start, proprio, action, settings)
    off = np.linalg.norm(found[:, :3] - truth[:, :3], axis=1)
    held = truth[:, 2] > truth[0, 2] + 0.02
    assert held.sum() >= 4
    assert off[: np.flatnonzero(held)[0]].max() < 0.012
    assert np.median(off[held]) < 0.008 and off[held].max() < 0.025
    assert np.abs(found[held, 3] - truth[held, 3]).max() < 0.15


@pytest.mark.parametrize("name", ["insert_hexagon_block", "erase_whiteboard"])
def test_labels_of_turns_are_what_the_expert_still_has_to_turn(name):
    task, settings = tasks.get(name), labels_for(tasks.get(name))
    start, proprio, action, truth, _ = record(task, "A")
    labels = hindsight_labels(start, proprio, action, settings)
    assert labels.shape == (len(action), 11)
    assert labels[0, 9] == pytest.approx(truth[0, 3] / settings.near_rad, abs=1e-4)
    assert labels[0, 10] == pytest.approx(start.poses[settings.target][3] / settings.near_rad, abs=1e-4)
    closed = np.flatnonzero(action[:, 6] < 0)
    assert np.abs(labels[closed, 9]).max() < 0.3
    assert abs(labels[closed[-1], 10]) < 0.3
    assert hindsight_labels(start, proprio, action, replace(settings, turn_rad=0.0)).shape == (len(action), 9)


def test_the_labels_see_the_tool_turn():
    """The turn that they take from the rotation vector is that of the matrix."""
    start, proprio, action, _, tool = record(tasks.get("insert_hexagon_block"), "B")
    target = LabelSettings(manipulated="block", target="socket", turn_rad=100.0, near_rad=1.0)
    turn = start.poses["socket"][3] - hindsight_labels(start, proprio, action, target)[:, 10]
    assert np.ptp(turn) > 0.05
    np.testing.assert_allclose(turn, tool[:, 3], atol=0.02)


def record(task, region):
    """One episode of the expert: configuration, proprioception, actions, and true poses (T, 4) of body and tool.

    The body's is that of the point that the fingers take.
    """
    schema = Schema(side_px=16, wrist_px=16)
    twin = VectorTwin(synthetic_scene(spacing_m=0.05), task, n=1, domain=DOMAINS["twin"], seed=0, schema=schema)
    start, body = task.space.sample(np.random.default_rng(4), region=region), task.space.manipulated
    twin.reset(0, start)
    proprio, action, truth, tool = [], [], [], []
    for _ in range(task.max_steps):
        state = twin.state()
        truth.append([*state.bodies[body][0] + [0, 0, task.hold.height_m], yaw_of(state.rotations[body][0])])
        tool.append([*state.tool[0], yaw_of(state.tool_rotation[0] @ TOOL_DOWN.T)])
        proprio.append(twin.observe().proprio[0])
        action.append(twin.expert_action()[0])
        if twin.step(action[-1][None]).success[0]:
            break
    twin.close()
    return start, np.array(proprio), np.array(action), np.array(truth), np.array(tool)
