"""This module reads the data sheets' numbers back from the built model."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from protos.errors import InputError, SceneError
from twin import robots, tasks
from twin.env import trials
from twin.kinematics import Kinematics
from twin.physics import build_model
from twin.randomize import DOMAINS
from twin.robots import FINGERS, Transform
from twin.rotations import TOOL_DOWN, matrix_from_quaternion
from twin.scene import Scene


def built(robot):
    return build_model(robot, tasks.get("pick_and_place"), DOMAINS["twin"].middle)


@pytest.fixture(scope="module", params=robots.names())
def robot(request):
    return robots.get(request.param)


@pytest.fixture(scope="module")
def model(robot):
    return built(robot)


def at_home(robot, model, opening):
    data = mujoco.MjData(model)
    for name, angle in zip(robot.joints, robot.home, strict=True):
        data.joint(name).qpos = angle
    for name in FINGERS:
        data.joint(name).qpos = opening * robot.gripper.travel_m
    mujoco.mj_forward(model, data)
    return data


def inertia(model, name):
    """Returns the inertia (3, 3) about the centre of mass, along the body's axes."""
    body = model.body(name)
    turn = matrix_from_quaternion(body.iquat)
    return turn @ np.diag(body.inertia) @ turn.T


def test_the_ur5e_has_the_published_numbers():
    """Universal Robots, "DH parameters for calculations of kinematics and dynamics"; UR5e data sheet."""
    ur5e = robots.get("ur5e")
    model = built(ur5e)
    a = [0, -0.425, -0.3922, 0, 0, 0]
    d = [0.1625, 0, 0, 0.1333, 0.0997, 0.0996]
    alpha = np.array([90, 0, 0, 90, -90, 0]) * np.pi / 180
    mass = [3.761, 8.058, 2.846, 1.37, 1.3, 0.365]
    com = [[0, -0.02561, 0.00193], [0.2125, 0, 0.11336], [0.15, 0, 0.0265]]
    com += [[0, -0.0018, 0.01634], [0, 0.0018, 0.01634], [0, 0, -0.001159]]
    ixx_iyy_izz = [[0.00700, 0.00648, 0.00657], [0.01506, 0.33388, 0.33247], [0.00400, 0.07879, 0.07849]]
    ixx_iyy_izz += [[0.00165, 0.00136, 0.00126], [0.00136, 0.00128, 0.00097], [0.000187, 0.000189, 0.000258]]
    torque = [150, 150, 150, 28, 28, 28]
    for i, (name, child) in enumerate(zip(ur5e.joints, [*ur5e.joints[1:], "flange"], strict=True)):
        after = model.body(child)
        quaternion = np.array([np.cos(alpha[i] / 2), np.sin(alpha[i] / 2), 0, 0])
        turn = matrix_from_quaternion(quaternion)
        np.testing.assert_allclose(after.pos, [a[i], 0, d[i]], atol=1e-12)
        np.testing.assert_allclose(after.quat, quaternion, atol=1e-9)
        assert model.body(name).mass[0] == pytest.approx(mass[i])
        np.testing.assert_allclose(model.body(name).ipos, [a[i], 0, d[i]] + turn @ com[i], atol=1e-9)
        np.testing.assert_allclose(inertia(model, name), turn @ np.diag(ixx_iyy_izz[i]) @ turn.T, atol=1e-9)
        np.testing.assert_allclose(model.joint(name).axis, [0, 0, 1])
        np.testing.assert_allclose(model.joint(name).range, [-2 * np.pi, 2 * np.pi])
        np.testing.assert_allclose(model.actuator(name).forcerange, [-torque[i], torque[i]])
    np.testing.assert_allclose(model.body("base").pos, 0)
    np.testing.assert_allclose(ur5e.velocity_limits, np.pi)


def test_with_zero_joints_the_ur5e_points_to_minus_x():
    position, _ = Kinematics(robots.get("ur5e")).forward(np.zeros((1, 6)))
    assert position[0, 0] == pytest.approx(-0.425 - 0.3922)


