import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin import tasks
from twin.kinematics import HOME, forward, inverse, start_joints, tool_velocity
from twin.model import build_model
from twin.randomize import DOMAINS
from twin.robots import gripper, ur5e
from twin.rotations import TOOL_DOWN, about_z, matrix_from_quaternion


@pytest.fixture(scope="module")
def model():
    return build_model(tasks.get("pick_and_place"), DOMAINS["twin"])


def at(model, q):
    data = mujoco.MjData(model)
    for name, angle in zip(ur5e.JOINTS, q, strict=True):
        data.joint(name).qpos = angle
    mujoco.mj_forward(model, data)
    return data


def test_the_dh_table_reads_back_from_the_compiled_model(model):
    """Universal Robots, "DH parameters for calculations of kinematics and dynamics", UR5e."""
    a = [0, -0.425, -0.3922, 0, 0, 0]
    d = [0.1625, 0, 0, 0.1333, 0.0997, 0.0996]
    alpha = np.array([90, 0, 0, 90, -90, 0]) * np.pi / 180
    mass = [3.761, 8.058, 2.846, 1.37, 1.3, 0.365]
    children = [*ur5e.JOINTS[1:], "flange"]
    for i, (name, child) in enumerate(zip(ur5e.JOINTS, children, strict=True)):
        body, after = model.body(name), model.body(child)
        np.testing.assert_allclose(after.pos, [a[i], 0, d[i]], atol=1e-12)
        turn = np.array([np.cos(alpha[i] / 2), np.sin(alpha[i] / 2), 0, 0])
        np.testing.assert_allclose(after.quat, turn, atol=1e-9)
        assert body.mass[0] == pytest.approx(mass[i])
        np.testing.assert_allclose(model.joint(name).axis, [0, 0, 1])
    np.testing.assert_allclose(model.body("base").pos, 0)


def test_the_centres_of_mass_are_the_published_ones(model):
    com = [[0, -0.02561, 0.00193], [0.2125, 0, 0.11336], [0.15, 0, 0.0265]]
    com += [[0, -0.0018, 0.01634], [0, 0.0018, 0.01634], [0, 0, -0.001159]]
    for i, name in enumerate(ur5e.JOINTS):
        link = ur5e.LINKS[i]
        turn = matrix_from_quaternion([np.cos(link.alpha / 2), np.sin(link.alpha / 2), 0, 0])
        np.testing.assert_allclose(model.body(name).ipos, [link.a, 0, link.d] + turn @ com[i], atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(q=st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_forward_kinematics_equals_the_mujoco_site(model, q):
    site = at(model, q).site("tcp")
    position, rotation = forward([q])
    np.testing.assert_allclose(position[0], site.xpos, atol=1e-9)
    np.testing.assert_allclose(rotation[0].ravel(), site.xmat, atol=1e-9)


def test_with_zero_joints_the_arm_points_to_minus_x():
    position, _ = forward(np.zeros((1, 6)))
    assert position[0, 0] == pytest.approx(-0.425 - 0.3922)


def test_the_tool_velocity_is_the_derivative_of_the_pose():
    rng = np.random.default_rng(0)
    q, rates, h = rng.uniform(-2, 2, (5, 6)), rng.normal(size=(5, 6)), 1e-6
    (p0, r0), (p1, r1) = forward(q), forward(q + h * rates)
    velocity = tool_velocity(q, rates)
    np.testing.assert_allclose(velocity[:, :3], (p1 - p0) / h, atol=1e-4)
    skew = (r1 - r0) / h @ r0.transpose(0, 2, 1)
    np.testing.assert_allclose(velocity[:, 3:], skew[:, [2, 0, 1], [1, 2, 0]], atol=1e-4)


def test_start_poses_are_exact_everywhere_in_the_work_box():
    rng = np.random.default_rng(1)
    box = tasks.get("pick_and_place").work_box
    low, high = np.array([box.x, box.y, box.z]).T
    positions = rng.uniform(low, high, (200, 3))
    q = start_joints(positions)
    reached, rotation = forward(q)
    assert np.linalg.norm(reached - positions, axis=1).max() < 1e-4
    assert np.abs(rotation - TOOL_DOWN).max() < 1e-3
    assert np.abs(q - HOME).max() < 1.2  # one arm configuration for the whole box


def test_three_iterations_follow_a_moving_target():
    rng = np.random.default_rng(2)
    position = np.array([[-0.5, 0.0, 0.1]])
    q = start_joints(position)
    for _ in range(50):
        position = np.clip(position + rng.uniform(-0.03, 0.03, 3), [-0.7, -0.28, 0.012], [-0.3, 0.28, 0.24])
        q = inverse(q, position, TOOL_DOWN)
        assert np.linalg.norm(forward(q)[0] - position) < 1e-4


def test_a_turned_start_pose_turns_the_tool():
    _, rotation = forward(start_joints((-0.5, 0.1, 0.15), 0.4))
    np.testing.assert_allclose(rotation[0], about_z(0.4) @ TOOL_DOWN, atol=1e-4)


def test_the_tcp_is_one_centimetre_above_the_finger_tips(model):
    data = at(model, HOME)
    tips = data.body(gripper.FINGERS[0]).xpos[2] - gripper.FINGER_HALF_M[2]
    assert data.site("tcp").xpos[2] - tips == pytest.approx(0.01, abs=1e-3)
