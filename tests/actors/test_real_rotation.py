"""Tasks that turn the tool, on the driver: it stays upright, and what the limits left is what is stored."""

from types import SimpleNamespace

import numpy as np
import pytest
from standin import ideal_robot

from actors.real.arm import ArmSettings, UrArm
from actors.real.robot import RealEnvironment
from actors.real.safety import Limits, LimitSettings
from protos.schema import Outcome
from twin import tasks
from twin.rotations import YAW_LIMIT_RAD, heading, matrix_from_vector

pytest.importorskip("rtde_control")


class Gripper:
    """Refuses what is not a command."""

    is_commanded_open = True
    commands = 0

    def activate(self):
        assert self.commands == 0

    def follow(self, *, is_open):
        assert is_open in (True, False)
        self.commands += is_open != self.is_commanded_open
        self.is_commanded_open = is_open

    def opening(self):
        return float(self.is_commanded_open)


class Hands:
    def go_on(self, reason):
        assert reason

    def judge(self):
        return Outcome.RUNNING


class Cameras:
    def read(self):
        return np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def robot():
    with ideal_robot(pace=0.02) as robot:
        yield robot


def environment(host, task):
    arm = UrArm(
        ArmSettings(host=host, hold_after_s=1.0, standstill_s=10.0), Limits(task.work_box, LimitSettings()), armed=True
    )
    return arm, RealEnvironment(arm, Gripper(), Cameras(), Hands(), task)


def act(yaw, grip=1.0):
    return np.array([[0, 0, 0, 0, 0, yaw, grip]], np.float32)


@pytest.mark.parametrize("name", ["insert_hexagon_block", "insert_triple_column_block", "erase_whiteboard"])
def test_forty_equal_turns_to_either_side_keep_the_tool_upright(robot, name):
    task = tasks.get(name)
    arm, world = environment(robot.host, task)
    told = []
    stream = arm._limiter.next
    arm._limiter.next = lambda *args, **words: told.append(stream(*args, **words)) or told[-1]
    with arm:
        for side in (1.0, -1.0):
            arm.release()
            arm.move_to(np.array([-0.5, 0.0, 0.15, 2.2214, -2.2214, 0.0]))
            before, executed = world.observe().proprio[0, 3:6], []
            for _ in range(40):
                step = world.step(act(side))
                assert not step.terminated[0]
                executed.append(step.executed[0, 5])
                seen = world.observe().proprio[0, 3:6]
                assert np.abs(seen - before).max() < 0.2, "no jump of the rotation vector"
                before = seen
            assert heading(matrix_from_vector(seen)) == pytest.approx(side * YAW_LIMIT_RAD, abs=0.02)
            np.testing.assert_allclose(executed[:23], side, atol=1e-3)
            np.testing.assert_allclose(executed[-10:], 0, atol=1e-3, err_msg="the action that the yaw limit left")
        assert arm.limits.clipped["speed"] == arm.limits.clipped["joints"] == 0
        assert arm.limits.clipped["yaw"] > 20
    assert max(matrix_from_vector(pose[3:])[2, 2] for pose in told) < -0.999


def test_the_gripper_is_not_commanded_while_the_arm_is_not_fit():
    task = tasks.get("pick_and_place")
    pose = np.array([-0.5, 0.0, 0.15, 2.2214, -2.2214, 0.0])
    pressed = SimpleNamespace(
        t=1.0, joints=np.zeros(6), pose=pose, velocity=np.zeros(6), wrench=np.array([0, 0, 90.0, 0, 0, 0])
    )
    arm = SimpleNamespace(
        held="",
        limits=Limits(task.work_box, LimitSettings()),
        observe=lambda: pressed,
        anchor=lambda: pose,
        servo=lambda target, period_s, *, is_gentle: target,
        can_be_commanded=lambda: True,
    )
    world = RealEnvironment(arm, gripper := Gripper(), Cameras(), Hands(), task)
    world.step(act(0, grip=-1.0))
    assert gripper.commands == 0
    pressed.wrench = np.zeros(6)
    world.step(act(0, grip=-1.0))
    assert gripper.commands == 1
