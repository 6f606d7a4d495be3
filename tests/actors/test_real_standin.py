"""The whole robot side against the stand-in with physics: environment, scripted operator, episodes."""

import numpy as np
import pytest
from standin import standin_process

from actors import EpisodeLoop, EpisodeRecorder, EpisodeTags
from actors.guides import ListGuide
from actors.human import TakeoverSettings
from actors.policies import NoPolicy
from actors.real import ArmSettings, RealSettings, SimulatedLab
from actors.real.robot import Robot
from protos.errors import ArmStopped, InputError
from protos.schema import UNDER_WAY, Outcome, Source
from twin import tasks

pytest.importorskip("rtde_control")
TASK = tasks.get("pick_and_place")


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    with standin_process(tmp_path_factory.mktemp("standin")) as standin:
        yield standin


def settings(standin, **changes):
    arm = ArmSettings(host=standin.host, hold_after_s=1.0, blend=0.3)
    return RealSettings(arm=arm, armed=True, lab=SimulatedLab(timeout_s=30), takeover=TakeoverSettings(), **changes)


@pytest.fixture
def robot(standin):
    """A controller takes commands from one driver at a time."""
    with Robot(settings(standin)) as robot:
        yield robot


def start(region, seed=0):
    return TASK.space.sample(np.random.default_rng(seed), region=region)


def act(*numbers, grip=1.0):
    return np.array([[*numbers, 0, 0, 0, grip]], np.float32)


def test_a_reset_brings_tool_and_objects_to_their_starts(robot, standin):
    configuration = start("B")
    robot.environment.reset(0, configuration)
    observation = robot.environment.observe()
    assert observation.side.shape == observation.wrist.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(observation.proprio[0, :3], configuration.poses["tool"][:3], atol=5e-3)
    np.testing.assert_allclose(observation.proprio[0, 3:6], [2.2214, -2.2214, 0.0], atol=0.02)
    assert observation.proprio[0, 18] == pytest.approx(1.0, abs=0.03)
    np.testing.assert_allclose(robot._poses.objects()["cube"][:2], configuration.poses["cube"][:2], atol=2e-3)


def test_actions_move_the_tool_the_way_they_say(robot):
    robot.environment.reset(0, start("A"))
    before = robot.environment.observe().proprio[0]
    for _ in range(6):
        step = robot.environment.step(act(0.5, -0.5, 0.5, grip=-1.0))
    for _ in range(6):
        robot.environment.step(act(0, 0, 0, grip=-1.0))
    after = robot.environment.observe().proprio[0]
    np.testing.assert_allclose((after - before)[:2], [0.09, -0.09], atol=0.01)
    assert after[2] == pytest.approx(TASK.work_box.z[1], abs=0.005), "up to the top of the work box and no farther"
    np.testing.assert_allclose(step.executed[0, [0, 1, 3, 4, 5, 6]], [0.5, -0.5, 0, 0, 0, -1], atol=1e-6)
    assert step.executed[0, 2] < 0.5, "the action that the limits left"
    assert after[18] < 0.1 and robot.environment.is_closing
    assert not step.terminated[0] and not step.truncated[0]


def test_an_observation_tells_what_the_arm_was_told_and_has_not_done(robot):
    robot.environment.reset(0, start("A"))
    before = robot.environment.observe().proprio[0]
    np.testing.assert_allclose(before[UNDER_WAY], 0, atol=5e-3)
    robot.environment.step(act(1, -1, 0))
    told = robot.environment.observe().proprio[0]
    assert np.linalg.norm(told[UNDER_WAY][:2]) > 0.01, "the stand-in answers a tenth of a second late"
    np.testing.assert_allclose((told[:3] + told[UNDER_WAY][:3] - before[:3])[:2], [0.03, -0.03], atol=5e-3)
    for _ in range(6):
        robot.environment.step(act(0, 0, 0))
    np.testing.assert_allclose(robot.environment.observe().proprio[0, UNDER_WAY], 0, atol=5e-3)


def test_a_nan_action_is_refused_and_moves_nothing(robot):
    robot.environment.reset(0, start("A"))
    before = robot.environment.commanded
    with pytest.raises(InputError, match="7 finite numbers"):
        robot.environment.step(act(np.nan, 0, 0))
    np.testing.assert_array_equal(robot.environment.commanded, before)


class Keep:
    def __init__(self):
        self.segments = []

    def add(self, segment):
        self.segments.append(segment)


def test_the_scripted_operator_picks_and_places_through_the_real_driver(robot):
    guide, sink = ListGuide([start("A", 1), start("B", 2), start("B", 3)]), Keep()
    tags = EpisodeTags(
        actor="r", incarnation="0", task=TASK.name, scene="s", instruction=TASK.instruction, source=Source.REAL
    )
    loop = EpisodeLoop(robot.environment, NoPolicy(), guide, EpisodeRecorder(tags), sink, robot.operator(always=True))
    loop.run(lambda: False)
    assert [result.outcome for result in guide.results] == [Outcome.SUCCESS] * 3
    assert all(result.human_steps == result.steps and result.interventions == 1 for result in guide.results)
    assert sum(segment.steps for segment in sink.segments) == loop.stats.steps
    assert sum(float(segment.reward.sum()) for segment in sink.segments) == 3.0
    widths = np.concatenate([segment.observation.proprio[:, 18] for segment in sink.segments])
    assert widths.min() < 0.6 < 0.9 < widths.max(), "the gripper closed on the cube and opened again"
    assert all(segment.human.all() for segment in sink.segments)


def test_a_policy_that_does_nothing_is_rescued_in_time(robot):
    guide, sink = ListGuide([start("A", 4)]), Keep()
    tags = EpisodeTags(actor="r", incarnation="0", task="t", scene="s", instruction="", source=Source.REAL)
    loop = EpisodeLoop(robot.environment, NoPolicy(), guide, EpisodeRecorder(tags), sink, robot.operator(always=False))
    loop.run(lambda: False)
    (result,) = guide.results
    assert result.outcome is Outcome.SUCCESS and result.interventions >= 1
    assert 0 < result.human_steps < result.steps


def test_with_a_disturbance_the_clean_action_is_stored(standin):
    with Robot(settings(standin), disturbance=0.5) as robot:
        robot.environment.reset(0, start("A", 5))
        before = robot.environment.commanded
        step = robot.environment.step(act(0.5, 0.5, 0.0))
        np.testing.assert_array_equal(step.executed[0, :3], np.float32([0.5, 0.5, 0.0]))
        assert np.abs(robot.environment.commanded - before - [0.015, 0.015, 0.0]).max() > 1e-4


def test_an_unarmed_robot_shows_itself_and_refuses(standin, caplog):
    from dataclasses import replace

    with caplog.at_level("INFO"), pytest.raises(InputError, match="not armed"):
        Robot(replace(settings(standin), armed=False))
    assert "TCP [" in caplog.text


def test_a_protective_stop_in_an_episode(standin):
    with Robot(settings(standin)) as robot:
        robot.environment.reset(0, start("A", 6))
        robot._poses.protective_stop()
        with pytest.raises(ArmStopped, match="protective stop"):
            for _ in range(50):
                robot.environment.step(act(0.2, 0, 0))
    with pytest.raises(ArmStopped, match="PROTECTIVE_STOP"):
        Robot(settings(standin))
