import numpy as np
import pytest

from protos.errors import InputError
from protos.proprioception import TOOL_DOWN_VECTOR
from protos.schema import Schema
from twin.kinematics import Kinematics
from twin.labs import Lab
from twin.rotations import matrix_from_vector, vector_from_matrix
from twin.world import ArmWorld


@pytest.fixture
def world(scene, task):
    return ArmWorld(scene, task, Lab(), schema=Schema(side_px=32, wrist_px=32))


def test_the_arm_follows_its_joint_targets_in_small_slices(world):
    q = Kinematics(world.robot).start_joints((-0.55, 0.1, 0.12))[0]
    start = world.joints.copy()
    world.set_joint_targets(q)
    for _ in range(500):
        world.advance(0.002)
    np.testing.assert_allclose(world.joints, q, atol=2e-3)
    assert np.abs(start - q).max() > 0.1
    np.testing.assert_allclose(world.tcp_pose[:3], [-0.55, 0.1, 0.12], atol=2e-3)
    np.testing.assert_allclose(world.tcp_pose[3:], TOOL_DOWN_VECTOR, atol=5e-3)
    np.testing.assert_allclose(world.tcp_velocity, 0, atol=5e-3)
    np.testing.assert_allclose(world.wrench, 0, atol=0.2)


def test_the_reported_velocity_is_that_of_the_motion(world):
    world.set_joint_targets(world.joints + 0.2)
    world.advance(0.05)
    before = world.tcp_pose
    world.advance(0.005)
    after, velocity = world.tcp_pose, world.tcp_velocity
    assert np.linalg.norm(velocity[:3]) > 0.05
    np.testing.assert_allclose((after[:3] - before[:3]) / 0.005, velocity[:3], rtol=0.05, atol=0.01)
    turn = matrix_from_vector(after[3:]) @ matrix_from_vector(before[3:]).T
    np.testing.assert_allclose(vector_from_matrix(turn) / 0.005, velocity[3:], rtol=0.05, atol=0.01)


def test_time_is_not_lost_between_slices(scene, task):
    worlds = [ArmWorld(scene, task, Lab(), schema=Schema(side_px=16, wrist_px=16)) for _ in range(2)]
    for world, slices in zip(worlds, ([0.002] * 25, [0.05]), strict=True):
        world.set_joint_targets(world.joints + 0.1)
        for seconds in slices:
            world.advance(seconds)
    np.testing.assert_allclose(worlds[0].joints, worlds[1].joints, atol=1e-12)


def test_placing_moves_objects_and_leaves_the_arm(world, configurations):
    world.set_joint_targets(world.joints + 0.1)
    world.advance(0.05)
    joints, rates = world.joints.copy(), world.joint_velocities.copy()
    configuration = configurations("B", 1)[0]
    before = world.render()[0]
    world.place(configuration)
    for name in ("cube", "target"):
        np.testing.assert_allclose(world.object_pose(name), configuration.poses[name], atol=1e-9)
    np.testing.assert_array_equal(world.joints, joints)
    np.testing.assert_array_equal(world.joint_velocities, rates)
    assert (world.render()[0] != before).any()


def test_success_follows_the_object_and_the_gripper(world, task, configurations):
    configuration = configurations("A", 1)[0]
    world.place(configuration)
    assert not world.success()
    x, y, _, yaw = configuration.poses["target"]
    world.place(type(configuration)(region="A", poses=dict(configuration.poses) | {"cube": (x, y, 0.018, yaw)}))
    assert world.success()
    world.set_gripper(0.0)
    assert not world.success()


def test_the_gripper_closes(world):
    assert world.opening == pytest.approx(1)
    world.set_gripper(0.0)
    world.advance(0.5)
    assert world.opening < 0.05
    world.set_gripper(0.5)
    world.advance(0.5)
    assert world.opening == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "call",
    [
        lambda world: world.set_joint_targets(np.zeros(5)),
        lambda world: world.set_joint_targets(np.full(6, np.nan)),
        lambda world: world.set_gripper(2.0),
        lambda world: world.object_pose("teapot"),
    ],
)
def test_wrong_commands_are_refused(world, call):
    with pytest.raises(InputError):
        call(world)
