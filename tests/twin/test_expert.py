"""This module tests experts in hand-made situations, and how often they succeed in the twin."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import situation

from twin import tasks
from twin.env import trials
from twin.randomize import DEMONSTRATION_DISTURBANCE, DOMAINS
from twin.tasks.expert import wrapped

PICK, HEXAGON = tasks.get("pick_and_place"), tasks.get("insert_hexagon_block")
TARGET = (-0.39, 0.0, 0.001)


def pick(tool, cube, *, opening=1.0, closing=False):
    bodies = {"cube": cube, "target": TARGET}
    return PICK.expert(situation(bodies=bodies, tool=tool, opening=opening, closing=closing))[0]


def test_the_expert_reaches_closes_carries_and_releases():
    cube = (-0.55, 0.10, 0.018)
    reach = pick((-0.55, 0.0, 0.15), cube)
    assert reach[1] == 1 and reach[6] == 1
    assert pick((-0.55, 0.10, 0.016), cube)[6] == -1
    carry = pick((-0.55, 0.10, 0.05), (-0.55, 0.10, 0.052), opening=0.43, closing=True)
    assert carry[2] > 0.5 and carry[0] > 0 and carry[6] == -1
    over = pick((-0.39, 0.0, 0.016), (-0.39, 0.0, 0.02), opening=0.43, closing=True)
    assert over[6] == 1 and np.allclose(over[:3], 0)
    leave = pick((-0.39, 0.0, 0.016), (-0.39, 0.0, 0.018), opening=0.7)
    assert leave[2] == 1 and leave[6] == 1


def test_the_expert_reopens_after_a_missed_grasp():
    action = pick((-0.50, 0.10, 0.016), (-0.55, 0.10, 0.018), opening=0.0, closing=True)
    assert action[2] == 1 and action[6] == 1


def test_the_reach_has_no_jumps():
    cube = np.array([-0.55, 0.10, 0.018])
    offsets = np.linspace(0, 0.1, 200)
    heights = [pick(cube + np.array([0, d, 0.05]), cube)[2] for d in offsets]
    assert np.abs(np.diff(heights)).max() < 0.1


def insert(tool, block, *, yaw=0.0, **grip):
    bodies = {"block": block, "socket": (-0.39, 0.0, 0.0, 0.1)}
    return HEXAGON.expert(situation(bodies=bodies, tool=tool, tool_yaw=yaw, **grip))[0]


def test_the_fingers_turn_the_shorter_way_to_the_next_pair_of_flats():
    tool = (-0.55, 0.10, 0.10)
    assert insert(tool, (-0.55, 0.10, 0.025, 0.2))[5] == pytest.approx(1)
    assert insert(tool, (-0.55, 0.10, 0.025, 0.2 + np.pi / 3))[5] == pytest.approx(1)
    assert insert(tool, (-0.55, 0.10, 0.025, -0.05))[5] == pytest.approx(-0.5)
    assert abs(insert(tool, (-0.55, 0.10, 0.025, 0.2), yaw=0.2)[5]) < 1e-6


def test_the_held_block_is_turned_like_the_socket_before_it_goes_down():
    held = {"opening": 0.47, "closing": True, "yaw": -0.2}
    skewed = insert((-0.39, 0.0, 0.055), (-0.39, 0.0, 0.05, -0.2), **held)
    assert skewed[5] == pytest.approx(1) and skewed[2] > -0.15
    straight = insert((-0.39, 0.0, 0.055), (-0.39, 0.0, 0.05, 0.1), **held)
    assert abs(straight[5]) < 1e-6 and straight[2] < -0.3


def test_the_height_over_the_socket_has_no_jumps():
    offsets = np.linspace(0, 0.1, 300)
    heights = [
        insert((-0.39, d, 0.06), (-0.39, d, 0.055, 0.1), opening=0.47, closing=True, yaw=0.1)[2] for d in offsets
    ]
    assert np.abs(np.diff(heights)).max() < 0.2


@given(st.floats(-20, 20), st.sampled_from([np.pi / 3, np.pi / 2, 2 * np.pi]))
def test_wrapped_angles_are_near_zero_and_the_same(angle, period):
    short = float(wrapped(np.array(angle), period))
    assert abs(short) <= period / 2 + 1e-9
    assert abs(round((angle - short) / period) * period - (angle - short)) < 1e-9


@pytest.mark.parametrize("region", ["A", "B"])
@pytest.mark.parametrize("name", tasks.names())
def test_experts_succeed_in_spite_of_disturbance_and_latency(name, region):
    """`twinrl bench twin --parts experts` does it with 100 starts."""
    domain = replace(DOMAINS["twin"], disturbance=DEMONSTRATION_DISTURBANCE)
    assert trials(tasks.get(name), domain, region, 20, seed=1).successes >= 19


@pytest.mark.parametrize("name", tasks.names())
def test_experts_succeed_in_the_world_that_stands_in_for_the_arm(name):
    assert trials(tasks.get(name), DOMAINS["standin"], "A", 20, seed=2).successes >= 19
