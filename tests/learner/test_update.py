"""The RL update sends each gradient to its own network and survives NaN."""

import numpy as np
import pytest
import torch
from samples import SMALL, make_batch, make_policy, replay_batch

from learner import losses
from learner.optimization import ComputeSettings, NanGuard
from learner.rl import (
    WARMUP,
    ActorSettings,
    CriticSettings,
    Phase,
    RateSettings,
    RlAgent,
    UpdateSettings,
    columns,
    complete,
)
from learner.rl.batches import COLUMNS
from learner.rl.terms import batch_losses
from protos.errors import TwinRLError

SETTINGS = UpdateSettings(critic=CriticSettings(width=32), compute=ComputeSettings(nan_limit=3))


def make_agent(settings=SETTINGS, seed=0):
    agent = RlAgent(make_policy(), settings, seed=seed)
    agent.fit_normalization(make_batch(100, seed=9))
    return agent


def losses_of(agent, batch, phase):
    batch = complete(batch, SMALL, agent.settings, phase, torch.Generator().manual_seed(0))
    return batch_losses(agent.policy, agent.critic, agent.target, batch, agent.settings, phase)


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module, before):
    return {name.split(".")[0] for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def gradients(module):
    return [p.grad for p in module.parameters() if p.grad is not None]


def test_each_loss_reaches_its_own_network_only():
    agent = make_agent()
    for part, mine, other in (("critic", agent.critic, agent.policy), ("actor", agent.policy.head, agent.critic)):
        found = losses_of(agent, make_batch(), Phase())
        for module in (agent.policy, agent.critic, agent.target):
            module.zero_grad(set_to_none=True)
        getattr(found, part).backward()
        assert gradients(mine)
        assert not gradients(other)
        assert not gradients(agent.target)


def test_warm_up_trains_the_critic_alone_and_rl_leaves_the_backbone():
    agent = make_agent()
    policy, critic, target = snapshot(agent.policy), snapshot(agent.critic), snapshot(agent.target)
    metrics = agent.update(make_batch(), WARMUP).metrics
    assert "calql" in metrics
    assert not changed(agent.policy, policy)
    assert changed(agent.critic, critic) == {"weights", "biases"}
    agent.update(make_batch(), Phase())
    assert changed(agent.policy, policy) == {"head"}
    assert changed(agent.target, target) == {"weights", "biases"}


def test_target_follows_by_tau():
    agent = make_agent()
    before = snapshot(agent.target)
    agent.update(make_batch(), WARMUP)
    for name, fast in agent.critic.named_parameters():
        wanted = before[name] + SETTINGS.critic.tau * (fast.detach() - before[name])
        assert torch.allclose(agent.target.state_dict()[name], wanted, atol=1e-7)


def test_the_actor_climbs_the_critic():
    """The head's Q rises with cloning switched off."""
    agent = make_agent(
        UpdateSettings(
            critic=CriticSettings(width=32, lr=1e-9),
            actor=ActorSettings(weights_start=(0.0, 1.0), weights_end=(0.0, 1.0)),
        )
    )
    first, *_, last = [agent.update(make_batch(64), Phase()).metrics["actor_q"] for _ in range(60)]
    assert last > first + 0.02


def test_the_critic_learns_the_returns():
    agent = make_agent(UpdateSettings(critic=CriticSettings(width=32, lr=3e-3)))
    batch = make_batch(64) | {"discount": torch.zeros(64)}
    for _ in range(100):
        metrics = agent.update(batch, WARMUP).metrics
    assert metrics["td"] < 0.05


def test_errors_of_rows_are_those_of_the_batch_in_order():
    agent = make_agent()
    batch = make_batch() | {"discount": torch.zeros(32)}
    with torch.no_grad():
        features = agent.policy.features(batch["embedding"], batch["proprio"])
        q = agent.critic(features, agent.policy.from_wire(batch["action"]))
    updated = agent.update(batch, Phase())
    assert updated.td_error == pytest.approx((q - batch["reward"]).abs().mean(0).numpy(), abs=1e-6)


def test_rows_of_little_weight_move_the_critic_little():
    one, other = make_agent(), make_agent()
    strange = make_batch()
    strange["reward"][:16] += 100.0
    assert one.update(make_batch(), Phase()).metrics["td"] < 1e3 < other.update(strange, Phase()).metrics["td"]
    weight = torch.cat([torch.zeros(16), torch.ones(16)])
    one, other = make_agent(), make_agent()
    one.update(make_batch() | {"weight": weight}, Phase())
    other.update(strange | {"weight": weight}, Phase())
    for a, b in zip(one.critic.parameters(), other.critic.parameters(), strict=True):
        assert torch.equal(a, b)


def test_learning_rate_of_the_head_falls_late():
    agent = make_agent()
    for progress, factor in ((0.2, 1.0), (0.75, 0.5), (1.0, 0.1)):
        agent.update(make_batch(), Phase(progress=progress))
        assert agent.actor_optimizer.param_groups[0]["lr"] == pytest.approx(SETTINGS.actor.lr * factor)


def test_critics_warm_up_before_the_actor_and_rates_follow_the_released_schedule():
    agent = make_agent(
        UpdateSettings(rates=RateSettings(schedule="cosine", warmup=2, decay=4), actor=ActorSettings(every=2))
    )
    groups = agent.actor_optimizer.param_groups[0], agent.critic_optimizer.param_groups[0]
    for factor in (0.5, 1.0, 1.0, 0.5 + 0.5 * 2**-0.5, 0.5, 0.5 - 0.5 * 2**-0.5, 0.0):
        agent.update(make_batch(), Phase())
        assert [g["lr"] for g in groups] == pytest.approx([3e-4 * factor, 5e-4 * factor])


def test_the_actor_learns_in_every_second_update_only():
    agent = make_agent(UpdateSettings(actor=ActorSettings(every=2)))
    for learns in (False, True, False, True):
        before = snapshot(agent.policy)
        metrics = agent.update(make_batch(), Phase(offline=True)).metrics
        assert bool(changed(agent.policy, before)) == learns == ("bc" in metrics)
        assert "calql" in metrics


def test_the_actor_may_learn_while_the_critics_warm_up():
    for offline in (False, True):
        agent = make_agent(UpdateSettings(actor=ActorSettings(offline=offline)))
        before = snapshot(agent.policy)
        metrics = agent.update(make_batch(), WARMUP).metrics
        assert "calql" in metrics
        assert ("bc" in metrics) == offline
        assert bool(changed(agent.policy, before)) == offline


def test_an_offline_stage_has_weights_of_its_own():
    agent = make_agent(
        UpdateSettings(
            actor=ActorSettings(weights_offline=(2.0, 0.5), weights_start=(0.5, 1.0), weights_end=(0.5, 3.0))
        )
    )
    for phase, beta, eta in ((Phase(offline=True), 2.0, 0.5), (Phase(progress=0.5), 0.5, 2.0)):
        found = losses_of(agent, make_batch(), phase)
        wanted = beta * found.scalars["bc"] - eta * found.scalars["actor_q"]
        assert float(found.actor.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_weight_decay_pulls_what_has_no_gradient():
    """AdamW's decay, not a penalty in the loss: weights shrink by lr · decay beside Adam's step."""
    agents = [make_agent(UpdateSettings(weight_decay=decay)) for decay in (0.0, 0.5)]
    before = snapshot(agents[0].critic)
    for agent in agents:
        agent.update(make_batch(), WARMUP)
    for (name, free), held in zip(agents[0].critic.named_parameters(), agents[1].critic.parameters(), strict=True):
        assert torch.allclose(free - held, 5e-4 * 0.5 * before[name], atol=1e-7)


@pytest.mark.parametrize("limit", [None, 1e-3])
def test_gradients_are_clipped_where_asked(limit):
    agent = make_agent(UpdateSettings(actor=ActorSettings(clip_norm=limit), critic=CriticSettings(clip_norm=limit)))
    agent.gradients(complete(make_batch(), SMALL, agent.settings, Phase(), torch.Generator()), Phase())
    free = [g.clone() for m in (agent.policy, agent.critic) for g in gradients(m)]
    norms = agent.clip_gradients()
    parts = [gradients(m) for m in (agent.policy, agent.critic)]
    for norm, part in zip(norms, parts, strict=True):
        found = float(torch.cat([g.flatten() for g in part]).norm())
        assert found == pytest.approx(float(norm) if limit is None else limit, rel=1e-3)
    assert limit is not None or all(map(torch.equal, free, [g for part in parts for g in part]))


@pytest.mark.parametrize("name", ["reward", "embedding", "action"])
def test_a_nan_batch_changes_nothing(name):
    agent = make_agent()
    agent.update(make_batch(), Phase())
    modules = (agent.policy, agent.critic, agent.target)
    before = [snapshot(m) for m in modules]
    batch = make_batch()
    batch[name] = batch[name] * float("nan")
    assert agent.update(batch, Phase()).metrics["skipped"] == 1
    for module, state in zip(modules, before, strict=True):
        assert not changed(module, state)
    assert agent.update(make_batch(), Phase()).metrics["skipped"] == 1


def test_the_guard_stops_a_run_that_keeps_failing():
    guard, bad, good = NanGuard(3), torch.tensor(float("inf")), torch.tensor(1.0)
    assert not guard.accepts(bad)
    assert not guard.accepts(good, good, bad)
    assert guard.accepts(good, good)
    assert not guard.accepts(bad)
    assert not guard.accepts(bad)
    assert (guard.skipped, guard.in_a_row) == (4, 2)
    with pytest.raises(TwinRLError, match=r"diverged: 3 updates in a row.*nan_limit=3"):
        guard.accepts(bad)


def test_columns_come_as_float32_tensors():
    arrays = {name: np.ones((2, 3), np.float64) for name in COLUMNS}
    found = columns(replay_batch(human=np.zeros(2, bool), **arrays))
    assert found.keys() == set(COLUMNS)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    observed = {"side": np.ones((2, 1, 4, 4, 3), np.uint8), "wrist": None, "embedding": np.ones((2, 5), np.float32)}
    found = columns(replay_batch(**arrays, **observed))
    assert found.keys() == {*COLUMNS, "side", "embedding"}
    assert found["side"].dtype == torch.uint8


def test_discounted_targets_stay_in_the_range_of_returns():
    agent = make_agent()
    with torch.no_grad():
        agent.target.biases[-1] += 100.0
    batch = make_batch() | {"reward": torch.zeros(32)}
    assert agent.update(batch, Phase()).metrics["target_q"] <= 1.0
    assert losses.td_target(torch.zeros(1), torch.ones(1), torch.full((2, 1), 100.0), None) == 100.0


def test_policy_settings_reach_the_agent():
    assert make_agent().critic.weights[0].shape == (2, SMALL.feature_dim + SMALL.action_dim, 32)
