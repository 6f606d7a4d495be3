"""Profiles, delay and gain of the simulated arm."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.simulated_ur.motion import Move, Servo, Speed

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


def test_speed_is_approached_at_its_acceleration_and_ends():
    speed = Speed(START, np.full(6, 0.5), acceleration=1.0, duration_s=1.0)
    travelled = [speed.target(t, 0.01) for t in np.arange(0.01, 2.0, 0.01)]
    np.testing.assert_allclose(np.diff(travelled, axis=0).max() / 0.01, 0.5)
    np.testing.assert_allclose(travelled[-1], travelled[-10])
    np.testing.assert_allclose(travelled[-1], 0.5, atol=0.02)  # a trapezium: half a second up, half of it flat, down
