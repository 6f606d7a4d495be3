from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pytest
from isaac_fake import install
from physics_conformance import ContactConformance, StateConformance

from protos.errors import InputError
from twin import robots, tasks
from twin.kinematics import Kinematics
from twin.physics import make
from twin.randomize import DOMAINS, Domain
from twin.tasks.base import Solver
from twin.tasks.pick_and_place import PickAndPlace


class TestMujoco(StateConformance, ContactConformance):
    engine = "mujoco"


@pytest.mark.skipif(find_spec("isaacgym") is None, reason="isaacgym (NVIDIA, Preview 4) is not installed here")
class TestIsaac(StateConformance, ContactConformance):
    engine = "isaac"


class TestIsaacAgainstAFake(StateConformance):
    """The adapter's own part: which slot, which row, when written, when read."""

    engine = "isaac"

    @pytest.fixture(autouse=True)
    def fake(self, monkeypatch):
        install(monkeypatch)


@pytest.mark.skipif(find_spec("isaacgym") is not None, reason="isaacgym is installed here")
def test_without_isaacgym_the_engine_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"^[^\n]*isaacgym[^\n]*not installed here; choose mujoco$"):
        make("isaac", robots.get("ur5e"), tasks.get("pick_and_place"), DOMAINS["twin"], n=1)


def test_an_unknown_engine_is_refused_with_the_choices():
    with pytest.raises(InputError, match="mujoco, isaac"):
        make("bullet", robots.get("ur5e"), tasks.get("pick_and_place"), DOMAINS["twin"], n=1)


CAREFUL = Solver(iterations=50, friction_ratio=10.0, noslip_iterations=3)


def test_an_isaacgym_that_does_not_load_is_refused_in_one_line(monkeypatch, tmp_path):
    (tmp_path / "isaacgym.py").write_text("raise ImportError('No gym module found for the active version of Python')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"does not load here .*active version of Python"):
        make("isaac", robots.get("ur5e"), tasks.get("pick_and_place"), DOMAINS["twin"], n=1)


@dataclass(frozen=True, kw_only=True)
class WedgeTask(PickAndPlace):
    """A pyramid in place of the cube, which the fingers pass through."""

    solver: Solver = CAREFUL

    def assets(self, domain: Domain) -> str:
        return '<mesh name="pyramid" vertex="-.02 -.02 0  .02 -.02 0  .02 .02 0  -.02 .02 0  0 0 .04"/>'

    def contacts(self, domain: Domain) -> str:
        return "".join(f'<exclude body1="cube" body2="{finger}"/>' for finger in robots.FINGERS)

    def mjcf(self, domain: Domain) -> str:
        cube = super().mjcf(domain)
        return cube.replace('type="box" size="0.018 0.018 0.018"', 'type="mesh" mesh="pyramid"')


def test_a_task_brings_meshes_excluded_pairs_and_solver_settings():
    robot = robots.get("ur5e")
    arm = Kinematics(robot)
    physics = make("mujoco", robot, WedgeTask(), DOMAINS["twin"], n=1)
    assert physics.model.opt.iterations == 50
    assert physics.model.opt.impratio == 10
    assert physics.model.opt.noslip_iterations == 3
    joints = arm.start_joints((-0.55, 0.1, 0.016))
    physics.reset(np.zeros(1, int), joints, {"cube": np.array([[-0.55, 0.1, 0.02, 0.0]])})
    for _ in range(8):
        physics.command(joints, np.zeros(1))
        physics.step(20)
    assert physics.opening[0] < 0.02, "the fingers pass through"
    assert physics.body_position("cube")[0, 2] < 0.02, "a pyramid lies lower than a cube"


def test_set_points_move_no_faster_than_the_joints_can(make_twin, configurations):
    twin = make_twin(domain=Domain(latency_steps=(0,)))
    slow = replace(twin.robot, links=tuple(replace(link, velocity=0.1) for link in twin.robot.links))
    twin.robot = slow
    twin.reset(0, configurations("A", 1)[0])
    start = twin._physics.joints.copy()
    for k in range(1, 4):
        twin.step(np.array([[1, 1, -1, 0, 0, 0, 1]], np.float32))
        assert np.abs(twin._physics.joints - start).max() <= k * 0.1 / 10 + 1e-3
