import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin import robots, tasks
from twin.kinematics import Kinematics
from twin.physics import build_model
from twin.randomize import DOMAINS
from twin.rotations import TOOL_DOWN, about_z, matrix_from_vector

WORK_BOX = tasks.get("pick_and_place").work_box
LOW, HIGH = np.array([WORK_BOX.x, WORK_BOX.y, WORK_BOX.z]).T


@pytest.fixture(scope="module", params=robots.names())
def robot(request):
    return robots.get(request.param)


@pytest.fixture(scope="module")
def kinematics(robot):
    return Kinematics(robot)


@pytest.fixture(scope="module")
def model(robot):
    return build_model(robot, tasks.get("pick_and_place"), DOMAINS["twin"].middle)


def somewhere(robot, shares):
    """Returns joint angles (n, joints) at these shares of the joints' ranges."""
    low, high = np.array([link.range for link in robot.links]).T
    return low + np.asarray(shares) * (high - low)


@settings(max_examples=40, deadline=None)
@given(shares=st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_forward_kinematics_equals_the_mujoco_site(model, robot, kinematics, shares):
    q = somewhere(robot, shares[: len(robot.links)])
    data = mujoco.MjData(model)
    for name, angle in zip(robot.joints, q, strict=True):
        data.joint(name).qpos = angle
    mujoco.mj_forward(model, data)
    position, rotation = kinematics.forward([q])
    np.testing.assert_allclose(position[0], data.site("tcp").xpos, atol=1e-9)
    np.testing.assert_allclose(rotation[0].ravel(), data.site("tcp").xmat, atol=1e-9)


def test_the_tool_velocity_is_the_derivative_of_the_pose(robot, kinematics):
    rng = np.random.default_rng(0)
    q, h = somewhere(robot, rng.uniform(size=(20, len(robot.links)))), 1e-6
    rates = rng.normal(size=q.shape)
    (p0, r0), (p1, r1) = kinematics.forward(q - h * rates), kinematics.forward(q + h * rates)
    velocity = kinematics.tool_velocity(q, rates)
    np.testing.assert_allclose(velocity[:, :3], (p1 - p0) / (2 * h), atol=1e-7)
    skew = (r1 - r0) / (2 * h) @ kinematics.forward(q)[1].transpose(0, 2, 1)
    np.testing.assert_allclose(velocity[:, 3:], skew[:, [2, 0, 1], [1, 2, 0]], atol=1e-7)


def test_start_poses_are_exact_everywhere_in_the_work_box(robot, kinematics):
    positions = np.random.default_rng(1).uniform(LOW, HIGH, (400, 3))
    q = kinematics.start_joints(positions)
    reached, rotation = kinematics.forward(q)
    assert np.linalg.norm(reached - positions, axis=1).max() < 1e-4
    assert np.abs(rotation - TOOL_DOWN).max() < 1e-3
    assert np.abs(q - kinematics.home).max() < 1.3  # one arm configuration for the whole box
    low, high = np.array([link.range for link in robot.links]).T
    assert ((low <= q) & (q <= high)).all()


def test_tilted_and_turned_poses_are_reached_too(kinematics):
    """Leaves out the nearest and farthest 6 cm of the work box, where a tilted FR3 comes to the end of its joints."""
    rng = np.random.default_rng(3)
    positions = rng.uniform(np.add(LOW, [0.06, 0, 0.05]), np.subtract(HIGH, [0.06, 0, 0]), (200, 3))
    tilt = matrix_from_vector(rng.uniform(-0.25, 0.25, (200, 3)))
    rotations = tilt @ about_z(rng.uniform(-0.5, 0.5, 200)) @ TOOL_DOWN
    q = kinematics.inverse(np.tile(kinematics.home, (200, 1)), positions, rotations, iterations=60, damping=1e-3)
    reached, turned = kinematics.forward(kinematics.inverse(q, positions, rotations, iterations=10))
    assert np.linalg.norm(reached - positions, axis=1).max() < 1e-4
    assert np.abs(turned - rotations).max() < 1e-3


def test_three_iterations_follow_a_moving_target(kinematics):
    rng = np.random.default_rng(2)
    position = np.array([[-0.5, 0.0, 0.1]])
    q = kinematics.start_joints(position)
    for _ in range(100):
        position = np.clip(position + rng.uniform(-0.03, 0.03, 3), LOW, HIGH)
        q = kinematics.inverse(q, position, TOOL_DOWN)
        assert np.linalg.norm(kinematics.forward(q)[0] - position) < 1e-4


def test_a_turned_start_pose_turns_the_tool(kinematics):
    _, rotation = kinematics.forward(kinematics.start_joints((-0.5, 0.1, 0.15), 0.4))
    np.testing.assert_allclose(rotation[0], about_z(0.4) @ TOOL_DOWN, atol=1e-4)


def test_a_redundant_arm_comes_back_to_its_home_posture():
    """The elbow swung aside: with the tool held in place, free motion undoes it."""
    kinematics = Kinematics(robots.get("fr3"))
    position, rotation = kinematics.forward(kinematics.home[None])
    aside = kinematics.home + np.array([0.5, 0, -0.5, 0, 0.3, 0, 0])
    q = kinematics.inverse([aside], position, rotation, iterations=40)
    np.testing.assert_allclose(kinematics.forward(q)[0], position, atol=1e-6)
    np.testing.assert_allclose(q[0], kinematics.home, atol=1e-3)


def test_joints_stop_at_their_ranges():
    robot = robots.get("fr3")
    kinematics = Kinematics(robot)
    low, high = np.array([link.range for link in robot.links]).T
    far = kinematics.inverse([kinematics.home], [[2.0, 0.0, 0.5]], TOOL_DOWN, iterations=100, damping=1e-2)
    assert ((low <= far) & (far <= high)).all()
