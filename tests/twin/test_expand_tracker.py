"""This module tests how a plan is driven: pose by pose, with waits where the gripper acts."""

from dataclasses import replace

import numpy as np
import pytest
from expansion_samples import configuration, demonstration
from situations import situation

from protos.schema import GRIPPER_ACTION
from twin import tasks
from twin.expand import Plan, Tracker
from twin.expand.path import ToolPath
from twin.expand.tracker import WAIT_STEPS
from twin.rotations import TOOL_DOWN, about_z

TASK = tasks.get("pick_and_place")
PATH = demonstration().path
GRASP = int(np.flatnonzero(PATH.closed)[0])


def tracker(path=PATH, task=TASK):
    return Tracker(task, Plan(configuration=configuration(), path=path, demonstration="d", planned=0))


def at(place, commanded=None, yaw=0.0):
    state = situation(bodies={}, tool=tuple(place), tool_yaw=yaw)
    return state if commanded is None else replace(state, commanded=np.array([commanded]))


def test_a_tool_that_follows_is_asked_for_one_pose_after_the_other():
    driver, place = tracker(), PATH.positions[0].copy()
    for target in PATH.positions[1:GRASP]:
        action = driver.action(at(place), 0)
        np.testing.assert_allclose(action[:3] * TASK.action_scale[0], target - place, atol=1e-6)
        assert action[GRIPPER_ACTION] == 1
        place = target.copy()
    assert not driver.is_done


def test_a_tool_that_was_pushed_off_is_brought_back_before_the_plan_goes_on():
    driver, pushed = tracker(), PATH.positions[0] + [0, 0.1, 0]
    for _ in range(3):
        action = driver.action(at(pushed), 0)
        np.testing.assert_allclose(action[:3], np.clip((PATH.positions[0] - pushed) / 0.03, -1, 1), atol=1e-6)
    action = driver.action(at(PATH.positions[0]), 0)
    np.testing.assert_allclose(action[:3] * 0.03, PATH.positions[1] - PATH.positions[0], atol=1e-6)


def test_the_gripper_waits_for_the_tool_but_not_for_ever():
    driver = tracker()
    for place in PATH.positions[: GRASP - 1]:
        driver.action(at(place), 0)
    there, behind = PATH.positions[GRASP - 1], PATH.positions[GRASP - 1] + [0, 0, 0.02]
    grips = [driver.action(at(behind, commanded=there), 0)[GRIPPER_ACTION] for _ in range(WAIT_STEPS + 1)]
    assert grips == [1] * WAIT_STEPS + [-1]
    prompt = tracker()
    for place in PATH.positions[: GRASP - 1]:
        prompt.action(at(place), 0)
    assert prompt.action(at(there), 0)[GRIPPER_ACTION] == -1


def test_a_turn_is_asked_for_about_the_base_frame_and_within_the_limits():
    turned = np.stack([about_z(0.3 * (k > 0)) @ TOOL_DOWN for k in range(3)])
    path = ToolPath(positions=np.tile(PATH.positions[0], (3, 1)), rotations=turned, closed=np.zeros(3, bool))
    driver = tracker(path, replace(TASK, action_scale=(0.03, 0.2)))
    action = driver.action(at(PATH.positions[0]), 0)
    np.testing.assert_allclose(action[3:6], [0, 0, 1], atol=1e-6)
    action = driver.action(at(PATH.positions[0], yaw=0.2), 0)
    assert action[5] == pytest.approx(0.5, abs=1e-6)
    assert driver.is_done
