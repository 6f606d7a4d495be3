"""The scripted operator takes over in time, and keeps the arm until the episode ends."""

import numpy as np
import pytest

from actors.human import ScriptedOperator, TakeoverSettings
from protos.errors import InputError
from protos.schema import Observation
from twin import tasks
from twin.rotations import TOOL_DOWN
from twin.tasks import PARKED_Z_M

TASK = tasks.get("pick_and_place")
TABLE = {"cube": (-0.55, 0.10, 0.018, 0.0), "target": (-0.39, 0.0, 0.001, 0.0)}


class Table:
    """The table: knows where everything is, and counts how often it was asked."""

    def __init__(self):
        self.poses, self.asked = dict(TABLE), 0

    def objects(self):
        self.asked += 1
        return self.poses


class Arm:
    """A tool that tests move."""

    is_closing = False
    commanded_rotation = TOOL_DOWN

    def __init__(self):
        self.commanded = np.array([-0.54, 0.0, 0.16])

    def observe(self):
        proprio = np.zeros((1, 25), np.float32)
        proprio[0, :3], proprio[0, 18] = self.commanded, 1.0
        frame = np.zeros((1, 64, 64, 3), np.uint8)
        return Observation(side=frame, wrist=frame, proprio=proprio)


def make(task=TASK, **settings):
    table, arm = Table(), Arm()
    return table, arm, ScriptedOperator(task, arm, table, TakeoverSettings(**settings))


def first_takeover(operator, arm, steps=60, move=lambda step: None):
    for step in range(steps):
        move(step)
        if operator.override(0, step, arm.observe()) is not None:
            return step
    return None


def test_a_demonstrator_acts_from_the_first_step_towards_the_object():
    _, arm, operator = make(always=True)
    action = operator.override(0, 0, arm.observe())
    assert action.shape == (7,) and action[1] > 0.9 and action[6] > 0


def test_it_takes_over_when_nothing_gets_nearer():
    _, arm, operator = make(stall_steps=8, takeover_at=1.0)
    assert first_takeover(operator, arm) == 8


def test_progress_keeps_it_waiting_until_time_gets_short():
    _, arm, operator = make(stall_steps=5, takeover_at=0.45)

    def approach(step):
        arm.commanded = arm.commanded + 0.1 * (np.array(TABLE["cube"][:3]) - arm.commanded)

    assert first_takeover(operator, arm, move=lambda step: approach(step) if step < 10 else None) == 14
    _, arm, operator = make(stall_steps=60, takeover_at=0.45)
    assert first_takeover(operator, arm) == 27


def test_marks_that_vanish_are_progress():
    table, arm, operator = make(tasks.get("erase_whiteboard"), stall_steps=5, takeover_at=1.0)
    marks = {f"mark_{k}": (-0.39, 0.017 * (k - 2.5), 0.007, 0.0) for k in range(6)}
    table.poses = {"eraser": (-0.54, 0.0, 0.006, 0.0), "board": (-0.395, 0.0, 0.003, 0.0)} | marks

    def wipe(step):
        if step % 4 == 0 and step // 4 < 6:
            table.poses[f"mark_{step // 4}"] = (-0.39, 0.0, PARKED_Z_M, 0.0)

    assert first_takeover(operator, arm, move=wipe) == 25


def test_once_it_has_taken_over_it_stays_until_the_next_episode():
    _, arm, operator = make(stall_steps=3)
    begun = first_takeover(operator, arm)
    assert all(operator.override(0, step, arm.observe()) is not None for step in range(begun + 1, 20))
    assert operator.override(0, 0, arm.observe()) is None


def test_an_unwatched_episode_is_left_alone_and_not_looked_at():
    table, arm, operator = make(watch=0.0)
    assert first_takeover(operator, arm) is None and table.asked == 0


def test_it_watches_the_share_of_episodes_it_is_told_to():
    _, arm, operator = make(watch=0.5, stall_steps=1, seed=3)
    watched = [first_takeover(operator, arm, steps=4) is not None for _ in range(200)]
    assert 0.4 < np.mean(watched) < 0.6


@pytest.mark.parametrize("wrong", [{"watch": 1.5}, {"takeover_at": -0.1}, {"stall_steps": 0}])
def test_settings_are_checked(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        TakeoverSettings(**wrong)
