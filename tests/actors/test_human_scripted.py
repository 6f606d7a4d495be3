"""The scripted operator takes over a policy in trouble, gives back when it is out of it, and leaves others alone."""

import numpy as np
import pytest

from actors.human import ScriptedOperator, TakeoverSettings
from protos.errors import InputError
from protos.schema import Observation
from protos.settings import from_json
from twin import tasks
from twin.rotations import TOOL_DOWN
from twin.tasks import PARKED_Z_M

TASK = tasks.get("pick_and_place")
CUBE, TARGET = np.array([-0.55, 0.10, 0.018]), np.array([-0.39, 0.0, 0.001])


class Table:
    """The table: knows where everything is, and counts how often it was asked."""

    def __init__(self):
        self.poses, self.asked = {"cube": (*CUBE, 0.0), "target": (*TARGET, 0.0)}, 0

    def objects(self):
        self.asked += 1
        return self.poses

    def move(self, name, by):
        x, y, z, yaw = self.poses[name]
        self.poses[name] = (x + by[0], y + by[1], z + by[2], yaw)


class Arm:
    """A tool that tests move: it is where it is told to be at once."""

    commanded_rotation = TOOL_DOWN

    def __init__(self):
        self.commanded, self.is_closing = np.array([-0.54, 0.0, 0.16]), False
        self.force_n, self.is_by_person = 0.0, False

    def observe(self):
        proprio = np.zeros((1, 25), np.float32)
        proprio[0, :3], proprio[0, 14] = self.commanded, self.force_n
        proprio[0, 18] = 0.43 if self.is_closing else 1.0
        proprio[0, 3:6] = [np.pi / np.sqrt(2), -np.pi / np.sqrt(2), 0]
        frame = np.zeros((1, 64, 64, 3), np.uint8)
        return Observation(side=frame, wrist=frame, proprio=proprio)


def make(task=TASK, **settings):
    table, arm = Table(), Arm()
    return table, arm, ScriptedOperator(task, arm, table, TakeoverSettings(**settings))


def helped(operator, arm, steps=60, move=lambda step: None):
    """Steps in which the operator acts; what it wants to do is not done."""
    acted = []
    for step in range(steps):
        move(step)
        if operator.override(0, step, arm.observe()) is not None:
            acted.append(step)
    return acted


def towards(arm, place, metres):
    way = np.asarray(place) - arm.commanded
    arm.commanded = arm.commanded + way * min(1.0, metres / max(float(np.abs(way).max()), 1e-9))


def test_a_demonstrator_acts_from_the_first_step_towards_the_object():
    _, arm, operator = make(always=True)
    action = operator.override(0, 0, arm.observe())
    assert action.shape == (7,) and action[1] > 0.9 and action[6] > 0


def test_it_takes_over_a_policy_that_is_stuck():
    _, arm, operator = make(stuck_s=0.8)
    assert helped(operator, arm, 20)[0] == 8
    assert operator.takeovers == {"stuck": 1}


def test_a_policy_that_wanders_about_is_stuck_too():
    _, arm, operator = make(stuck_s=1.0)

    def wander(step):
        arm.commanded = np.array([-0.54, 0.03 * np.sin(step), 0.16])

    assert 10 <= helped(operator, arm, 20, wander)[0] <= 14


def test_slow_progress_is_left_alone_until_time_is_short():
    _, arm, operator = make()
    acted = helped(operator, arm, 60, lambda step: towards(arm, CUBE, 0.003))
    assert acted[0] > 15 and operator.takeovers == {"late": 1}


def expert(table, arm, operator):
    """Returns a move that does what the task's expert would, with a cube that goes with the fingers."""

    def move(step):
        if step == 0:
            return
        action = TASK.expert(operator._state(arm.observe()))[0]
        by = action[:3] * TASK.action_scale[0]
        arm.commanded = arm.commanded + by
        arm.is_closing = bool(action[6] < 0)
        if arm.is_closing:
            table.move("cube", by)
        elif table.poses["cube"][2] > 0.018:
            table.move("cube", [0, 0, 0.018 - table.poses["cube"][2]])

    return move


def test_one_who_knows_how_is_never_taken_over():
    table, arm, operator = make()
    assert helped(operator, arm, 40, expert(table, arm, operator)) == []
    assert np.hypot(*np.subtract(table.poses["cube"], table.poses["target"])[:2]) < 0.035


