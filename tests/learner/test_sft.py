"""Fine-tuning in memory."""

import numpy as np
import pytest
import torch
from samples import TEXT, make_demo, make_policy

from learner.settings import TrainSettings
from learner.sft import Demonstrations, SftTrainer, prepare, train_sft
from policy.acting import BatchActor
from protos.errors import InputError

SETTINGS = TrainSettings(steps=150, batch_size=16, seed=1, gain_jitter=0.02, shift_jitter=2.0)


def demos(count=12):
    rng = np.random.default_rng(0)
    return [make_demo(rng) for _ in range(count)]


def test_a_policy_learns_to_read_its_action_off_the_picture():
    policy, seen = make_policy(), []
    train_sft(policy, demos(), SETTINGS, lambda step, metrics: seen.append((step, metrics["bc"])))
    assert [step for step, _ in seen] == list(range(1, 151))
    losses = [loss for _, loss in seen]
    assert np.mean(losses[-20:]) < 0.4 * np.mean(losses[:20])
    fresh = make_demo(np.random.default_rng(7), steps=40)
    action, _ = BatchActor(policy, TEXT).act(
        fresh.observation.rows(slice(0, 40)), generator=torch.Generator().manual_seed(0)
    )
    assert np.corrcoef(action[:, 0], fresh.action[:, 0])[0, 1] > 0.9


def test_early_frames_are_drawn_more_often():
    data = Demonstrations.of(demos(1), make_policy(), TrainSettings(first_frames=3, first_frames_weight=4.0))
    assert data.weight.tolist() == [4.0] * 3 + [1.0] * 7
    assert data.side.dtype == torch.uint8
    assert data.action.shape == (10, 4)
    assert data.labels.shape == (10, 9)


def test_the_same_seed_gives_the_same_policy():
    states = []
    for _ in range(2):
        policy = make_policy()
        trainer = SftTrainer(policy, prepare(policy, demos(3), SETTINGS), SETTINGS)
        for _ in range(3):
            trainer.advance()
        states.append(policy.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_normalisation_comes_from_the_episodes():
    policy = make_policy()
    prepare(policy, demos(2), SETTINGS)
    assert policy.normalization.mean[:3].tolist() == pytest.approx([-0.5, 0.0, 0.1], abs=1e-5)


def test_no_episode_is_refused():
    with pytest.raises(InputError, match="no episode"):
        train_sft(make_policy(), [], SETTINGS)
