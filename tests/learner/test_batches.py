"""The random numbers of an update are columns, so that its result does not depend on how many parts compute it."""

import copy

import numpy as np
import pytest
import torch
from samples import SMALL, changed, make_batch, make_image_batch, make_policy

from learner.augment import torch_stream
from learner.rl import WARMUP, ActorSettings, CalQlSettings, CriticSettings, Phase, RlAgent, UpdateSettings, complete
from learner.rl.batches import draw_noise, split
from learner.rl.terms import batch_losses
from protos.errors import InputError

PHASES = {"warm-up": WARMUP, "offline": Phase(offline=True), "online": Phase(progress=0.3)}
IMAGES = UpdateSettings(
    critic=CriticSettings(width=32, encoder="conv"),
    actor=ActorSettings(backbone="full"),
    calql=CalQlSettings(actions=3),
)
READOUTS = UpdateSettings(critic=CriticSettings(width=32), calql=CalQlSettings(actions=3))


def test_noise_is_what_the_phase_needs():
    found = {n: draw_noise(5, SMALL, READOUTS, p, torch_stream(0, "noise", 0)) for n, p in PHASES.items()}
    actor, cal_ql = {"level", "bc_noise", "actor_noise"}, {"calql_noise", "calql_next_noise", "calql_uniform"}
    assert found["warm-up"].keys() == {"target_noise"} | cal_ql
    assert found["offline"].keys() == {"target_noise"} | cal_ql | actor
    assert found["online"].keys() == {"target_noise"} | actor
    assert all(len(column) == 5 for columns in found.values() for column in columns.values())
    assert found["offline"]["calql_noise"].shape == (5, 3, 4)
    uniform = found["offline"]["calql_uniform"]
    assert (uniform.abs() <= 1).all() and uniform.min() < 0 < uniform.max()


def test_noise_depends_on_seed_and_number_alone():
    one, same, other = (draw_noise(5, SMALL, IMAGES, Phase(), torch_stream(3, "noise", k)) for k in (7, 7, 8))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES.keys())
@pytest.mark.parametrize("settings", [READOUTS, IMAGES], ids=["readouts", "images"])
def test_the_losses_of_a_batch_are_the_means_of_its_parts(settings, phase):
    agent = RlAgent(make_policy(), settings, seed=0)
    batch = make_image_batch(24)
    batch["imitate"][:12] = 0.0  # the halves differ in how many rows may be imitated
    batch = complete(batch, SMALL, settings, phase, torch_stream(0, "noise", 0))
    whole, *parts = (
        batch_losses(agent.policy, agent.critic, agent.target, part, settings, phase)
        for part in (batch, *split(batch, 3))
    )
    for name, value in whole.scalars.items():
        assert float(value.detach()) == pytest.approx(
            np.mean([float(p.scalars[name].detach()) for p in parts]), rel=1e-4
        )
    assert float(whole.total.detach()) == pytest.approx(np.mean([float(p.total.detach()) for p in parts]), rel=1e-4)
    assert torch.allclose(whole.td_error, torch.cat([part.td_error for part in parts]), atol=1e-5)


@pytest.mark.parametrize("settings", [READOUTS, IMAGES], ids=["readouts", "images"])
def test_accumulated_gradients_are_those_of_the_whole_batch(settings):
    gradients, errors = [], []
    for parts in (1, 4):
        agent = RlAgent(make_policy(), changed(settings, compute={"accumulate": parts}), seed=0)
        batch = complete(make_image_batch(24), SMALL, settings, Phase(), torch_stream(0, "noise", 0))
        errors.append(agent.gradients(batch, Phase()).td_error)
        gradients.append([p.grad for m in (agent.policy, agent.critic) for p in m.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(*gradients, strict=True))
    assert torch.allclose(*errors, atol=1e-5)


def test_parts_must_be_equal():
    with pytest.raises(InputError, match="32 rows cannot be split into 5"):
        split(make_batch(32), 5)


def test_an_agent_repeats_itself_from_its_counter():
    """The next update depends on networks, optimizers and the counter alone."""
    agents = [RlAgent(make_policy(), READOUTS, seed=4) for _ in range(2)]
    for k in range(3):
        agents[0].update(make_batch(seed=k), Phase())
    for name in ("policy", "critic", "target", "actor_optimizer", "critic_optimizer"):
        getattr(agents[1], name).load_state_dict(copy.deepcopy(getattr(agents[0], name).state_dict()))
    agents[1].updates = agents[0].updates
    found = [agent.update(make_batch(seed=9), Phase()).metrics for agent in agents]
    assert found[0] == found[1]
    for a, b in zip(agents[0].policy.parameters(), agents[1].policy.parameters(), strict=True):
        assert torch.equal(a, b)
