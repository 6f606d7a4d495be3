"""Updates on images train a backbone and critics with encoders, in half precision and compiled too."""

import functools

import pytest
import torch
from samples import SMALL, changed, make_batch, make_image_batch, make_policy

from learner.augment import Augmentation, torch_stream
from learner.rl import WARMUP, ActorSettings, CriticSettings, Phase, RlAgent, UpdateSettings, complete, terms
from learner.rl.terms import batch_losses
from policy.critics import ConvSettings, ImageCritic
from policy.model import Policy
from policy.octo.settings import OctoSettings
from policy.settings import HeadSettings, PolicySettings
from protos.errors import InputError

NO_AUGMENTATION = Augmentation()
CONV = ConvSettings(channels=(8, 16), groups=4, spatial_features=4, bottleneck=16)


def make_agent(policy=None, **settings):
    return RlAgent(
        policy or make_policy(), changed(UpdateSettings(critic=CriticSettings(width=32)), **settings), seed=0
    )


def losses_of(agent, batch, phase=Phase()):  # noqa: B008
    policy = agent.policy.settings
    batch = complete(batch, policy, agent.settings, phase, torch_stream(0, "noise", 0))
    return batch_losses(agent.policy, agent.critic, agent.target, batch, agent.settings, phase)


def trained(module):
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_a_whole_backbone_learns_from_the_actor_alone():
    agent = make_agent(actor={"backbone": "full"})
    found = losses_of(agent, make_image_batch())
    found.critic.backward(retain_graph=True)
    assert not trained(agent.policy)
    assert trained(agent.critic)
    agent.critic.zero_grad(set_to_none=True)
    found.actor.backward()
    assert not trained(agent.critic)
    assert not trained(agent.target)
    names = trained(agent.policy)
    assert {name.split(".")[0] for name in names} == {"octo", "head"}
    assert any(name.startswith("octo.tokenizers") for name in names)


def test_only_the_last_blocks_train():
    octo = OctoSettings(side_px=16, wrist_px=16, dim=16, layers=3, heads=2, mlp_dim=16)
    policy = Policy(PolicySettings(octo=octo, head=HeadSettings(width=32)))
    agent = make_agent(policy, actor={"backbone": "last", "trained_blocks": 2})
    losses_of(agent, make_image_batch()).actor.backward()
    names = {name for name in trained(policy) if name.startswith("octo")}
    assert {name.split(".")[3] for name in names if ".blocks." in name} == {"1", "2"}
    assert all(name.startswith("octo.transformer") for name in names)


def test_the_backbone_has_a_learning_rate_of_its_own():
    agent = make_agent(actor={"backbone": "full", "lr": 0.01, "lr_backbone": 0.0001})
    head, octo = agent.actor_optimizer.param_groups
    assert (head["lr"], octo["lr"]) == (0.01, 0.0001)
    assert len(octo["params"]) == len(list(agent.policy.octo.parameters()))
    assert not agent.policy.auxiliary.weight.requires_grad


def test_readouts_computed_in_the_update_are_those_of_the_cache():
    """A backbone that trains sees, without augmentation, what a frozen one would have cached."""
    batch = make_image_batch()
    agent, frozen = make_agent(actor={"backbone": "full"}, augment=NO_AUGMENTATION), make_agent()
    with torch.no_grad():
        for prefix in ("", "next_"):
            side, wrist = batch[f"{prefix}side"], batch[f"{prefix}wrist"]
            batch[f"{prefix}embedding"] = agent.policy.embed(side, wrist, batch["language"])
    for phase in (WARMUP, Phase()):
        one, other = losses_of(agent, batch, phase), losses_of(frozen, batch, phase)
        assert float(one.total.detach()) == pytest.approx(float(other.total.detach()), rel=1e-4)


def test_padded_windows_are_masked():
    octo = OctoSettings(side_px=16, wrist_px=16, dim=16, layers=1, heads=2, mlp_dim=16, window=2, max_horizon=2)
    policy = Policy(PolicySettings(octo=octo, head=HeadSettings(width=32)))
    agent = make_agent(policy, actor={"backbone": "full"}, augment=NO_AUGMENTATION)
    batch = make_image_batch(window=2)
    before = losses_of(agent, batch).scalars["bc"]
    hidden = batch["side"].clone()
    hidden[batch["pad"]] = 0
    assert float(losses_of(agent, batch | {"side": hidden}).scalars["bc"].detach()) == pytest.approx(
        float(before.detach())
    )
    hidden[~batch["pad"]] = 0
    assert float(losses_of(agent, batch | {"side": hidden}).scalars["bc"].detach()) != pytest.approx(
        float(before.detach())
    )


