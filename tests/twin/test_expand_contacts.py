"""This module tests which part of a demonstration belongs to which body."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from expansion_samples import OLD, configuration, demonstration, episode

from protos.errors import InputError
from protos.proprioception import TOOL_DOWN_VECTOR
from protos.schema import GRIPPER_ACTION
from twin.expand import Demonstration, contacts
from twin.expand.path import ToolPath

RADIUS_M = 0.06


def recorded(positions, closed):
    """Returns proprioception and actions as an episode has them."""
    proprio = np.zeros((len(positions), 25), np.float32)
    proprio[:, :3], proprio[:, 3:6] = positions, TOOL_DOWN_VECTOR
    action = np.zeros((len(positions) - 1, 7), np.float32)
    action[:, GRIPPER_ACTION] = np.where(closed[:-1], -1, 1)
    return proprio, action


def test_a_grasp_belongs_to_the_object_and_a_release_to_the_target(task):
    shown = demonstration()
    start, grasp, release = contacts(shown, task, RADIUS_M)
    assert [(each.kind, each.anchor) for each in (start, grasp, release)] == [
        ("start", "tool"),
        ("grasp", "cube"),
        ("release", "target"),
    ]
    assert (start.first, start.last) == (0, 0)
    assert release.last == len(shown.path) - 1
    for each, place in ((grasp, OLD["cube"]), (release, OLD["target"])):
        assert shown.path.closed[each.event] != shown.path.closed[each.event - 1]
        np.testing.assert_allclose(each.anchors[each.anchor][:3, 3], place[:3])
        away = np.linalg.norm(shown.path.positions - shown.path.positions[each.event], axis=1)
        assert away[each.first : each.event].max() <= RADIUS_M < away[each.first - 1]


def test_contacts_are_apart_even_when_grasp_and_target_are_close(task):
    shown = demonstration(target=(-0.52, 0.10, 0.001, 0.0))
    found = contacts(shown, task, radius_m=0.5)
    assert all(a.last < b.first for a, b in pairwise(found))
    assert all(each.first <= each.event <= each.last for each in found)


def wiping(task, **marks):
    """The gripper stays closed and carries the cube over marks, each at a share of the way."""
    shown = demonstration()
    path = shown.path.part(0, int(np.flatnonzero(shown.path.closed)[-1]))
    carried = path.positions[np.flatnonzero(path.closed)]
    places = {name: carried[round(share * (len(carried) - 1))] for name, share in marks.items()}
    poses = {name: (*place[:2], 0.0, 0.0) for name, place in places.items()}
    made = Demonstration(name="wipe", configuration=configuration(**poses), path=path)
    return made, replace(task, fixed_bodies=tuple(marks))


def test_what_is_held_may_visit_bodies_and_never_let_go(task):
    shown, several = wiping(task, far=0.68, near=0.35)
    found = contacts(shown, several, 0.03)
    assert [(each.kind, each.anchor) for each in found[2:]] == [("visit", "near"), ("visit", "far")]
    assert found[-1].last == len(shown.path) - 1


def test_bodies_that_lie_together_are_visited_at_once(task):
    shown, several = wiping(task, far=0.68, last=0.62, near=0.35)
    found = contacts(shown, several, 0.03)
    assert [list(each.anchors) for each in found[2:]] == [["near"], ["last", "far"]]
    assert found[-1].event < found[-1].until <= found[-1].last


def test_a_missed_grasp_is_not_taken_for_one(task):
    shown = demonstration()
    closed = shown.path.closed.copy()
    grasp = int(np.flatnonzero(closed)[0])
    closed[grasp - 3] = True  # closes on the way, for one step
    made = Demonstration.of(episode("missed", shown.configuration, *recorded(shown.path.positions, closed)))
    assert [each.kind for each in contacts(made, task, RADIUS_M)] == ["start", "grasp", "release"]
    assert not made.path.closed[grasp - 3]


def test_an_episode_becomes_a_path(task):
    shown = demonstration()
    made = Demonstration.of(episode("d", shown.configuration, *recorded(shown.path.positions, shown.path.closed)))
    np.testing.assert_allclose(made.path.positions, shown.path.positions, atol=1e-6)
    np.testing.assert_allclose(made.path.rotations, shown.path.rotations, atol=1e-6)
    np.testing.assert_array_equal(made.path.closed, shown.path.closed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, a: (p, a[:-1]), "one more|observation more"),
        (lambda p, a: (p * np.nan, a), "NaN"),
        (lambda p, a: (p, np.where(np.arange(7) == GRIPPER_ACTION, -1, a)), "begins with the gripper closed"),
    ],
)
def test_episodes_that_are_no_demonstrations_are_refused(change, message):
    shown = demonstration()
    proprio, action = change(*recorded(shown.path.positions, shown.path.closed))
    with pytest.raises(InputError, match=message):
        Demonstration.of(episode("bad", shown.configuration, proprio, action))


def test_an_episode_without_poses_is_refused():
    shown = demonstration()
    with pytest.raises(InputError, match="where the objects were"):
        nowhere = replace(shown.configuration, poses={})
        Demonstration.of(episode("d", nowhere, *recorded(shown.path.positions, shown.path.closed)))


def test_a_path_without_a_grasp_or_with_one_in_the_air_is_refused(task):
    shown = demonstration()
    open_path = ToolPath(
        positions=shown.path.positions,
        rotations=shown.path.rotations,
        closed=np.zeros(len(shown.path), bool),
    )
    with pytest.raises(InputError, match="never closes"):
        contacts(replace(shown, path=open_path), task, RADIUS_M)
    elsewhere = replace(shown, configuration=configuration(cube=(-0.55, -0.19, 0.018, 0.0)))
    with pytest.raises(InputError, match=r"grasps at step \d+, farther than 0.12 m from cube"):
        contacts(elsewhere, task, RADIUS_M)


def test_a_grasp_that_slips_on_the_way_is_refused(task):
    """The object then lies where nobody has seen it."""
    shown = demonstration()
    closed = shown.path.closed.copy()
    slip = int(np.flatnonzero(closed)[0]) + 4
    closed[slip : slip + 3] = False
    slipped = replace(shown, path=replace(shown.path, closed=closed))
    with pytest.raises(InputError, match=rf"lets go at step {slip}, farther than 0.12 m from target"):
        contacts(slipped, task, RADIUS_M)
