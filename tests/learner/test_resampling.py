"""These tests bring recordings to another rate: nothing that the tool did may be lost, and nothing invented."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lerobot_samples import SCALE, make_episode
from scipy.spatial.transform import Rotation

from learner.datasets import UNKNOWN_SCALE
from learner.datasets.recording import Track, nearest, resampled_episode, resampled_proprio, uniform
from protos.errors import InputError
from protos.proprioception import tool_vector
from protos.schema import Outcome

RATES = st.sampled_from([3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 29.97, 30.0, 50.0])
MOTIONS = st.integers(1, 25).flatmap(
    lambda count: arrays(np.float32, (count, 6), elements=st.floats(-0.25, 0.25, width=32))
)


def composed(turns):
    """Returns what turns on the left, one after the other, come to."""
    total = Rotation.identity()
    for turn in turns:
        total = Rotation.from_rotvec(turn) * total
    return total


@given(MOTIONS, RATES, RATES, st.integers(0, 2**32 - 1))
def test_the_tool_ends_where_it_ended_and_the_gripper_as_it_was_told(motion, recorded, wanted, seed):
    rng = np.random.default_rng(seed)
    gripper = rng.choice([-1.0, 1.0], len(motion)).astype(np.float32)
    times = uniform(len(motion), recorded) + np.append(0, rng.uniform(0, 0.4 / recorded, len(motion)))
    found = Track(times=times, motion=motion, gripper=gripper).resampled(wanted, recorded)
    np.testing.assert_allclose(found.motion[:, :3].sum(0), motion[:, :3].sum(0), atol=1e-5)
    error = composed(found.motion[:, 3:]).inv() * composed(motion[:, 3:])
    assert error.magnitude() < 1e-4
    assert found.gripper[-1] == gripper[-1] and len(found.times) == len(found.motion) + 1
    assert (found.times[0], found.times[-1]) == (times[0], times[-1])
    assert recorded == wanted or np.diff(found.times).max() <= 1.02 / wanted
    assert (np.diff(found.times) > 0).all()


def test_three_steps_become_one():
    motion = np.zeros((6, 6), np.float32)
    motion[:, 0] = [1, 2, 3, 4, 5, 6]
    motion[:3, 3], motion[3:, 5] = 0.2, 0.1
    gripper = np.array([1, 1, -1, -1, 1, 1], np.float32)
    found = Track(times=uniform(6, 30.0), motion=motion, gripper=gripper).resampled(10.0, 30.0)
    np.testing.assert_allclose(found.motion, [[6, 0, 0, 0.6, 0, 0], [15, 0, 0, 0, 0, 0.3]], atol=1e-6)
    assert found.gripper.tolist() == [-1, 1]


def test_turns_about_several_axes_are_composed_and_not_added():
    motion = np.zeros((2, 6), np.float32)
    motion[0, 3], motion[1, 5] = np.pi / 2, np.pi / 2
    found = Track(times=uniform(2, 20.0), motion=motion, gripper=np.ones(2, np.float32)).resampled(10.0, 20.0)
    expected = Rotation.from_rotvec([0, 0, np.pi / 2]) * Rotation.from_rotvec([np.pi / 2, 0, 0])
    np.testing.assert_allclose(found.motion[0, 3:], expected.as_rotvec(), atol=1e-6)
    assert np.linalg.norm(found.motion[0, 3:] - [np.pi / 2, 0, np.pi / 2]) > 0.5


def test_a_rate_that_is_its_own_changes_nothing():
    track = Track(times=uniform(3, 30.0), motion=np.ones((3, 6), np.float32), gripper=np.ones(3, np.float32))
    assert track.resampled(None, 30.0) is track and track.resampled(30.0, 30.0) is track


def test_the_nearest_image_and_the_earlier_of_two():
    times = np.array([0.0, 0.2, 0.4])
    assert nearest(times, np.array([0.0, 0.1, 0.11, 0.2, 0.29, 0.31, 0.4, 0.5])).tolist() == [0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(("hz", "steps", "images"), [(30.0, 12, [0, 3, 6, 9, 12]), (5.0, 3, [0, 0, 1, 1, 2, 2, 3])])
def test_an_episode_of_ours_at_another_rate(hz, steps, images):
    reward = np.zeros(steps, np.float32)
    reward[-1] = 1
    before = make_episode(np.random.default_rng(0), steps=steps, hz=hz, reward=reward)
    after = resampled_episode(before, 10.0, SCALE, None)
    assert (after.hz, after.outcome, after.name) == (10.0, Outcome.SUCCESS, before.name)
    assert after.reward.tolist() == [0] * (after.steps - 1) + [1]
    np.testing.assert_array_equal(after.observation.side, before.observation.side[images])
    wider = SCALE.at_rate(hz, 10.0)
    np.testing.assert_allclose(
        wider.to_motion(after.action)[:, :3].sum(0), SCALE.to_motion(before.action)[:, :3].sum(0), atol=1e-6
    )
    assert resampled_episode(replace(before, hz=10.0), 10.0, SCALE, None).action is before.action
    with pytest.raises(InputError, match=rf"recorded at {hz:g} Hz, 10 Hz are wanted, but the data do not say how far"):
        resampled_episode(before, 10.0, UNKNOWN_SCALE, None)


def test_a_pose_between_two_lies_on_the_shortest_arc_without_a_jump():
    """The tool points down, where its rotation vector has two forms, and turns on through it."""
    turned = Rotation.from_euler("z", np.linspace(-0.3, 0.3, 4)[:, None]) * Rotation.from_euler("x", np.pi)
    proprio = np.zeros((4, 25), np.float32)
    proprio[:, :3], proprio[:, 3:6] = np.arange(4)[:, None], turned.as_rotvec()
    times = np.arange(4) / 5.0
    at = np.arange(7) / 10.0
    found = resampled_proprio(proprio, times, at)
    np.testing.assert_allclose(found[:, 0], np.arange(7) / 2, atol=1e-6)
    expected = Rotation.from_euler("z", np.linspace(-0.3, 0.3, 7)[:, None]) * Rotation.from_euler("x", np.pi)
    np.testing.assert_allclose(found[:, 3:6], tool_vector(expected.as_rotvec()), atol=1e-5)
    assert np.abs(np.diff(found[:, 3:6], axis=0)).max() < 0.3
