"""Windows of observations per slot, as the learner's batches have them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loop import Policy as Plain
from test_loop import Script, play

from actors.loop import ObservationHistory
from protos.schema import Observation


def numbered(values):
    """Returns an observation per slot that holds the slot's number everywhere."""
    values = np.array(values)
    frame = np.broadcast_to(values[:, None, None, None], (len(values), 2, 2, 3)).astype(np.uint8)
    proprio = np.repeat(values[:, None], 25, axis=1).astype(np.float32)
    return Observation(side=frame, wrist=frame + 100, proprio=proprio)


def shown(windows):
    """Returns the (n, W) numbers in the windows; checks that images and proprioception agree."""
    np.testing.assert_array_equal(windows.side[..., 0, 0, 0], windows.proprio[..., 0])
    np.testing.assert_array_equal(windows.wrist[..., 1, 1, 2], windows.proprio[..., 18] + 100)
    return windows.proprio[..., 7].tolist()


def test_the_first_observation_stands_in_until_there_are_enough():
    history = ObservationHistory(1, 3)
    seen = [history.push(numbered([step])) for step in (5, 6)]
    assert [pad.tolist() for _, pad in seen] == [[[True, True, False]], [[True, False, False]]]
    windows, pad = history.push(numbered([7]))
    assert (shown(windows), pad.tolist()) == ([[5, 6, 7]], [[False] * 3])
    history.begin(0)
    windows, pad = history.push(numbered([9]))
    assert (shown(windows), pad.tolist()) == ([[9, 9, 9]], [[True, True, False]])


def test_a_window_of_one_passes_observations_on():
    history, observation = ObservationHistory(2, 1), numbered([1, 2])
    windows, pad = history.push(observation)
    assert windows is observation and pad is None


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 4), st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12))
def test_windows_are_those_of_the_replay(window, begins):
    history = ObservationHistory(3, window)
    age = np.zeros(3, int)
    for t, fresh in enumerate(begins):
        for slot in np.flatnonzero(fresh):
            history.begin(int(slot))
            age[slot] = 0
        windows, pad = history.push(numbered([10 * slot + t for slot in range(3)]))
        back = np.minimum(age[:, None], np.arange(window - 1, -1, -1))  # as services.replay.read.index says it
        wanted = 10 * np.arange(3)[:, None] + t - back
        assert shown(windows) == wanted.tolist()
        np.testing.assert_array_equal(pad, age[:, None] < np.arange(window - 1, -1, -1))
        age += 1


class Pairs(Plain):
    """Remembers the windows it saw, and answers as the plain one."""

    window = 2

    def __init__(self):
        super().__init__()
        self.seen = []

    def act(self, observation, pad):
        self.seen.append((observation.proprio[..., :2].astype(int).tolist(), pad[:, 0].tolist()))
        newest = Observation(
            side=observation.side[:, 1], wrist=observation.wrist[:, 1], proprio=observation.proprio[:, 1]
        )
        return super().act(newest, None)


def test_a_loop_shows_windows_that_never_reach_into_another_episode():
    policy = Pairs()
    *_, sink, _ = play([Script(2), Script(3)], policy=policy)
    episode_and_step = [rows[0] for rows, _ in policy.seen]
    assert episode_and_step == [
        [[0, 0], [0, 0]],
        [[0, 0], [0, 1]],
        [[0, 1], [0, 2]],  # the last observation, shown for its embedding
        [[1, 0], [1, 0]],
        [[1, 0], [1, 1]],
        [[1, 1], [1, 2]],
        [[1, 2], [1, 3]],
    ]
    assert [pad[0] for _, pad in policy.seen] == [True, False, False, True, False, False, False]
    assert [one.observation.proprio.shape for one in sink.segments] == [(3, 25), (4, 25)], "recorded without windows"


def test_a_dropped_episode_leaves_nothing_in_the_next_ones_windows():
    policy = Pairs()
    play([Script(9, nan_at=2), Script(2)], policy=policy)
    assert [rows[0] for rows, _ in policy.seen] == [
        [[0, 0], [0, 0]],
        [[0, 0], [0, 1]],
        [[1, 0], [1, 0]],
        [[1, 0], [1, 1]],
        [[1, 1], [1, 2]],
    ]


@pytest.mark.parametrize("slots", [2, 3])
def test_slots_keep_their_own_windows(slots):
    policy = Pairs()
    play([Script(3), Script(5), Script(4), Script(2)], n=slots, policy=policy)
    for rows, pads in policy.seen:
        for (earlier, newest), pad in zip(rows, pads, strict=True):
            assert earlier[0] == newest[0], "one episode"
            assert newest[1] - earlier[1] == (0 if pad else 1)