@pytest.mark.parametrize("encoder", ["readout", "conv"])
def test_an_encoder_of_the_window_s_proprioception_trains_with_the_head(encoder):
    octo = OctoSettings(side_px=16, wrist_px=16, dim=16, layers=1, heads=2, mlp_dim=16, window=2, max_horizon=2)
    policy = Policy(PolicySettings(octo=octo, head=HeadSettings(width=32), proprio_encoder="mlp"))
    agent = make_agent(policy, critic={"encoder": encoder})
    batch = make_image_batch(window=2)
    batch |= {name: torch.randn(32, 2, 25) for name in ("proprio", "next_proprio")}
    agent.fit_normalization(batch)
    found = losses_of(agent, batch)
    found.critic.backward(retain_graph=True)
    assert not trained(policy)
    found.actor.backward()
    assert {name.split(".")[0] for name in trained(policy)} == {"head", "proprio"}
    held = {id(p) for group in agent.actor_optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in policy.head_parameters()}


def test_critics_with_eyes_learn_what_the_readout_does_not_show():
    """The reward is the brightness of the side camera; readouts and proprioception say nothing of it."""
    agent = make_agent(critic={"encoder": "conv", "conv": CONV, "lr": 3e-3}, augment=NO_AUGMENTATION)
    assert isinstance(agent.critic, ImageCritic)
    batch = make_image_batch(64)
    light = torch.rand(64, generator=torch.Generator().manual_seed(1))
    batch["side"] = (batch["side"] * 0.2 + 200 * light[:, None, None, None, None]).to(torch.uint8)
    batch |= {"reward": light, "discount": torch.zeros(64), "mc_return": light}
    agent.fit_normalization(batch)
    first, *_, last = [agent.update(batch, Phase(actor=False)).metrics["td"] for _ in range(60)]
    assert last < 0.3 * float(light.var())
    assert last < first
    slow, fast = (m.encoders["side"][0].weight for m in (agent.target, agent.critic))
    assert not torch.equal(slow, fast)
    assert (slow - fast).abs().max() < 0.1


def test_images_of_the_wrong_cameras_are_refused():
    agent = make_agent(actor={"backbone": "full"})
    batch = make_image_batch()
    with pytest.raises(InputError, match="images of shape"):
        agent.update(batch | {"side": batch["side"][:, :, :8]}, Phase())


def test_half_precision_loses_no_gradient():
    """Weights that the target uses first, without gradient, must not be remembered for the losses."""
    full, half = (
        make_agent(actor={"backbone": "full"}),
        make_agent(actor={"backbone": "full"}, compute={"precision": "bf16"}),
    )
    one, other = losses_of(full, make_image_batch()), losses_of(half, make_image_batch())
    assert float(other.total.detach()) == pytest.approx(float(one.total.detach()), rel=0.05, abs=0.02)
    for found in (one, other):
        found.total.backward()
    for module in ("policy", "critic"):
        assert trained(getattr(half, module)) == trained(getattr(full, module))
    assert all(p.grad.dtype == torch.float32 for p in half.policy.head.parameters())


def test_compiled_losses_are_the_same(monkeypatch):
    """The graph is captured whole, once per kind of update; compiling it is torch's part."""
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = functools.cache(lambda: torch.compile(terms.loss_terms, backend=count, fullgraph=True))
    monkeypatch.setattr(terms, "_compiled", compiled)
    plain, fast = make_agent(), make_agent(compute={"compile": True})
    for k, phase in enumerate((WARMUP, Phase(), Phase(progress=0.4), Phase(progress=0.9), WARMUP)):
        one, other = plain.update(make_batch(seed=k), phase).metrics, fast.update(make_batch(seed=k), phase).metrics
        assert one == pytest.approx(other, abs=1e-5)
    assert len(graphs) == 2


def test_settings_say_what_batches_must_hold():
    assert not UpdateSettings().needs_images
    assert UpdateSettings().needs_readouts
    assert UpdateSettings(critic=CriticSettings(encoder="conv")).needs_images
    assert not UpdateSettings(actor=ActorSettings(backbone="last")).needs_readouts
    assert SMALL.octo.window == 1
