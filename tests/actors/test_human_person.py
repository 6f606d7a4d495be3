"""A person with a device demonstrates and takes over on the arm in this process: from a device's bytes to segments."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hand import HANDS, TOWARDS_ROBOT, Driver, GamepadHand, SpaceMouseHand
from keyboard import Keyboard

from actors import EpisodeLoop, EpisodeRecorder, EpisodeTags
from actors.guides import ListGuide
from actors.human import Person, PersonSettings, TakeoverSettings
from actors.human.devices import Button
from actors.interfaces import Decision
from actors.policies import NoPolicy
from actors.real.stream import StreamLimiter
from actors.real.table.hands import PersonHands
from actors.real.table.terminal import Terminal
from benchmarks.operator.inside import InsideRobot
from protos.errors import InputError
from protos.schema import SEGMENT_STEPS, Outcome, Schema, Source
from twin import labs, tasks
from twin.rotations import TOOL_DOWN, about_z
from twin.scene import synthetic_scene

TASK = tasks.get("pick_and_place")
TINY = Schema(side_px=16, wrist_px=16)
TAGS = EpisodeTags(actor="a", incarnation="i", task=TASK.name, scene="", instruction="", source=Source.REAL)
SCALES = {"keyboard": 0.34}
"""A key is all or nothing: its steps have to be small."""


class Kept:
    """A sink that keeps segments."""

    def __init__(self):
        self.segments = []

    def add(self, segment):
        self.segments.append(segment)


@pytest.fixture(params=HANDS)
def hand(request):
    hand = HANDS[request.param]()
    yield hand
    hand.close()


def table(stream_hz=10.0):
    scene = synthetic_scene(spacing_m=0.05)
    return InsideRobot(scene, TASK, labs.get("1003", TASK), TINY, seed=0, sees=False, stream_hz=stream_hz)


def starts(count):
    return TASK.space.spread(np.random.default_rng(0), region="A", rollouts=count)


def run(robot, policy, operator, count, steps=np.inf):
    guide, sink = ListGuide(starts(count)), Kept()
    loop = EpisodeLoop(robot.environment, policy, guide, EpisodeRecorder(TAGS), sink, operator)
    loop.run(lambda: loop.stats.steps > steps)
    return guide.results, sink.segments, loop.stats


def test_a_person_demonstrates_by_a_device_as_the_expert_does(hand):
    robot = table()
    expert = robot.operator(TakeoverSettings(always=True))
    settings = PersonSettings(scale=SCALES.get(hand.kind, 1.0))
    driver = Driver(hand, expert, robot.environment, settings=settings)
    results, segments, _ = run(robot, NoPolicy(), driver, 2)
    assert [result.outcome for result in results] == [Outcome.SUCCESS] * 2
    assert all(segment.human.all() for segment in segments)


class Drifting:
    """A policy that moves in one direction, fingers open, and notes the versions of what it decided."""

    window = 1

    def __init__(self, *direction):
        self._action = np.array([[*direction, *np.zeros(6 - len(direction)), 1.0]], np.float32)

    def ready(self):
        return ""

    def act(self, observation, pad=None):
        return Decision(action=self._action.copy(), embedding=None, version=7, backbone_id="")


class Planned:
    """A person who holds the deadman in planned steps of the episode and deflects the axes as planned."""

    def __init__(self, hand, robot, plan, **settings):
        self.hand, self._plan, self.lost_at = hand, plan, np.inf
        self.person = Person(hand.open, replace(TOWARDS_ROBOT, **settings), always=False, say=lambda text: None)
        self.person.robot = robot

    def override(self, slot, step, observation):
        wish = self._plan.get(step)
        if step < self.lost_at:
            self.hand.wish(np.zeros(6) if wish is None else np.array(wish, float), held=wish is not None)
        elif step == self.lost_at:
            self.hand.unplug()
        return self.person.override(slot, step, observation)


def practise(robot, policy, operator):
    """Runs an episode for the steps of its first segment; returns their actions and human mask."""
    _, (segment,), _ = run(robot, policy, operator, 1, SEGMENT_STEPS)
    return segment.action, segment.human


RIGHT, AWAY, UP = (1, 0, 0, 0, 0, 0), (0, 1, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0)


def test_a_correction_of_one_step_is_executed_whole_and_stored_as_human(hand):
    robot = table()
    operator = Planned(hand, robot.environment, {5: UP}, scale=0.3)
    actions, human = practise(robot, Drifting(0, 0.02), operator)
    assert np.flatnonzero(human).tolist() == [5]
    np.testing.assert_allclose(actions[5, :3], [0, 0, 0.3], atol=1e-3)
    np.testing.assert_allclose(actions[[4, 6], :3], [[0, 0.02, 0]] * 2, atol=1e-3)


@pytest.mark.parametrize("lost", ["released", "unplugged"])
def test_a_command_is_gone_in_the_next_control_step(hand, lost):
    robot = table()
    held, reasons = dict.fromkeys(range(3, 6), RIGHT), []
    operator = Planned(hand, robot.environment, held, scale=0.3)
    if lost == "unplugged":
        operator.lost_at = 6
    robot.table.go_on = reasons.append
    actions, human = practise(robot, Drifting(0, 0, 0.02), operator)
    assert np.flatnonzero(human).tolist() == [3, 4, 5]
    assert np.abs(actions[6:, :2]).max() < 1e-6, "nothing of the person's is left"
    assert bool(reasons) == (lost == "unplugged")
    if reasons:
        assert "unplugged" in reasons[0] or "closed" in reasons[0]


@pytest.fixture
def streamed(monkeypatch):
    """Provides the targets that are streamed: robot time and position."""
    targets, next_target = [], StreamLimiter.next

    def noted(limiter, goal, *, now_s, **arguments):
        pose = next_target(limiter, goal, now_s=now_s, **arguments)
        targets.append((now_s, *pose[:3]))
        return pose

    monkeypatch.setattr(StreamLimiter, "next", noted)
    return targets


@pytest.mark.parametrize("stream_hz", [50.0, 125.0])
def test_nothing_jumps_when_the_arm_changes_hands(stream_hz, streamed):
    """The policy goes one way at full speed, the person the other way at full speed, and back, and for one step."""
    hand, robot = SpaceMouseHand(), table(stream_hz)
    plan = dict.fromkeys(range(3, 6), (1, 0, 0, 0, 0, 0)) | {10: UP}
    actions, human = practise(robot, Drifting(0, 1.0), Planned(hand, robot.environment, plan))
    hand.close()
    assert np.flatnonzero(human).tolist() == [3, 4, 5, 10]
    np.testing.assert_allclose(actions[3, :3], [0, -1, 0], atol=0.02)
    np.testing.assert_allclose(actions[10, :3], [0, 0, 1], atol=0.02)
    t, places = np.array(streamed)[:, 0], np.array(streamed)[:, 1:]
    first = np.searchsorted(t, t[-1] - 1.69)  # the episode's 17 steps
    ways = np.diff(places[first:], axis=0)[int(0.25 * stream_hz) : int(1.5 * stream_hz)]
    off_course_m = np.linalg.norm(np.diff(ways, axis=0), axis=1)
    period_s = np.median(np.diff(t[first:]))
    assert off_course_m.max() < 0.005 and (off_course_m / period_s).max() < 0.1


class Judging(Planned):
    """A person who presses buttons in planned steps, of one attempt after another."""

    def __init__(self, hand, robot, *presses):
        super().__init__(hand, robot.environment, dict.fromkeys(range(1000), UP), scale=0.02)
        self._presses, self.reasons = [None, *presses], []
        robot.environment._hands = PersonHands(self, self.person, None)
        self.place_objects, self._judge = robot.table.place, robot.table.judge
        self.placed = []

    def override(self, slot, step, observation):
        if step == 0:
            self._presses.pop(0)
        if self._presses and step == 3:
            self.hand.press(self._presses[0])
        return super().override(slot, step, observation)

    def place(self, configuration):
        self.hand.press(Button.SUCCESS)  # before the attempt: it judges nothing
        self.placed.append(configuration)
        self.place_objects(configuration)

    def go_on(self, reason):
        self.reasons.append(reason)

    def judge(self):
        return self._judge()


@pytest.fixture
def pad():
    hand = GamepadHand()
    yield hand
    hand.close()


def test_a_person_judges_discards_and_records_again_by_buttons(pad):
    robot = table()
    person = Judging(pad, robot, Button.RERECORD, Button.DISCARD, Button.FAILURE, Button.SUCCESS)
    results, segments, stats = run(robot, Drifting(0, 0), person, 3)
    assert [result.outcome for result in results] == [Outcome.FAILURE, Outcome.SUCCESS]
    assert person.placed == [starts(3)[k] for k in (0, 0, 1, 2)]
    assert stats.dropped == 2 and len({segment.episode for segment in segments}) == 2
    assert all(segment.human.all() and segment.first_step == 0 for segment in segments)


def test_a_pause_holds_the_arm_until_the_operator_says_go(pad):
    robot = table()
    person = Judging(pad, robot, Button.PAUSE)
    actions, _ = practise(robot, Drifting(0, 0), person)
    assert len(person.reasons) == 1 and person.reasons[0].startswith("paused by its person")
    assert not actions[3, :6].any() and actions[4, 2] > 0, "the action that was due is dropped; then the person goes on"


def test_a_person_takes_the_time_it_takes(pad):
    robot = table()
    practised = Planned(pad, robot.environment, dict.fromkeys(range(20, 150), UP), scale=0.02)
    (result,), segments, _ = run(robot, Drifting(0, 0), practised, 1)
    assert result.outcome is Outcome.TIMEOUT and result.human_steps == 130
    assert result.steps == TASK.max_steps + 130 and len({segment.episode for segment in segments}) == 1


def test_while_a_demonstrator_is_away_the_arm_stands_and_nothing_is_recorded(pad):
    robot, looks = table(), []
    driver = Driver(pad, robot.operator(TakeoverSettings(always=True)), robot.environment, wants=lambda step: step < 5)
    places = []

    def is_away():
        if driver.person.is_away() and len(looks) < 20:
            looks.append(0)
            places.append(robot.environment.commanded)
            return True
        pad.wish(np.zeros(6))
        return driver.person.is_away()

    robot.environment.is_away = is_away
    _, _, stats = run(robot, NoPolicy(), driver, 1, 8)
    assert len(looks) == 20 and stats.steps == 9
    assert np.ptp(places[-15:], axis=0).max() < 1e-9


def test_words_at_the_terminal_judge_for_a_device_of_few_buttons():
    hand, keyboard, robot = SpaceMouseHand(), Keyboard(), table()
    terminal = Terminal(keyboard.slave, keyboard.slave)
    operator = Planned(hand, robot.environment, {})
    hands = PersonHands(robot.table, operator.person, terminal)
    keyboard.type("f\n")
    assert hands.judge() is Outcome.RUNNING, "typed before the attempt"
    place = keyboard.wait_for("s success, f failure, d discard, r rerecord, p pause")
    keyboard.type("x\ns\n")
    while hands.judge() is Outcome.RUNNING:
        time.sleep(0.001)
    keyboard.wait_for('"x": ignored', after=place)
    assert hands.judge() is Outcome.SUCCESS
    hand.close()
    keyboard.close()


@pytest.mark.parametrize(
    ("frame", "facing_deg", "turned", "expected"),
    [
        ("base", 0.0, 0.0, [0, -1, 0]),  # right of somebody who looks along +x
        ("base", 90.0, 0.0, [1, 0, 0]),
        ("base", 180.0, 0.5, [0, 1, 0]),
        ("tool", 0.0, 0.0, [0, -1, 0]),
        ("tool", 0.0, np.pi / 2, [1, 0, 0]),
        ("tool", 90.0, np.pi / 2, [0, 1, 0]),
    ],
)
def test_right_is_where_the_person_or_the_tool_has_it(frame, facing_deg, turned, expected):
    hand = SpaceMouseHand()
    robot = SimpleNamespace(commanded_rotation=about_z(turned) @ TOOL_DOWN, is_closing=False, is_by_person=False)
    settings = PersonSettings(frame=frame, facing_deg=facing_deg, scale=0.4, turn_scale=0.2)
    person = Person(hand.open, settings, always=False, say=lambda text: None)
    person.robot = robot
    hand.wish([1, 0, 0, 1, 0, 0])
    action = person.override(0, 0, None)
    np.testing.assert_allclose(action[:3], 0.4 * np.array(expected), atol=1e-6)
    np.testing.assert_allclose(action[3:6], 0.2 * np.array(expected), atol=1e-6)
    assert action[6] == 1 and robot.is_by_person
    hand.close()


def test_the_fingers_stay_as_they_were_told_until_the_button(pad):
    robot = SimpleNamespace(commanded_rotation=TOOL_DOWN, is_closing=True, is_by_person=False)
    person = Person(pad.open, PersonSettings(), always=False, say=lambda text: None)
    person.robot = robot
    pad.press(Button.GRIPPER)  # nobody acts
    assert person.override(0, 0, None) is None
    pad.wish(np.zeros(6))
    assert [person.override(0, step, None)[6] for step in range(3)] == [-1] * 3
    pad.press(Button.GRIPPER)
    assert [person.override(0, step, None)[6] for step in range(3)] == [1] * 3


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"turn_scale": 2.0}, {"facing_deg": float("nan")}])
def test_settings_are_checked(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        PersonSettings(**wrong)
