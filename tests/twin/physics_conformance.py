"""This module tests what every physics engine must do; a subclass names the engine. Only its door is used."""

from dataclasses import replace

import numpy as np
import pytest

from twin import robots, tasks
from twin.kinematics import Kinematics
from twin.physics import make
from twin.randomize import Domain
from twin.rotations import TOOL_DOWN

CONTROL_STEP = 20
"""Physics steps of 5 ms."""
CUBE_AT = (-0.55, 0.10, 0.018, 0.0)
TARGET_AT = (-0.39, 0.0, 0.001, 0.0)
HALF_M = 0.018
GRASP_Z_M = 0.016
OUTPUTS = (
    "joints",
    "joint_velocities",
    "tool_position",
    "tool_rotation",
    "tool_velocity",
    "opening",
    "wrench",
    "body_positions",
    "body_rotations",
)


def outputs(physics):
    """Copies of everything that is measured."""
    return {name: np.array(getattr(physics, name)) for name in OUTPUTS}


class Worlds:
    """Worlds of the engine called `engine`, with every robot."""

    engine = ""

    @pytest.fixture(params=robots.names())
    def robot(self, request):
        return robots.get(request.param)

    @pytest.fixture
    def arm(self, robot):
        return Kinematics(robot)

    @pytest.fixture
    def worlds(self, robot):
        """Returns a function that builds worlds at rest, the tool at `tool`; they are closed after the test."""
        made = []

        def build(n=1, *, tool=(-0.54, 0.0, 0.16), cube=CUBE_AT, threads=1, **domain):
            task = tasks.get("pick_and_place")
            physics = make(self.engine, robot, task, Domain(**domain), n=n, threads=threads)
            made.append(physics)
            joints = np.tile(Kinematics(robot).start_joints(tool), (n, 1))
            physics.reset(np.arange(n), joints, self.poses(n, cube))
            return physics, joints

        yield build
        for physics in made:
            physics.close()

    @staticmethod
    def poses(n, cube=CUBE_AT):
        return {"cube": np.tile(cube, (n, 1)), "target": np.tile(TARGET_AT, (n, 1))}


