"""Rows, windows and chunks are compared with loops over the episodes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SMALL, TEXT, Demo, make_demo, make_policy

from learner.sft import Demonstrations, TrainSettings
from protos.errors import InputError
from protos.schema import Configuration

POLICY = make_policy()


def demos(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [make_demo(rng, steps) for steps in lengths]


def rows_of(episodes):
    return [(e, t) for e, episode in enumerate(episodes) for t in range(len(episode.action))]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_windows_and_chunks_stay_inside_their_episode(lengths, window, horizon, seed):
    episodes = demos(*lengths, seed=seed)
    data = Demonstrations.of(episodes, POLICY, TrainSettings())
    assert len(data) == sum(lengths)
    batch = data.batch(np.arange(len(data)), window=window, horizon=horizon)
    for row, (e, t) in enumerate(rows_of(episodes)):
        seen, action, last = episodes[e].observation, episodes[e].action, lengths[e] - 1
        for w, at in enumerate(range(t - window + 1, t + 1)):
            assert np.array_equal(batch["side"][row, w], seen.side[max(at, 0)])
            assert np.array_equal(batch["wrist"][row, w], seen.wrist[max(at, 0)])
            assert np.array_equal(batch["proprio"][row, w], seen.proprio[max(at, 0)])
            assert bool(batch["pad"][row, w]) == (at < 0)
        for h in range(horizon):
            assert bool(batch["action_mask"][row, h]) == (t + h <= last)
            assert np.array_equal(batch["action"][row, h], action[min(t + h, last)][[0, 1, 2, 6]])


def test_images_are_not_copied():
    episodes = demos(4, 5)
    data = Demonstrations.of(episodes, POLICY, TrainSettings())
    assert all(data.side[i] is episode.observation.side for i, episode in enumerate(episodes))
    assert data.batch(np.array([3]), window=1, horizon=1)["side"].dtype == torch.uint8


def test_early_frames_are_drawn_more_often():
    data = Demonstrations.of(demos(10), POLICY, TrainSettings(first_frames=3, first_frames_weight=4.0))
    assert data.weight.tolist() == [4.0] * 3 + [1.0] * 7
    drawn = np.bincount(data.draw(20_000, np.random.default_rng(0)), minlength=10) / 20_000
    assert drawn == pytest.approx(data.weight / data.weight.sum(), abs=0.02)


def test_every_instruction_has_its_language():
    one, other = demos(2, 3)
    other = Demo(other.observation, other.action, instruction="Open the drawer.")
    data = Demonstrations.of([other, one], POLICY, TrainSettings())
    language = data.batch(np.arange(5), window=1, horizon=1)["language"]
    assert language.shape == (5, SMALL.octo.language_tokens, 768)
    assert torch.equal(language[0], language[2])
    assert not torch.equal(language[0], language[3])
    assert Demonstrations.of([one], POLICY, TrainSettings()).language.shape[0] == 1
    assert one.instruction == TEXT


def test_an_episode_of_unknown_poses_has_no_labels():
    one, other = demos(2, 3)
    foreign = Demo(other.observation, other.action, Configuration(region=""))
    data = Demonstrations.of([one, foreign], POLICY, TrainSettings())
    assert data.labelled.tolist() == [1, 1, 0, 0, 0]
    assert not data.labels[2:].any()


def test_no_episode_is_refused():
    empty = Demo(demos(1)[0].observation, np.zeros((0, 7), np.float32))
    for episodes in ([], [empty]):
        with pytest.raises(InputError, match="no episode"):
            Demonstrations.of(episodes, POLICY, TrainSettings())
