"""Fine-tuning in memory learns, repeats itself and refuses what it cannot use."""

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import SMALL, TEXT, Demo, changed, make_demo, make_policy

from learner.augment import Augmentation
from learner.sft import SftTrainer, TrainSettings, prepare, train_sft
from learner.sft import trainer as imitation
from policy.acting import BatchActor
from policy.model import Policy
from policy.settings import ContinuousSettings, DiffusionSettings
from protos.errors import InputError, TwinRLError
from protos.schema import Configuration

SETTINGS = TrainSettings(steps=150, batch_size=16, seed=1, augment=Augmentation(gain_jitter=0.02, shift_jitter=2.0))
LOOKING_BACK = replace(SMALL, octo=replace(SMALL.octo, window=2, max_horizon=2))


def demos(count=12):
    rng = np.random.default_rng(0)
    return [make_demo(rng) for _ in range(count)]


def make_trainer(settings=SETTINGS, episodes=None, policy=None):
    policy = policy or make_policy()
    return SftTrainer(policy, prepare(policy, episodes or demos(3), settings), settings)


def with_head(kind, horizon=3):
    torch.manual_seed(0)
    diffusion = DiffusionSettings(action_horizon=horizon, action_dim=4, hidden=32, blocks=1, steps=5)
    continuous = ContinuousSettings(action_horizon=horizon, action_dim=4)
    return Policy(replace(SMALL, action_head=kind, diffusion=diffusion, continuous=continuous))


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_a_policy_learns_to_read_its_action_off_the_image():
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


@pytest.mark.parametrize("kind", ["diffusion", "mse", "l1"])
def test_other_heads_learn_chunks(kind):
    trainer = make_trainer(changed(SETTINGS, steps=100, optimizer={"lr": 3e-3}), demos(), with_head(kind))
    losses = [trainer.advance()["bc"] for _ in range(100)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])


def test_a_policy_that_looks_back_learns():
    torch.manual_seed(0)
    trainer = make_trainer(SETTINGS, demos(), Policy(LOOKING_BACK))
    losses = [trainer.advance()["bc"] for _ in range(100)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_the_same_seed_gives_the_same_policy():
    states = []
    for _ in range(2):
        trainer = make_trainer()
        for _ in range(3):
            trainer.advance()
        states.append(trainer.policy.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_a_trainer_goes_on_from_policy_optimizer_and_step():
    one, other = make_trainer(), make_trainer()
    for _ in range(3):
        one.advance()
    other.policy.load_state_dict(one.policy.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    other.step = one.step
    assert [one.advance() for _ in range(2)] == [other.advance() for _ in range(2)]
    assert all(map(torch.equal, one.policy.parameters(), other.policy.parameters()))


def test_normalisation_comes_from_the_episodes():
    policy = make_policy()
    prepare(policy, demos(2), SETTINGS)
    assert policy.normalization.mean[:3].tolist() == pytest.approx([-0.5, 0.0, 0.1], abs=1e-5)


def test_episodes_without_labels_do_not_reach_the_auxiliary_head():
    known = demos(2)
    foreign = [Demo(e.observation, e.action, Configuration(region="")) for e in demos(4)[2:]]
    mixed, alone = make_trainer(episodes=known + foreign), make_trainer(episodes=foreign)
    assert mixed.advance().keys() == {"bc", "auxiliary", "position_rmse_m", "skipped"}
    assert alone.advance().keys() == {"bc", "skipped"}
    assert "auxiliary.weight" in gradients(mixed.policy)
    assert "auxiliary.weight" not in gradients(alone.policy)


@pytest.mark.parametrize("kind", ["consistency", "diffusion"])
def test_accumulated_gradients_are_those_of_the_whole_batch(kind):
    """The parts differ in how many actions and labels count."""
    short = [make_demo(np.random.default_rng(5), steps=2) for _ in range(3)]
    episodes = demos(2) + [Demo(e.observation, e.action, Configuration(region="")) for e in short]
    found = []
    for parts in (1, 4):
        settings = changed(SETTINGS, compute={"accumulate": parts}, optimizer={"clip_norm": 1e9})
        trainer = make_trainer(settings, episodes, with_head(kind))
        metrics = trainer.advance()
        found.append((metrics, gradients(trainer.policy)))
    (one, whole), (other, summed) = found
    assert one == pytest.approx(other, rel=1e-4)
    assert whole.keys() == summed.keys()
    assert all(torch.allclose(whole[name], summed[name], rtol=1e-3, atol=1e-6) for name in whole)


@pytest.mark.parametrize(
    ("backbone", "parts"),
    [("frozen", {"head"}), ("last", {"head", "octo", "auxiliary"}), ("full", {"head", "octo", "auxiliary"})],
)
def test_only_what_should_train_trains(backbone, parts):
    policy = make_policy()
    policy.freeze_backbone()  # as one that comes from reinforcement learning
    trainer = make_trainer(replace(SETTINGS, backbone=backbone), policy=policy)
    trainer.advance()
    names = gradients(trainer.policy)
    assert {name.split(".")[0] for name in names} == parts
    assert any("tokenizers" in name for name in names) == (backbone == "full")


def test_a_step_that_is_not_finite_changes_nothing():
    episodes = demos(3)
    trainer = make_trainer(changed(SETTINGS, compute={"nan_limit": 3}), episodes)
    before = copy.deepcopy(trainer.policy.state_dict())
    trainer.data.action[:] = float("nan")
    assert trainer.advance()["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(trainer.policy.state_dict().values(), before.values(), strict=True))
    assert trainer.step == 1
    trainer.advance()
    with pytest.raises(TwinRLError, match="diverged: 3 updates in a row"):
        trainer.advance()


def test_half_precision_and_augmentation_learn_too():
    settings = changed(
        SETTINGS, compute={"precision": "bf16"}, augment={"crop_pad": 2, "wrist_dropout": 0.2}, sigma_weighted=False
    )
    losses = [make_trainer(settings, demos()).advance()["bc"]]
    trainer = make_trainer(settings, demos())
    losses += [trainer.advance()["bc"] for _ in range(80)]
    assert losses[0] == losses[1]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert all(p.dtype == torch.float32 for p in trainer.policy.parameters())


def test_a_compiled_loss_is_the_same(monkeypatch):
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = functools.cache(lambda: torch.compile(imitation._terms, backend=count, fullgraph=True))
    monkeypatch.setattr(imitation, "_compiled", compiled)
    plain, fast = make_trainer(), make_trainer(changed(SETTINGS, compute={"compile": True}))
    for _ in range(3):
        assert plain.advance() == pytest.approx(fast.advance(), abs=1e-5)
    assert len(graphs) == 1


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match=r"batch_size=16: must be a multiple of accumulate=3"):
        changed(SETTINGS, compute={"accumulate": 3})
    with pytest.raises(InputError, match="no episode"):
        train_sft(make_policy(), [], SETTINGS)
