"""Profiles, delay and gain of the simulated arm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.simulated_ur.motion import Move, Servo, SimulatedArm, Speed, Stop

START, GOAL = np.zeros(6), np.full(6, 0.3)
positive = st.floats(0.05, 3.0)


@given(length=positive, speed=positive, acceleration=positive)
def test_a_move_keeps_to_speed_and_acceleration_and_arrives(length, speed, acceleration):
    move = Move(lambda share: START + share, length=length, speed=speed, acceleration=acceleration)
    times = np.linspace(0, move.duration_s, 400)
    way = length * np.array([move.travelled(t) for t in times])
    velocity = np.diff(way) / np.diff(times)
    assert way[0] == pytest.approx(0) and way[-1] == pytest.approx(length)
    assert velocity.min() >= -1e-9 and velocity.max() <= speed * (1 + 1e-9)
    assert np.abs(np.diff(velocity) / np.diff(times)[:-1]).max() <= acceleration * (1 + 1e-6)


def test_a_short_move_is_a_triangle():
    move = Move(lambda share: START + share, length=0.1, speed=10.0, acceleration=1.0)
    assert move.duration_s == pytest.approx(2 * np.sqrt(0.1))


def test_a_move_of_no_length_is_over_at_once():
    move = Move(lambda share: START + share, length=0.0, speed=1.0, acceleration=1.0)
    assert move.travelled(0.0) == 1.0 and move.done(0.0, 0.0)


def test_servo_targets_are_heard_late():
    servo = Servo(START, delay_s=0.2, gain=1.0)
    servo.add(0.0, GOAL)
    heard = [servo.target(t, 0.02)[0] for t in np.arange(0.02, 0.3, 0.02)]
    assert heard[:9] == [0.0] * 9 and heard[10:] == [0.3] * 4


@pytest.mark.parametrize("slices", [1, 5, 20])
def test_the_gain_is_the_share_of_the_way_made_in_a_control_step(slices):
    servo = Servo(START, delay_s=0.0, gain=0.85)
    servo.add(0.0, GOAL)
    for i in range(slices):
        reached = servo.target(0.1 * (i + 1) / slices, 0.1 / slices)
    np.testing.assert_allclose(reached, 0.85 * GOAL)


def test_speed_is_approached_at_its_acceleration_and_goes_on_when_it_is_commanded_again():
    speed = Speed(START)
    travelled = []
    for i in range(200):
        if i % 2 == 0:  # streamed at half the rate of the targets
            speed.command(np.full(6, 0.5), acceleration=1.0)
        travelled.append(speed.target(0.01 * (i + 1), 0.01))
    np.testing.assert_allclose(np.diff(travelled, axis=0).max() / 0.01, 0.5)
    np.testing.assert_allclose(travelled[-1], 0.875, atol=0.01)  # half a second up, one and a half flat


@given(speed=st.floats(-2.0, 2.0), seconds=st.floats(0.01, 1.0))
def test_a_stop_brakes_evenly_to_the_rest(speed, seconds):
    stop = Stop(START, np.full(6, speed), np.zeros(6), seconds)
    times = np.linspace(0, 2 * seconds, 201)
    way = np.array([stop.target(t, times[1])[0] for t in times])
    np.testing.assert_allclose(way[-1], speed * seconds / 2, atol=1e-9)
    np.testing.assert_allclose(way[100:], way[-1], atol=1e-9)
    velocity = np.abs(np.diff(way)) / times[1]
    assert velocity.max(initial=0.0) <= abs(speed) + 1e-9 and (np.diff(velocity) <= 1e-9).all()


def test_a_stop_from_the_rest_is_over_at_once():
    stop = Stop(GOAL, np.zeros(6), np.zeros(6), 0.0)
    np.testing.assert_array_equal(stop.target(0.1, 0.1), GOAL)
    assert stop.done(0.0, 0.0)


class Still:
    """A world that does as it is told."""

    def __init__(self):
        self.joints, self.joint_velocities = np.zeros(6), np.zeros(6)

    def set_joint_targets(self, q):
        self._target = np.array(q)

    def advance(self, seconds):
        self.joint_velocities = (self._target - self.joints) / seconds
        self.joints = self._target


class Lagging(Still):
    """A world whose joints follow their targets late."""

    def __init__(self, lag_s):
        super().__init__()
        self._lag_s = lag_s

    def advance(self, seconds):
        for _ in range(100):
            self.joint_velocities = (self._target - self.joints) / self._lag_s
            self.joints = self.joints + self.joint_velocities * seconds / 100


@pytest.mark.parametrize("lag_s", [0.03, 0.08])
def test_joints_that_lag_brake_evenly_too(lag_s):
    arm = SimulatedArm(Lagging(lag_s), fast=True)
    for _ in range(100):
        arm.speed(np.full(6, 0.4), acceleration=4.0)
        arm.clock.grant(0.02)
    arm.stop(0.2)
    speeds = []
    while not arm.is_done:
        speeds.append(arm.world.joint_velocities[0])
        arm.clock.grant(0.02)
    assert (np.diff(speeds) < 1e-3).all() and min(speeds) > -1e-3
    assert abs(arm.world.joint_velocities[0]) < 0.1


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_the_speed_slider_stretches_a_move(share):
    arm = SimulatedArm(Still(), fast=True)
    arm.speed_fraction = share
    move = Move(lambda way: START + way * GOAL, length=0.3, speed=0.5, acceleration=2.0)
    arm.begin(move)
    assert arm.run_to_end()
    np.testing.assert_allclose(arm.target, GOAL)
    assert arm.time_s == pytest.approx(move.duration_s / share, abs=0.1)


def test_the_slider_slows_a_servo_motion_and_at_zero_nothing_moves():
    reached = []
    for share in (1.0, 0.4, 0.0):
        arm = SimulatedArm(Still(), fast=True, gain=(0.85, 0.85))
        arm.speed_fraction = share
        arm.servo(GOAL, 0.1)
        reached.append(arm.target[0])
    assert reached[0] > 1.5 * reached[1] > 0 == reached[2]


def test_the_end_of_a_motion_takes_its_time():
    arm = SimulatedArm(Still(), fast=True)
    arm.speed(np.full(6, 0.5), 5.0)
    for _ in range(20):
        arm.clock.grant(0.02)
    np.testing.assert_allclose(arm.velocity, 0.5)
    before = arm.target
    arm.end_motion()
    arm.run_to_end()
    np.testing.assert_allclose(arm.target - before, 0.5 * 0.1 / 2, atol=1e-9)
    assert not arm.velocity.any()
