from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pytest
from isaac_fake import install
from physics_conformance import CONTROL_STEP, ContactConformance, StateConformance

from protos.errors import InputError
from twin import robots, tasks
from twin.kinematics import Kinematics
from twin.physics import make
from twin.randomize import DOMAINS, Conditions, Domain
from twin.tasks.pick_and_place import PickAndPlace


class TestMujoco(StateConformance, ContactConformance):
    engine = "mujoco"


@pytest.mark.skipif(find_spec("isaacgym") is None, reason="isaacgym (NVIDIA, Preview 4) is not installed here")
class TestIsaac(StateConformance, ContactConformance):
    engine = "isaac"


class TestIsaacAgainstAFake(StateConformance):
    """These tests check the adapter's own part: which slot, which row, when written, when read."""

    engine = "isaac"

    @pytest.fixture(autouse=True)
    def fake(self, monkeypatch):
        install(monkeypatch)

    @pytest.mark.parametrize("name", tasks.names())
    def test_every_task_can_be_built(self, arm, robot, name):
        task = tasks.get(name)
        physics = make(self.engine, robot, task, DOMAINS["twin"], n=2)
        start = task.space.sample(np.random.default_rng(0))
        poses = {body: np.tile(pose, (2, 1)) for body, pose in task.body_poses(start).items()}
        physics.reset(np.arange(2), np.tile(arm.home, (2, 1)), poses)
        physics.step(CONTROL_STEP)
        for body in task.bodies:
            np.testing.assert_allclose(physics.body_pose(1, body), task.pose(start, body), atol=1e-5)
        physics.close()


@pytest.mark.skipif(find_spec("isaacgym") is not None, reason="isaacgym is installed here")
def test_without_isaacgym_the_engine_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"^[^\n]*isaacgym[^\n]*not installed here; choose mujoco$"):
        make("isaac", robots.get("ur5e"), tasks.get("pick_and_place"), DOMAINS["twin"], n=1)


def test_an_unknown_engine_is_refused_with_the_choices():
    with pytest.raises(InputError, match="mujoco, isaac"):
        make("bullet", robots.get("ur5e"), tasks.get("pick_and_place"), DOMAINS["twin"], n=1)


@dataclass(frozen=True, kw_only=True)
class PyramidTask(PickAndPlace):
    """A pyramid takes the cube's place."""

    def assets(self, conditions: Conditions) -> str:
        return '<mesh name="pyramid" vertex="-.02 -.02 0  .02 -.02 0  .02 .02 0  -.02 .02 0  0 0 .04"/>'

    def mjcf(self, conditions: Conditions) -> str:
        cube = super().mjcf(conditions)
        return cube.replace('type="box" size="0.018 0.018 0.018"', 'type="mesh" mesh="pyramid"')


def test_a_task_brings_meshes_along():
    robot = robots.get("ur5e")
    physics = make("mujoco", robot, PyramidTask(), DOMAINS["twin"], n=1)
    joints = Kinematics(robot).start_joints((-0.54, 0.0, 0.16))
    physics.reset(np.zeros(1, int), joints, {"cube": np.array([[-0.55, 0.1, 0.03, 0.0]])})
    physics.step(5 * CONTROL_STEP)
    x, y, z = physics.body_position("cube")[0]
    assert z == pytest.approx(0.0, abs=1e-3), "its origin lies in its base"
    assert np.hypot(x + 0.55, y - 0.1) < 1e-3


def test_set_points_move_no_faster_than_the_joints_can(make_twin, configurations):
    twin = make_twin(domain=Domain(latency_steps=(0,)))
    slow = replace(twin.robot, links=tuple(replace(link, velocity=0.1) for link in twin.robot.links))
    twin.robot = slow
    twin.reset(0, configurations("A", 1)[0])
    start = twin._physics.joints.copy()
    for k in range(1, 4):
        twin.step(np.array([[1, 1, -1, 0, 0, 0, 1]], np.float32))
        assert np.abs(twin._physics.joints - start).max() <= k * 0.1 / 10 + 1e-3
