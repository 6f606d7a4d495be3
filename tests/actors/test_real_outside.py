"""A tool that stands outside the work box when the driver starts: it crawls inside, or is refused."""

from dataclasses import replace

import numpy as np
import pytest
from standin import ideal_robot

from actors.real.arm import ArmSettings, UrArm
from actors.real.safety import CRAWL_M_S, Limits, LimitSettings
from protos.errors import ArmStopped
from protos.space import Box

pytest.importorskip("rtde_control")
BOX = Box(x=(-0.70, -0.30), y=(-0.28, 0.28), z=(0.012, 0.13))
"""The tool starts at a height of 16 cm: 3 cm above this box."""


@pytest.fixture(scope="module")
def robot():
    with ideal_robot(pace=0.02) as robot:
        yield robot


def open_arm(host, box=BOX):
    settings = ArmSettings(host=host, hold_after_s=1.0, standstill_s=10.0)
    arm = UrArm(settings, Limits(box, LimitSettings()), armed=True)
    arm.release()
    return arm


def test_a_servo_from_outside_crawls_until_it_is_inside(robot):
    with open_arm(robot.host) as arm:
        begin, heights, times = arm.observe().pose, [], []
        goal = begin - 0.08 * np.eye(6)[2]
        for _ in range(14):
            arm.servo(np.concatenate([arm.anchor()[:2], [max(goal[2], arm.anchor()[2] - 0.03)], begin[3:]]), 0.1)
            heights.append(arm.observe().pose[2])
            times.append(arm.time_s)
        speeds, above = -np.diff(heights) / np.diff(times), np.array(heights[:-1]) > BOX.z[1] + 0.003
        assert above.sum() > 5 and speeds[above].max() < CRAWL_M_S * 1.1
        assert heights[-1] < BOX.z[1] - 0.01 and speeds.max() > 0.1
        arm.move_to(np.concatenate([begin[:2], [0.12], begin[3:]]))


def test_a_move_from_outside_begins_with_a_crawl(robot):
    high = replace(BOX, z=(0.012, 0.24))
    with open_arm(robot.host, high) as arm:
        arm.move_to(np.concatenate([[-0.5, 0.0, 0.17], arm.observe().pose[3:]]))
    with open_arm(robot.host) as arm:
        sent, move = [], arm._move_line
        arm._move_line = lambda pose, speed: (sent.append((pose, speed)), move(pose, speed))
        goal = np.concatenate([[-0.5, 0.1, 0.05], arm.observe().pose[3:]])
        arm.move_to(goal)
        (inside, slow), (end, _) = sent
        assert slow == CRAWL_M_S and arm.limits.outside(inside[:3]) == 0
        np.testing.assert_allclose(inside[:2], [-0.5, 0.0], atol=1e-3)
        np.testing.assert_array_equal(end, goal)


def test_a_tool_farther_outside_than_the_ceiling_is_refused(robot):
    with open_arm(robot.host, replace(BOX, z=(0.012, 0.24))) as arm:
        arm.move_to(np.concatenate([[-0.5, 0.0, 0.17], arm.observe().pose[3:]]))
    settings = ArmSettings(host=robot.host, hold_after_s=1.0, standstill_s=10.0)
    low = replace(BOX, z=(0.012, 0.06))
    with UrArm(settings, Limits(low, LimitSettings()), armed=True) as arm:
        before = arm.observe().pose
        with pytest.raises(ArmStopped, match="outside the work box"):
            arm.release()
        np.testing.assert_allclose(arm.observe().pose, before, atol=1e-6)