class StateConformance(Worlds):
    """These tests check that what is written is read, by the right slot and at the right time."""

    def test_a_reset_shows_at_once_in_every_output(self, worlds, arm):
        physics, joints = worlds(2)
        position, rotation = arm.forward(joints)
        np.testing.assert_allclose(physics.joints, joints, atol=1e-6)
        np.testing.assert_allclose(physics.joint_velocities, 0, atol=1e-6)
        np.testing.assert_allclose(physics.tool_position, position, atol=1e-5)
        np.testing.assert_allclose(physics.tool_rotation, rotation, atol=1e-5)
        np.testing.assert_allclose(physics.tool_velocity, 0, atol=1e-6)
        np.testing.assert_allclose(physics.opening, 1, atol=1e-4)
        np.testing.assert_allclose(physics.wrench, 0, atol=1e-6)
        for slot in range(2):
            np.testing.assert_allclose(physics.body_pose(slot, "cube"), CUBE_AT, atol=1e-6)
            np.testing.assert_allclose(physics.body_pose(slot, "target"), TARGET_AT, atol=1e-6)

    def test_at_rest_it_stays_at_rest(self, worlds):
        physics, joints = worlds()
        physics.step(10 * CONTROL_STEP)
        np.testing.assert_allclose(physics.joints, joints, atol=2e-4)
        np.testing.assert_allclose(physics.tool_velocity, 0, atol=2e-3)
        np.testing.assert_allclose(physics.body_position("cube"), [CUBE_AT[:3]], atol=5e-4)

    def test_commanded_joints_are_reached(self, worlds, arm):
        physics, joints = worlds()
        goal = arm.start_joints((-0.50, 0.12, 0.10), 0.3)
        for k in range(30):
            physics.command(joints + min(1, (k + 1) / 10) * (goal - joints), np.ones(1))
            physics.step(CONTROL_STEP)
        np.testing.assert_allclose(physics.joints, goal, atol=2e-3)
        position, rotation = arm.forward(goal)
        np.testing.assert_allclose(physics.tool_position, position, atol=2e-3)
        np.testing.assert_allclose(physics.tool_rotation, rotation, atol=5e-3)

    def test_velocities_are_those_of_the_motion(self, worlds, arm):
        physics, _ = worlds()
        physics.command(arm.start_joints((-0.50, 0.12, 0.12)), np.ones(1))
        physics.step(10)
        before = physics.tool_position.copy()
        physics.step(1)
        speed = (physics.tool_position - before) / 0.005
        assert np.linalg.norm(speed) > 0.05
        np.testing.assert_allclose(physics.tool_velocity[:, :3], speed, rtol=0.05, atol=0.01)

    def test_a_command_changes_no_output_until_the_next_step(self, worlds):
        physics, joints = worlds()
        before = outputs(physics)
        physics.command(joints + 0.2, np.zeros(1))
        after = outputs(physics)
        for name in OUTPUTS:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)

    def test_slots_do_not_touch_each_other(self, worlds):
        (alone, joints), (pair, both) = worlds(1), worlds(2)
        other = both + np.array([[0.0], [0.3]])
        for _ in range(5):
            alone.command(joints, np.zeros(1))
            pair.command(other, np.array([0.0, 1.0]))
            alone.step(CONTROL_STEP)
            pair.step(CONTROL_STEP)
        for name in OUTPUTS:
            np.testing.assert_array_equal(outputs(pair)[name][0], outputs(alone)[name][0], err_msg=name)
        assert np.abs(pair.joints[1] - pair.joints[0]).max() > 0.1

    def test_a_reset_leaves_other_slots_alone(self, worlds):
        physics, joints = worlds(2)
        physics.command(joints + 0.2, np.zeros(2))
        physics.step(CONTROL_STEP)
        before = outputs(physics)
        physics.reset(np.array([1]), joints[1:], self.poses(1))
        for name in OUTPUTS:
            np.testing.assert_array_equal(outputs(physics)[name][0], before[name][0], err_msg=name)
        np.testing.assert_allclose(physics.joints[1], joints[1], atol=1e-6)

    def test_placing_leaves_the_arm_and_other_bodies(self, worlds):
        physics, joints = worlds(2)
        physics.command(joints + 0.1, np.ones(2))
        physics.step(CONTROL_STEP)
        before = outputs(physics)
        there = (-0.6, -0.12, 0.018, 0.4)
        physics.place(np.array([1]), {"cube": np.array([there])})
        np.testing.assert_allclose(physics.body_pose(1, "cube"), there, atol=1e-6)
        after = outputs(physics)
        for name in ("joints", "joint_velocities", "tool_position", "tool_velocity", "opening"):
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
        cube = physics.model.body("cube").id
        others = [i for i in range(physics.model.nbody) if i != cube]
        np.testing.assert_array_equal(after["body_positions"][:, others], before["body_positions"][:, others])
        np.testing.assert_array_equal(after["body_positions"][0], before["body_positions"][0])

    @pytest.mark.parametrize("threads", [1, 2])
    def test_the_same_calls_give_the_same_numbers(self, worlds, threads):
        histories = []
        for count in (1, threads):
            physics, joints = worlds(4, threads=count)
            goal = joints + np.linspace(-0.2, 0.2, 4)[:, None]
            for k in range(6):
                physics.command(goal, np.linspace(0, 1, 4) if k % 2 else np.ones(4))
                physics.step(CONTROL_STEP)
            histories.append(outputs(physics))
        for name in OUTPUTS:
            np.testing.assert_array_equal(histories[0][name], histories[1][name], err_msg=name)

    def test_a_broken_slot_keeps_to_itself_until_its_reset(self, worlds):
        (broken, joints), (healthy, _) = worlds(2), worlds(2)
        broken.place(np.array([1]), {"cube": np.full((1, 4), np.nan)})
        for _ in range(3):
            for physics in (broken, healthy):
                physics.command(joints + 0.05, np.zeros(2))
                physics.step(CONTROL_STEP)
        assert np.isnan(broken.body_position("cube")[1]).any()
        for name in OUTPUTS:
            np.testing.assert_array_equal(outputs(broken)[name][0], outputs(healthy)[name][0], err_msg=name)
        broken.reset(np.array([1]), joints[1:], self.poses(1))
        broken.step(CONTROL_STEP)
        assert all(np.isfinite(values).all() for values in outputs(broken).values())
        np.testing.assert_allclose(broken.body_position("cube")[1], CUBE_AT[:3], atol=1e-3)

    def test_another_tool_is_weighed_and_mounted_too(self, robot):
        raised = replace(
            robot,
            gripper=robots.get_gripper("franka_hand"),
            flange_from_gripper=replace(robot.flange_from_gripper, position=(0.0, 0.0, 0.04)),
        )
        arm = Kinematics(raised)
        joints = arm.start_joints((-0.54, 0.0, 0.16))
        physics = make(self.engine, raised, tasks.get("pick_and_place"), Domain(), n=1)
        physics.reset(np.zeros(1, int), joints, self.poses(1))
        physics.step(10 * CONTROL_STEP)
        np.testing.assert_allclose(physics.tool_position, [[-0.54, 0.0, 0.16]], atol=1e-3)
        np.testing.assert_allclose(physics.wrench, 0, atol=0.1)
        physics.close()


