"""Robot time runs ahead of the wall clock while commands are executed, and with it otherwise."""

import pytest

from actors.simulated_ur.motion import STALL_S, RobotClock


class Wall:
    def __init__(self):
        self.now_s = 50.0

    def __call__(self):
        return self.now_s


def make(fast=True, cost_s=0.0):
    wall, passed = Wall(), []

    def advance(seconds):
        passed.append(seconds)
        wall.now_s += cost_s

    return wall, passed, RobotClock(advance, fast=fast, now=wall)


def test_real_time_passes_between_commands():
    wall, passed, clock = make()
    wall.now_s += 0.008
    clock.catch_up()
    assert passed == [pytest.approx(0.008)]


def test_a_grant_passes_at_once_and_what_it_takes_does_not_count():
    wall, passed, clock = make(cost_s=0.003)
    clock.grant(0.02)
    clock.catch_up()
    assert passed == [0.02, pytest.approx(0.0)]
    assert wall.now_s == pytest.approx(50.006)


def test_moments_between_streamed_commands_pass_later_and_are_not_lost():
    wall, passed, clock = make(cost_s=0.003)
    for _ in range(3):
        wall.now_s += 0.0008
        clock.catch_up(least_s=0.002)
        clock.grant(0.02)
    assert passed == [0.02, 0.02, pytest.approx(0.0024), 0.02]


def test_in_real_time_every_moment_passes_at_once():
    wall, passed, clock = make(fast=False)
    wall.now_s += 0.0008
    clock.catch_up(least_s=0.002)
    assert passed == [pytest.approx(0.0008)]


def test_without_fast_a_grant_is_nothing():
    _, passed, clock = make(fast=False)
    clock.grant(0.02)
    assert passed == []


def test_a_stalled_computer_makes_no_leap():
    wall, passed, clock = make()
    wall.now_s += 7.0
    clock.catch_up()
    wall.now_s += 0.01
    clock.catch_up()
    assert passed == [STALL_S, pytest.approx(0.01)]