def test_it_gives_back_a_policy_that_is_out_of_its_trouble():
    table, arm, operator = make(stuck_s=0.5)
    act = expert(table, arm, operator)

    def stuck_at_first(step):
        if operator._taken_over_at is not None or operator.returns:
            act(step)

    acted = helped(operator, arm, 40, stuck_at_first)
    assert operator.takeovers == {"stuck": 1} and operator.returns == 1
    assert acted == list(range(acted[0], acted[-1] + 1)), "it helped once, without a break"
    assert len(acted) < 20 and not arm.is_closing


def test_what_is_given_back_and_is_stuck_again_is_taken_over_again():
    table, arm, operator = make(stuck_s=0.5)
    act = expert(table, arm, operator)
    helped(operator, arm, 50, lambda step: act(step) if operator._taken_over_at is not None else None)
    assert operator.takeovers.total() >= 2 and operator.returns >= 1


def test_help_that_leads_nowhere_ends():
    _, arm, operator = make(stuck_s=0.5)
    assert len(helped(operator, arm, 400)) == 2 * TASK.max_steps


@pytest.mark.parametrize(("by", "reason"), [(0.004, {"pushes": 1}), (0.0, {"stuck": 1})])
def test_an_object_that_is_pushed_away_is_harm(by, reason):
    table, arm, operator = make(stuck_s=2.0)
    arm.commanded = np.add(CUBE, [0, -0.04, 0])

    def push(step):
        if step > 8 and operator._taken_over_at is None:
            arm.commanded = np.add(arm.commanded, [0, by, 0])
            table.move("cube", [0, by, 0])

    acted = helped(operator, arm, 22, push)
    assert operator.takeovers == reason
    assert (acted[0] == 16) == bool(by)


def test_an_object_that_is_carried_is_not_pushed():
    table, arm, operator = make(stuck_s=5.0)
    arm.commanded, arm.is_closing = np.add(CUBE, [0, 0, 0.03]), True
    table.move("cube", [0, 0, 0.03])

    def carry(step):
        arm.commanded = np.add(arm.commanded, [0.004, -0.004, 0])
        table.move("cube", [0.004, -0.004, 0])

    assert helped(operator, arm, 20, carry) == []


def test_a_tool_that_presses_is_harm():
    _, arm, operator = make(press_n=40.0)

    def press(step):
        arm.force_n = 45.0 if step == 4 else 5.0

    assert helped(operator, arm, 8, press)[0] == 4 and operator.takeovers == {"presses": 1}


def test_an_object_at_the_edge_is_about_to_be_lost():
    table, arm, operator = make()
    table.poses["cube"] = (-0.55, 0.27, 0.018, 0.0)
    assert helped(operator, arm, 3) == [0, 1, 2] and operator.takeovers == {"edge": 1}


def test_marks_that_vanish_are_progress():
    table, arm, operator = make(tasks.get("erase_whiteboard"), stuck_s=0.5)
    marks = {f"mark_{k}": (-0.39, 0.017 * (k - 2.5), 0.007, 0.0) for k in range(6)}
    table.poses = {"eraser": (-0.54, 0.0, 0.006, 0.0), "board": (-0.395, 0.0, 0.003, 0.0)} | marks

    def wipe(step):
        if step % 4 == 0 and step // 4 < 5:
            table.poses[f"mark_{step // 4}"] = (-0.39, 0.0, PARKED_Z_M, 0.0)

    assert helped(operator, arm, 40, wipe)[0] == 21


def test_an_unwatched_episode_is_left_alone_and_not_looked_at():
    table, arm, operator = make(watch=0.0)
    assert helped(operator, arm) == [] and table.asked == 0


def test_it_watches_the_share_of_episodes_it_is_told_to():
    _, arm, operator = make(watch=0.5, stuck_s=0.1, seed=3)
    watched = [bool(helped(operator, arm, steps=4)) for _ in range(200)]
    assert 0.4 < np.mean(watched) < 0.6


@pytest.mark.parametrize(
    "wrong", [{"watch": 1.5}, {"stuck_s": 0}, {"push_m": -1}, {"press_n": 0}, {"unstuck_steps": 0}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        TakeoverSettings(**wrong)


@pytest.mark.parametrize("old", ["takeover_at", "stall_steps", "progress_m"])
def test_old_settings_are_refused_by_name(old):
    with pytest.raises(InputError, match=f"{old}: no such setting"):
        from_json(TakeoverSettings, {old: 0.5})