class ContactConformance(Worlds):
    """Things fall, are gripped, and push back."""

    def grasp(self, arm, physics, joints, control_steps=8):
        """Closes the gripper where the tool is."""
        for _ in range(control_steps):
            physics.command(joints, np.zeros(physics.n))
            physics.step(CONTROL_STEP)

    def lift(self, arm, physics, joints, height_m=0.1, control_steps=10):
        """Raises the closed gripper evenly; the offset of the cube from the tool after every control step."""
        position, _ = arm.forward(joints)
        offsets = []
        for k in range(control_steps):
            joints = arm.inverse(joints, np.add(position, [0, 0, height_m * (k + 1) / control_steps]), TOOL_DOWN)
            physics.command(joints, np.zeros(physics.n))
            physics.step(CONTROL_STEP)
            offsets.append(physics.body_position("cube") - physics.tool_position)
        return joints, np.array(offsets)

    def test_a_dropped_cube_comes_to_rest_on_the_table(self, worlds):
        physics, _ = worlds(cube=(-0.55, 0.1, 0.118, 0.3))
        height = [physics.body_position("cube")[0, 2]]
        for _ in range(15):
            physics.step(4)
            height.append(physics.body_position("cube")[0, 2])
        # free fall for 0.1 s, within what a first-order step of 5 ms adds
        assert 0.118 - height[5] == pytest.approx(0.5 * 9.81 * 0.1**2, rel=0.06)
        assert height[-1] == pytest.approx(HALF_M, abs=1e-3)
        x, y, _, yaw = physics.body_pose(0, "cube")
        np.testing.assert_allclose([x, y, yaw], [-0.55, 0.1, 0.3], atol=5e-3)

    def test_a_grasped_cube_is_lifted_and_does_not_slip(self, worlds, arm):
        physics, joints = worlds(tool=(*CUBE_AT[:2], GRASP_Z_M))
        self.grasp(arm, physics, joints)
        joints, offsets = self.lift(arm, physics, joints)
        assert physics.body_position("cube")[0, 2] > 0.1
        self.grasp(arm, physics, joints, 5)
        held = physics.body_position("cube") - physics.tool_position
        slips = np.linalg.norm(np.diff(offsets[2:, 0], axis=0), axis=1)
        assert slips.max() < 0.5e-3
        assert np.linalg.norm(held - offsets[-1]) < 2e-3

    def test_the_opening_is_the_gap_between_the_fingers(self, worlds, robot, arm):
        physics, joints = worlds(tool=(*CUBE_AT[:2], GRASP_Z_M))
        self.grasp(arm, physics, joints)
        width = 2 * HALF_M / robot.gripper.stroke_m
        assert physics.opening[0] == pytest.approx(width, abs=0.03)
        physics.place(np.zeros(1, int), {"cube": np.array([[-0.6, -0.1, 0.018, 0.0]])})
        self.grasp(arm, physics, joints)
        assert physics.opening[0] < 0.02
        for wanted in (0.5, 1.0):
            for _ in range(8):
                physics.command(joints, np.full(1, wanted))
                physics.step(CONTROL_STEP)
            assert physics.opening[0] == pytest.approx(wanted, abs=0.03)

    def test_the_wrench_weighs_what_hangs_on_the_tool(self, worlds, arm):
        physics, joints = worlds(tool=(*CUBE_AT[:2], GRASP_Z_M), object_mass_kg=(0.3, 0.3), friction=(3.0, 3.0))
        self.grasp(arm, physics, joints)
        joints, _ = self.lift(arm, physics, joints)
        self.grasp(arm, physics, joints, 10)
        assert physics.body_position("cube")[0, 2] > 0.08
        np.testing.assert_allclose(physics.wrench[0, :3], [0, 0, -0.3 * 9.81], atol=0.3)
        np.testing.assert_allclose(physics.wrench[0, 3:], 0, atol=0.02)

    def test_the_table_pushes_back_along_the_wrenchs_z(self, worlds, arm):
        physics, joints = worlds(tool=(-0.54, 0.0, 0.02))
        position, _ = arm.forward(joints)
        down = arm.inverse(joints, position - [0, 0, 0.03], TOOL_DOWN, iterations=10)
        for k in range(15):
            physics.command(joints + min(1, (k + 1) / 10) * (down - joints), np.ones(1))
            physics.step(CONTROL_STEP)
        assert physics.wrench[0, 2] > 5
