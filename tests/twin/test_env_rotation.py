"""This module tests rotation actions, their limits, and marks that vanish."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from protos.schema import UNDER_WAY, Schema
from twin import tasks
from twin.env import LEASH_RAD, VectorTwin
from twin.kinematics import Kinematics
from twin.labs import Lab
from twin.randomize import DOMAINS, Domain
from twin.rotations import TOOL_DOWN, YAW_LIMIT_RAD, about_z, heading, vector_from_matrix
from twin.tasks import PARKED_Z_M
from twin.tasks.pick_and_place import TARGET, PickAndPlace
from twin.world import ArmWorld

PROMPT = Domain(latency_steps=(0,))
PX = Schema(side_px=16, wrist_px=16)


@dataclass(frozen=True, kw_only=True)
class Vanishing(PickAndPlace):
    """In this task the disc vanishes once the tool is low."""

    action_scale: tuple[float, float] = (0.03, 0.1)

    def retired(self, state):
        return {TARGET: state.tool[:, 2] < 0.10}


@pytest.fixture
def twin_of(scene, configurations):
    made = []

    def make(task, domain=PROMPT, n=1):
        made.append(VectorTwin(scene, task, n=n, domain=domain, seed=0, schema=PX))
        for slot, configuration in enumerate(configurations("A", n)):
            made[-1].reset(slot, configuration)
        return made[-1]

    yield make
    for twin in made:
        twin.close()


def act(*, rotate=(0, 0, 0), up=0.0):
    return np.array([[0, 0, up, *rotate, 1]], np.float32)


def turned(twin, before):
    """Returns the measured turn since `before` as a rotation vector."""
    return vector_from_matrix(twin.state().tool_rotation[0] @ before.T)


def test_a_rotation_action_turns_the_tool_about_the_vertical_alone(twin_of, task):
    twin = twin_of(replace(task, action_scale=(0.03, 0.1)))
    assert task.active_action_dims == (0, 1, 2, 6)
    assert twin.task.active_action_dims == (0, 1, 2, 5, 6)
    before = twin.state().tool_rotation[0].copy()
    for k in range(8):
        twin.step(act(rotate=(0.9, -0.4, 0.5 if k < 5 else 0)))
    np.testing.assert_allclose(turned(twin, before), [0, 0, 5 * 0.5 * 0.1], atol=0.02)


def test_the_tool_leans_as_far_as_the_task_allows(twin_of, task):
    twin = twin_of(replace(task, action_scale=(0.03, 0.1), tilt_rad=0.2))
    assert twin.task.active_action_dims == tuple(range(7))
    for _ in range(10):
        twin.step(act(rotate=(1, 0, 0)))
    np.testing.assert_allclose(turned(twin, TOOL_DOWN), [0.2, 0, 0], atol=0.02)


def test_the_commanded_rotation_stays_on_its_leash(twin_of, task):
    twin = twin_of(replace(task, action_scale=(0.03, 1.5)), replace(PROMPT, servo_stiffness=(0.05, 0.05)))
    for _ in range(4):
        measured = twin.state().tool_rotation[0].copy()
        twin.step(act(rotate=(0, 0, 1)))
        ahead = vector_from_matrix(twin.state().commanded_rotation[0] @ measured.T)
        assert ahead[2] == pytest.approx(LEASH_RAD, abs=1e-6)


@pytest.mark.parametrize("tilt_rad", [0.0, 0.3])
def test_the_state_tells_rotations_that_are_still_under_way(twin_of, task, tilt_rad):
    turning = replace(task, action_scale=(0.03, 0.1), tilt_rad=tilt_rad)
    late, prompt = twin_of(turning, Domain(latency_steps=(3,))), twin_of(turning)
    for rotate in ((0.5, 0.2, 1), (-0.3, 0.6, 0.5), (0, 0, -1)):
        late.step(act(rotate=rotate))
        prompt.step(act(rotate=rotate))
    np.testing.assert_allclose(late.state().tool_rotation, [TOOL_DOWN], atol=1e-3)
    np.testing.assert_allclose(late.state().commanded_rotation, prompt.state().commanded_rotation, atol=1e-9)


def test_the_proprioception_tells_turns_that_are_still_under_way(twin_of, task):
    twin = twin_of(replace(task, action_scale=(0.03, 0.1)), Domain(latency_steps=(2,)))
    before = twin.state().tool_rotation[0].copy()
    for _ in range(2):
        twin.step(act(rotate=(0, 0, 1)))
    assert np.linalg.norm(turned(twin, before)) < 0.01, "nothing has happened yet"
    np.testing.assert_allclose(twin.observe().proprio[0, UNDER_WAY][3:], [0, 0, 0.2], atol=0.01)


def test_disturbance_shakes_the_turn_of_a_task_that_turns(twin_of, task):
    twin = twin_of(replace(task, action_scale=(0.03, 0.1)), replace(DOMAINS["twin"], disturbance=1.0))
    before = twin.state().tool_rotation[0].copy()
    for _ in range(6):
        step = twin.step(act(rotate=(0, 0, 0.2)))
    assert abs(turned(twin, before)[2] - 6 * 0.02) > 0.01
    np.testing.assert_allclose(step.executed, act(rotate=(0, 0, 0.2)))


def test_the_state_knows_how_bodies_lie(twin_of, task, configurations):
    twin = twin_of(task)
    start = configurations("A", 1)[0]
    x, y, z, _ = task.pose(start, "cube")
    twin.reset(0, replace(start, poses=dict(start.poses) | {"cube": (x, y, z, 0.7), TARGET: (-0.39, 0, 0.001, -0.4)}))
    rotations = twin.state().rotations
    np.testing.assert_allclose(rotations["cube"][0], about_z(0.7), atol=1e-6)
    np.testing.assert_allclose(rotations[TARGET][0], about_z(-0.4), atol=1e-6)


def test_a_retired_body_is_gone_in_its_slot_until_the_reset(twin_of, configurations):
    twin = twin_of(Vanishing(), n=2)
    down = np.concatenate([act(up=-1), act()])
    for _ in range(4):
        twin.step(down)
    assert twin.state().tool[0, 2] < 0.10
    np.testing.assert_allclose(twin.state().bodies[TARGET][:, 2], [PARKED_Z_M, 0.001], atol=1e-9)
    for _ in range(4):
        twin.step(-down)
    assert twin.state().bodies[TARGET][0, 2] == PARKED_Z_M
    start = configurations("B", 1)[0]
    twin.reset(0, start)
    np.testing.assert_allclose(twin.state().bodies[TARGET][0], start.poses[TARGET][:3], atol=1e-9)


def test_marks_vanish_in_the_arms_world_too(scene):
    world = ArmWorld(scene, Vanishing(tilt_rad=0.0), Lab(domain=PROMPT), schema=PX)
    world.advance(0.1)
    assert world.object_pose(TARGET)[2] > 0
    world.set_joint_targets(Kinematics(world.robot).start_joints((-0.54, 0.0, 0.05))[0])
    world.advance(1.0)
    assert world.object_pose(TARGET)[2] == PARKED_Z_M


@pytest.mark.parametrize("name", ["insert_hexagon_block", "insert_triple_column_block", "erase_whiteboard"])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_forty_equal_turns_keep_the_tool_upright(name, side, scene):
    task = tasks.get(name)
    twin = VectorTwin(scene, task, n=1, domain=PROMPT, seed=0, schema=PX)
    twin.reset(0, task.space.sample(np.random.default_rng(0), region="A"))
    before, seen = twin.observe().proprio[0, 3:6], []
    for _ in range(40):
        twin.step(act(rotate=(0, 0, side)))
        state = twin.state()
        assert state.tool_rotation[0, 2, 2] < -0.99 and state.commanded_rotation[0, 2, 2] < -0.999
        seen.append(twin.observe().proprio[0, 3:6])
    assert heading(state.commanded_rotation[0]) == pytest.approx(side * YAW_LIMIT_RAD, abs=1e-6)
    assert heading(state.tool_rotation[0]) == pytest.approx(side * YAW_LIMIT_RAD, abs=0.02)
    assert np.abs(np.diff([before, *seen], axis=0)).max() < 0.3, "no jump of the rotation vector"
    twin.close()
