"""This module tests how demonstrated paths are moved to other poses and timed in control steps."""

from dataclasses import replace

import numpy as np
import pytest
from expansion_samples import OLD, configuration, demonstration
from hypothesis import given
from hypothesis import strategies as st

from twin import tasks
from twin.camera import pose_of
from twin.expand import contacts
from twin.expand.path import ToolPath, angle_between, evenly, no_faster, slerp, steps_between
from twin.expand.transfer import anchor_moves, bent, group_move
from twin.rotations import TOOL_DOWN, about_z, matrix_from_vector, yaw_of

TASK = tasks.get("pick_and_place")
TURNING = replace(TASK, action_scale=(0.03, 0.2))
places = st.tuples(st.floats(-0.62, -0.48), st.floats(-0.20, 0.20))
yaws = st.floats(-3.1, 3.1)
vectors = st.tuples(*[st.floats(-2, 2)] * 3).map(np.array)


def moved(new, task=TASK, **symmetries):
    task = replace(task, symmetries=symmetries)
    shown = demonstration()
    found = contacts(shown, task, 0.06)
    return shown, found, bent(shown.path, found, anchor_moves(shown, found, task, new))


def test_the_same_configuration_gives_the_same_path():
    shown, _, path = moved(configuration())
    np.testing.assert_allclose(path.positions, shown.path.positions, atol=1e-9)
    np.testing.assert_allclose(path.rotations, shown.path.rotations, atol=1e-9)
    np.testing.assert_array_equal(path.closed, shown.path.closed)


@given(places, yaws, places, yaws)
def test_contacts_keep_their_path_relative_to_their_body(cube, cube_yaw, target, target_yaw):
    new = configuration(cube=(*cube, 0.018, cube_yaw), target=(*target, 0.001, target_yaw))
    shown, (start, grasp, release), path = moved(new, TURNING)
    np.testing.assert_allclose(path.positions[0], OLD["tool"][:3], atol=1e-9)
    for contact, body in ((grasp, "cube"), (release, "target")):
        turn = about_z(new.poses[body][3] - OLD[body][3])
        rows = slice(contact.first, contact.last + 1)
        expected = (shown.path.positions[rows] - OLD[body][:3]) @ turn.T + new.poses[body][:3]
        np.testing.assert_allclose(path.positions[rows], expected, atol=1e-9)
        np.testing.assert_allclose(path.rotations[rows], turn @ shown.path.rotations[rows], atol=1e-9)
    assert start.last < grasp.first


@given(yaws, st.sampled_from([1, 2, 4, 6]))
def test_a_symmetric_body_is_met_the_way_that_turns_the_tool_least(yaw, fold):
    _, (_, grasp, _), path = moved(configuration(cube=(-0.5, 0.1, 0.018, yaw)), TURNING, cube=fold)
    turned = float(yaw_of(path.rotations[grasp.event] @ TOOL_DOWN.T))
    assert abs(turned) <= np.pi / fold + 1e-6
    rest = (turned - yaw) * fold / (2 * np.pi)
    assert rest == pytest.approx(round(rest), abs=1e-6)


def test_between_contacts_the_tool_goes_over_evenly_and_turns_the_short_way():
    new = configuration(cube=(-0.5, -0.15, 0.018, 3.0), target=(-0.38, 0.02, 0.001, -3.0))
    _, (_, grasp, release), path = moved(new, TURNING)
    between = path.rotations[grasp.last : release.first + 1]
    assert angle_between(between[0], between[-1]) == pytest.approx(2 * np.pi - 6.0, abs=1e-6)
    turns = angle_between(between[1:], between[:-1])
    np.testing.assert_allclose(turns, turns.mean(), rtol=1e-6)


def test_bodies_that_lie_together_are_followed_by_their_middle_and_mean_turn():
    """Three marks that moved apart by different ways: their middle by (2, 3) cm, their turns 0.1, 0.2, 0.3."""
    old = {f"m{k}": pose_of((0.1 * k, 0.0, 0.01), np.eye(3)) for k in range(3)}
    moves = [(0.0, 0.0), (0.02, 0.06), (0.04, 0.03)]
    new = {f"m{k}": pose_of((0.1 * k + x, y, 0.01), about_z(0.1 * (k + 1))) for k, (x, y) in enumerate(moves)}
    move = group_move(old, new)
    np.testing.assert_allclose(move[:3, :3], about_z(0.2), atol=1e-9)
    np.testing.assert_allclose(move @ [0.1, 0, 0.01, 1], [0.12, 0.03, 0.01, 1], atol=1e-9)


def test_a_second_grasp_finds_the_object_where_the_first_release_left_it():
    """The cube goes to the target, is taken up again and put beside it."""
    first = demonstration()
    again = demonstration(
        tool=(*first.path.positions[-1], 0.0),
        cube=(OLD["target"][0], OLD["target"][1], 0.018, 0.0),
        target=(-0.45, -0.05, 0.001, 0.0),
    )
    path = ToolPath(
        positions=np.concatenate([first.path.positions, again.path.positions]),
        rotations=np.concatenate([first.path.rotations, again.path.rotations]),
        closed=np.concatenate([first.path.closed, again.path.closed]),
    )
    twice, task = replace(first, path=path), replace(TASK, fixed_bodies=("target",))
    new = configuration(cube=(-0.5, 0.15, 0.018, 0.0), target=(-0.40, 0.03, 0.001, 0.0))
    found = contacts(twice, task, 0.06)
    assert [each.kind for each in found] == ["start", "grasp", "release", "grasp", "release"]
    result = bent(path, found, anchor_moves(twice, found, task, new))
    np.testing.assert_allclose(result.positions[found[3].event][:2], new.poses["target"][:2], atol=1e-9)


@given(vectors, vectors, st.floats(0, 1))
def test_slerp_ends_where_it_should_and_turns_evenly(a, b, share):
    first, last = matrix_from_vector(a), matrix_from_vector(b)
    start, middle, end = slerp(first, last, np.array([0, share, 1]))
    np.testing.assert_allclose(start, first, atol=1e-9)
    np.testing.assert_allclose(end, last, atol=1e-9)
    whole = float(angle_between(first, last))
    if whole < 3.1:  # beyond, the shortest way is not unique
        assert float(angle_between(first, middle)) == pytest.approx(share * whole, abs=1e-6)


@given(st.floats(0.1, 1.0), st.sampled_from([(0.03, 0.1), (0.01, 0.05), (0.03, 0.0)]))
def test_even_steps_stay_below_the_speed_and_keep_both_ends(speed, scale):
    path = demonstration().path
    timed = evenly(path, scale, speed)
    sizes = steps_between(timed, scale)
    assert sizes.max() <= speed + 1e-9
    for end in (0, -1):
        np.testing.assert_allclose(timed.positions[end], path.positions[end], atol=1e-9)


def test_contacts_are_slowed_down_where_they_ask_too_much_and_left_alone_elsewhere():
    path = demonstration().path
    assert len(no_faster(path, (0.02, 0.0))) == len(path)
    slow = no_faster(path, (0.007, 0.0))
    assert steps_between(slow, (0.007, 0.0)).max() <= 1 + 1e-9
    assert len(slow) > 2 * len(path)
    assert slow.closed.sum() > path.closed.sum()
