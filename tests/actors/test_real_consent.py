"""The environment of an arm asks before anything moves, whenever the arm is held and whatever held it."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.real.robot import RESET_ATTEMPTS, RealEnvironment
from actors.real.safety import Limits, LimitSettings
from protos.errors import ArmHeld, ArmStopped, InputError
from protos.schema import ACTION_DIM, GRIPPER_ACTION, Outcome
from twin import tasks

TASK = tasks.get("pick_and_place")
START = TASK.space.sample(np.random.default_rng(0), region="A")
POSE = np.array([-0.54, 0.0, 0.16, 2.2214, -2.2214, 0.0])
MOTIONS = ("rest", "move_to", "servo")
LIMIT = "force at the TCP 90 N: free the tool"


class Arm:
    """Refuses to move while it is held, as the driver does; `holds` says what happens at which motion."""

    def __init__(self, holds=None):
        self.events, self.held, self.holds = [], "the first motion", dict(holds or {})
        self.limits = Limits(TASK.work_box, LimitSettings())
        self.is_stopped, self.motions = False, 0

    def release(self):
        assert self.events[-1] in ("go on", "activate", "place"), "a person has just answered"
        self.held = ""

    def try_to_hold(self, why):
        self.events.append("hold")

    def _move(self, name):
        self.motions += 1
        happens = self.holds.pop(self.motions, "")
        self.held = happens or self.held
        if happens == LIMIT:
            raise ArmStopped(happens)
        if self.held:
            raise ArmHeld(self.held)
        self.events.append(name)

    def rest(self, seconds):
        assert seconds > 0
        self._move("rest")

    def move_to(self, pose):
        assert pose.shape == (6,)
        self._move("move_to")

    def servo(self, target, period_s, *, is_gentle=False):
        assert target.shape == (6,) and period_s > 0
        self._move("servo")
        return target

    def anchor(self):
        return POSE.copy()

    def observe(self):
        return SimpleNamespace(pose=POSE.copy(), velocity=np.zeros(6), wrench=np.zeros(6), joints=np.zeros(6), t=0.0)

    def can_be_commanded(self):
        return not self.is_stopped


class Gripper:
    """Notes what it is told; nothing may be told while the arm is held, but to activate right after the answer."""

    def __init__(self, arm):
        self._arm, self.is_commanded_open = arm, True

    def activate(self):
        assert self._arm.events[-1] == "go on"
        self._arm.events.append("activate")

    def command(self, *, is_open):
        assert not self._arm.held
        self.is_commanded_open = is_open
        self._arm.events.append("gripper")

    def follow(self, *, is_open):
        if is_open != self.is_commanded_open:
            self.command(is_open=is_open)


class Hands:
    """Answers at once and notes the reasons."""

    def __init__(self, arm):
        self._arm, self.reasons, self.verdict = arm, [], Outcome.RUNNING

    def go_on(self, reason):
        assert reason
        self.reasons.append(reason)
        self._arm.events.append("go on")

    def place(self, configuration):
        assert configuration is START
        self._arm.events.append("place")

    def judge(self):
        return self.verdict


def table(holds=None):
    arm = Arm(holds)
    hands = Hands(arm)
    return RealEnvironment(arm, Gripper(arm), None, hands, TASK), arm, hands


def act(*numbers, grip=1.0):
    action = np.zeros((1, ACTION_DIM), np.float32)
    action[0, : len(numbers)], action[0, GRIPPER_ACTION] = numbers, grip
    return action


def test_the_first_answer_comes_before_gripper_and_arm():
    environment, arm, hands = table()
    environment.reset(0, START)
    assert arm.events[:4] == ["go on", "activate", "gripper", "rest"]
    assert hands.reasons == ["the first motion; the gripper opens and closes once"]
    environment.reset(0, START)
    assert arm.events.count("activate") == arm.events.count("go on") == 1


def test_a_tool_outside_the_work_box_is_named_with_its_way_back():
    environment, arm, hands = table()
    outside = POSE.copy()
    outside[2] = TASK.work_box.z[1] + 0.042
    arm.observe = lambda: SimpleNamespace(pose=outside)
    environment.reset(0, START)
    assert "the tool is 4.2 cm outside the work box; it returns at 3 cm/s" in hands.reasons[0]


def test_a_hold_in_mid_episode_is_answered_in_place_and_its_action_is_forgotten():
    environment, arm, hands = table()
    environment.reset(0, START)
    environment.step(act(1, 1, 1))
    arm.holds[arm.motions + 1] = "no fresh action for 160 ms"
    step = environment.step(act(1, 1, 1))
    assert hands.reasons[-1] == "no fresh action for 160 ms"
    np.testing.assert_allclose(step.executed[0], act()[0], atol=1e-6, err_msg="it stood still and stayed open")
    assert not step.terminated[0] and not step.truncated[0]
    assert environment.step(act(1)).executed[0, 0] == pytest.approx(1)


def test_the_gripper_too_waits_for_the_answer():
    environment, arm, _ = table()
    environment.reset(0, START)
    arm.held = "the arm has stood still for 27.0 s"
    del arm.events[:]
    step = environment.step(act(grip=-1.0))
    assert arm.events == ["go on", "servo"] and step.executed[0, GRIPPER_ACTION] == 1
    environment.step(act(grip=-1.0))
    assert arm.events[2:] == ["gripper", "servo"]


def test_a_limit_ends_the_episode_and_is_asked_about_before_the_next():
    environment, arm, hands = table()
    environment.reset(0, START)
    arm.holds[arm.motions + 1] = LIMIT
    step = environment.step(act(1))
    assert step.terminated[0] and not step.success[0] and environment.stops == 1
    assert len(hands.reasons) == 1, "nobody is asked before the next episode"
    environment.reset(0, START)
    assert hands.reasons[1:] == [LIMIT]


def test_a_reset_that_limits_stop_again_and_again_is_given_up():
    environment, arm, hands = table(dict.fromkeys(range(1, 100), LIMIT))
    with pytest.raises(ArmStopped, match="free the tool"):
        environment.reset(0, START)
    assert len(hands.reasons) == RESET_ATTEMPTS and not set(MOTIONS) & set(arm.events)


def test_a_stop_of_the_controller_ends_the_session():
    environment, arm, _ = table()
    environment.reset(0, START)
    arm.is_stopped = True
    arm.holds[arm.motions + 1] = LIMIT
    with pytest.raises(ArmStopped):
        environment.step(act(1))


def test_somebody_who_was_away_is_named_once_with_the_time():
    environment, arm, hands = table()
    environment.reset(0, START)
    environment.hold("weights: no connection for 61 s (bound 60 s)")
    environment.hold("guide: an answer took 2 s")
    arm.held = "the arm has stood still for 27.0 s"
    environment.reset(0, START)
    away = "weights: no connection for 61 s (bound 60 s); it was held for 0 s"
    assert hands.reasons[1:] == [f"{away}; the arm has stood still for 27.0 s"]
    environment.reset(0, START)
    assert len(hands.reasons) == 2


@pytest.mark.parametrize(
    ("verdict", "success", "failure"), [(Outcome.SUCCESS, True, False), (Outcome.FAILURE, False, True)]
)
def test_a_verdict_ends_the_episode(verdict, success, failure):
    environment, _, hands = table()
    environment.reset(0, START)
    assert not environment.step(act()).terminated[0]
    hands.verdict = verdict
    steps = 1
    while not (step := environment.step(act())).terminated[0]:
        steps += 1
    assert (step.success[0], step.reward[0]) == (success, float(success))
    assert steps == (1 if failure else TASK.success_steps)


@given(
    holds=st.dictionaries(st.integers(1, 40), st.sampled_from(["silence", LIMIT, "standstill"]), max_size=8),
    away=st.sets(st.integers(0, 5)),
    closing=st.lists(st.booleans(), min_size=6, max_size=6),
)
@settings(deadline=None, max_examples=200)
def test_nothing_moves_between_a_hold_and_an_answer(holds, away, closing):
    """`Arm`, `Gripper` and `release` check every call."""
    environment, _, hands = table(holds)
    for episode in range(6):
        if episode in away:
            environment.hold("weights: away")
        asked = len(hands.reasons)
        try:
            environment.reset(0, START)
        except ArmStopped:
            assert LIMIT in holds.values()
            return
        assert len(hands.reasons) > asked or episode not in away
        for is_closing in (False, closing[episode], False):
            if environment.step(act(0.5, grip=-1.0 if is_closing else 1.0)).terminated[0]:
                break


def test_an_action_that_is_no_number_is_refused():
    environment, arm, _ = table()
    with pytest.raises(InputError, match="7 finite numbers"):
        environment.step(act(np.nan))
    assert arm.events == []