def test_the_fr3_has_the_published_numbers():
    """franka_description, robots/fr3; reach and ready pose from Franka's DH table, multiplied out here."""
    fr3 = robots.get("fr3")
    model = built(fr3)
    mass = [2.9274653454, 2.9355370338, 2.2449013699, 2.6155955791, 2.3271207594, 1.8170376524, 0.6271432862]
    upper = [2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159]
    lower = [-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159]
    for i, name in enumerate(fr3.joints):
        assert model.body(name).mass[0] == pytest.approx(mass[i], abs=1e-6)
        np.testing.assert_allclose(model.joint(name).range, [lower[i], upper[i]])
        np.testing.assert_allclose(model.actuator(name).forcerange[1], 87 if i < 4 else 12)
    np.testing.assert_allclose(fr3.velocity_limits, [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
    ready = np.array([[0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4]])
    position, rotation = Kinematics(fr3).forward(ready)
    # libfranka's ready pose: the flange at (0.3069, 0, 0.5903) of the robot's own base, pointing down
    np.testing.assert_allclose(position[0] + [0, 0, 0.1034], [-0.3069, 0, 0.5903], atol=2e-4)
    np.testing.assert_allclose(rotation[0], TOOL_DOWN, atol=1e-9)


@pytest.mark.parametrize(("name", "stroke_m", "mass_kg"), [("robotiq_2f85", 0.085, 0.925), ("franka_hand", 0.08, 0.73)])
def test_the_grippers_have_the_published_numbers(name, stroke_m, mass_kg):
    robot = replace(robots.get("ur5e"), gripper=robots.get_gripper(name))
    model = built(robot)
    parts = ["gripper", *FINGERS]
    assert sum(model.body(part).mass[0] for part in parts) == pytest.approx(mass_kg, abs=1e-3)
    for opening in (0.0, 0.5, 1.0):
        data = at_home(robot, model, opening)
        left, right = (data.body(finger).xpos for finger in FINGERS)
        gap = np.linalg.norm(left - right) - 2 * robot.gripper.finger_half_m[0]
        assert gap == pytest.approx(opening * stroke_m, abs=1e-9)


def test_every_robot_is_at_home_over_the_workspace(robot, model):
    data = at_home(robot, model, 1.0)
    tool = data.site("tcp")
    assert -0.7 < tool.xpos[0] < -0.4 and abs(tool.xpos[1]) < 0.15 and 0.1 < tool.xpos[2] < 0.3
    np.testing.assert_allclose(tool.xmat.reshape(3, 3), TOOL_DOWN, atol=2e-3)
    low, high = np.array([link.range for link in robot.links]).T
    assert ((low < robot.home) & (robot.home < high)).all()


def test_the_tcp_is_one_centimetre_above_the_finger_tips(robot, model):
    data = at_home(robot, model, 1.0)
    tips = data.body(FINGERS[0]).xpos[2] - robot.gripper.finger_half_m[2]
    assert data.site("tcp").xpos[2] - tips == pytest.approx(0.01, abs=1.5e-3)


def test_a_tool_mount_moves_the_tool(robot):
    raised = replace(robot, flange_from_gripper=Transform(position=(0, 0, 0.03)))
    before, after = (Kinematics(one).forward([robot.home])[0][0] for one in (robot, raised))
    assert after[2] == pytest.approx(before[2] - 0.03, abs=1e-4)
    tool = at_home(robot, built(raised), 1.0).site("tcp")
    np.testing.assert_allclose(tool.xpos, after, atol=1e-9)


def test_a_scene_names_its_robot_and_tool(tmp_path, scene):
    mount = Transform(position=(0.0, 0.01, 0.02), quaternion=(np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)))
    robot = replace(robots.get("fr3"), flange_from_gripper=mount, gripper=robots.get_gripper("robotiq_2f85"))
    replace(scene, robot=robot).save(tmp_path)
    assert Scene.load(tmp_path).robot == robot


def test_scenes_of_before_have_a_ur5e(tmp_path, scene):
    scene.save(tmp_path)
    toml = tmp_path / "scene.toml"
    lines = toml.read_text().splitlines()
    tool = lines.index(next(line for line in lines if line.startswith("[tool]")))
    toml.write_text("\n".join(line for i, line in enumerate(lines) if not (tool <= i < tool + 4 or "robot = " in line)))
    assert Scene.load(tmp_path).robot == robots.get("ur5e")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('robot = "ur5e"', 'robot = "ur55"', "ur5e, fr3"),
        ('gripper = "robotiq_2f85"', 'gripper = "hook"', "robotiq_2f85, franka_hand"),
        ("quaternion = [1.0, 0.0, 0.0, 0.0]", "quaternion = [1.0, 1.0, 0.0, 0.0]", "length 1.414"),
        ("quaternion = [1.0, 0.0, 0.0, 0.0]", "quaternion = [nan, 0.0, 0.0, 0.0]", "4 finite numbers"),
        ("quaternion =", "quaternions =", "gripper, position and quaternion"),
    ],
)
def test_wrong_robots_in_scenes_are_refused(tmp_path, scene, old, new, says):
    scene.save(tmp_path)
    toml = tmp_path / "scene.toml"
    assert old in toml.read_text()
    toml.write_text(toml.read_text().replace(old, new))
    with pytest.raises(SceneError, match=says):
        Scene.load(tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="choose one of ur5e, fr3"):
        robots.get("kuka")


@pytest.mark.parametrize("region", ["A", "B"])
def test_the_same_expert_picks_and_places_with_the_other_robot(region):
    episodes = trials(tasks.get("pick_and_place"), DOMAINS["twin"], region, 20, seed=3, robot=robots.get("fr3"))
    assert episodes.successes >= 19
