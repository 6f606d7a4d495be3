"""These tests check a policy with each kind of head: shapes, parts, units of actions, trained parameters."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recorded import needs_recorded, recorded
from samples_policy import TEXT, TINY, Published, make_policy, observation

from policy.acting import BatchActor
from policy.model import Policy
from policy.normalize import action_units
from policy.octo.settings import OctoSettings
from policy.settings import ActionUnits, ContinuousSettings, DiffusionSettings, PolicySettings, preset
from protos.errors import InputError
from protos.settings import from_json, to_json

DIFFUSION = replace(TINY, action_head="diffusion", diffusion=DiffusionSettings(action_dim=4, hidden=32, steps=5))
REGRESSION = replace(TINY, continuous=ContinuousSettings(action_dim=4, action_horizon=2))
KINDS = {
    "consistency": TINY,
    "diffusion": DIFFUSION,
    "mse": replace(REGRESSION, action_head="mse"),
    "l1": replace(REGRESSION, action_head="l1"),
}
HORIZONS = {"consistency": 1, "diffusion": 4, "mse": 2, "l1": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_acts_and_travels(kind):
    policy = make_policy(1, KINDS[kind])
    assert policy.action_horizon == HORIZONS[kind]
    assert from_json(PolicySettings, to_json(policy.settings)) == policy.settings
    wanted = act(BatchActor(policy, TEXT))
    assert wanted[0].shape == (3, 7) and wanted[1].shape == (3, 96)
    assert np.abs(wanted[0]).max() <= policy.action_limit
    for found, right in zip(act(BatchActor.from_weights(Published(policy), TEXT)), wanted, strict=True):
        assert (found == right).all()


def act(actor):
    return actor.act(observation(), generator=torch.Generator().manual_seed(5))


def test_of_a_chunk_the_first_action_is_taken():
    policy = make_policy(1, DIFFUSION)
    features = torch.randn(5, DIFFUSION.feature_dim)
    chunk, action = (draw(features, torch.Generator().manual_seed(2)) for draw in (policy.head.sample, policy.sample))
    assert chunk.shape == (5, 4, 4)
    assert torch.equal(action, chunk[:, 0])


def test_given_noise_takes_the_place_of_what_is_drawn():
    policy, features = make_policy(), torch.randn(5, TINY.feature_dim)
    noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    drawn = policy.sample(features, torch.Generator().manual_seed(2))
    assert torch.equal(policy.sample(features, noise=noise), drawn)


def test_only_a_consistency_head_is_one():
    assert make_policy().consistency is not None
    with pytest.raises(InputError, match=r"action_head='diffusion'.*need 'consistency'"):
        _ = make_policy(0, DIFFUSION).consistency


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(InputError, match=r"diffusion\.action_dim=7: must be 4"):
        replace(TINY, action_head="diffusion")
    with pytest.raises(InputError, match=r"continuous\.action_dim=7: must be 4"):
        replace(TINY, action_head="l1")
    with pytest.raises(InputError, match=r"use_map: the head's input has 106 numbers.*multiple of 8"):
        replace(TINY, action_head="mse", continuous=ContinuousSettings(action_dim=4, use_map=True))
    with pytest.raises(InputError, match="nothing to encode"):
        replace(TINY, proprio_indices=(), proprio_encoder="mlp")
    with pytest.raises(InputError, match=r"action_units\.scale=\(1\.0,\): must hold 4 numbers"):
        replace(TINY, action_units=ActionUnits(scale=(1.0,), offset=(0.0,)))
    with pytest.raises(InputError, match=r"scale=\(-1\.0,\)"):
        ActionUnits(scale=(-1.0,), offset=(0.0,))


def test_without_proprioception_the_head_sees_the_readout_alone():
    settings = replace(DIFFUSION, proprio_indices=())
    features = make_policy(0, settings).features(torch.ones(2, 96), torch.randn(2, 25))
    assert torch.equal(features, torch.ones(2, 96))


def test_attention_pooling_in_a_policy():
    settings = replace(
        TINY,
        action_head="mse",
        proprio_encoder="mlp",
        continuous=ContinuousSettings(action_dim=4, use_map=True),
    )
    assert act(BatchActor(make_policy(0, settings), TEXT))[0].shape == (3, 7)


def test_actions_in_the_units_of_a_dataset():
    statistics = {
        "mean": [1.0, 2.0, 3.0, 0.5],
        "std": [0.1, 0.2, 0.0, 0.3],
        "p01": [-1.0, 0.0, 2.0, 0.0],
        "p99": [3.0, 1.0, 4.0, 1.0],
        "mask": [True, True, True, False],
    }
    action = torch.tensor([[-1.0, 0.5, 1.0, 0.7]])
    for kind, wanted in (("normal", [0.9, 2.1, 3.0, 0.7]), ("bounds", [-1.0, 0.75, 4.0, 0.7])):
        policy = make_policy(0, replace(TINY, action_units=action_units(statistics, kind)))
        wire = policy.to_wire(action)
        assert wire[0].tolist() == pytest.approx([*wanted[:3], 0, 0, 0, wanted[3]], abs=1e-6)
        assert policy.from_wire(wire)[0, [0, 1, 3]].tolist() == pytest.approx([-1.0, 0.5, 0.7], abs=1e-5)
    assert from_json(PolicySettings, to_json(policy.settings)) == policy.settings, "kept in the manifest"
    assert set(policy.state_dict()) == set(make_policy().state_dict()), "no weights of their own"
    old = {name: statistics[name] for name in ("mean", "std")}
    assert action_units(old, "normal").scale == (0.1, 0.2, 0.0, 0.3), "old statistics have no mask"
    with pytest.raises(InputError, match="no 'p01'"):
        action_units(old, "bounds")


@needs_recorded
def test_the_original_undoes_its_normalization_the_same():
    arrays, given = recorded(), "full/head_action/unnorm"
    units = action_units({name: arrays[f"{given}/{name}"] for name in ("mean", "std", "mask")}, "normal")
    settings = replace(TINY, active_action_dims=tuple(range(7)), action_units=units)
    wire = Policy(settings).to_wire(torch.from_numpy(arrays["full/head_action/sample/actions"]))
    assert np.abs(wire.numpy() - arrays[f"{given}/actions"]).max() < 1e-5


def trained(policy):
    return {name for name, p in policy.named_parameters() if p.requires_grad}


def test_the_last_blocks_of_a_backbone_train_alone():
    policy = make_policy()
    everything = trained(policy)
    policy.freeze_backbone()
    assert trained(policy) == {name for name in everything if name.startswith("head.")}
    assert {id(p) for p in policy.head_parameters()} == {id(p) for p in policy.parameters() if p.requires_grad}
    policy.train_backbone(1)
    octo = {name for name in trained(policy) if name.startswith("octo.")}
    assert octo and all(name.startswith(("octo.transformer.blocks.1.", "octo.transformer.norm.")) for name in octo)
    policy.train_backbone()
    assert trained(policy) == everything
    for blocks in (0, 3):
        with pytest.raises(InputError, match=rf"blocks={blocks}: this backbone has 2"):
            policy.train_backbone(blocks)


def test_the_larger_presets_are_as_conrft_uses_octo():
    for name, dim in (("small", 384), ("base", 768)):
        settings = preset(name)
        assert (settings.octo.window, settings.octo.language_tokens, settings.octo.dim) == (2, 16, dim)
        assert (settings.head.network, settings.proprio_encoder, settings.action_head) == (
            "conrft",
            "mlp",
            "consistency",
        )
        assert settings.feature_dim == dim + 64


def test_encoded_proprioception_is_that_of_the_whole_window():
    octo = OctoSettings(window=2, max_horizon=2)
    policy = make_policy(0, replace(TINY, octo=octo, proprio_encoder="mlp"))
    proprio, readout = torch.randn(5, 2, 25), torch.randn(5, 96)
    features = policy.features(readout, proprio)
    normed = policy.normalization(proprio)[:, :, [0, 1, 2, 6, 7, 8, 18, 19, 20, 21]].flatten(1)
    hidden = policy.proprio[0](normed)
    hidden = (hidden - hidden.mean(1, keepdim=True)) / (hidden.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(features, torch.cat([readout, hidden.tanh()], 1), atol=1e-6)
    assert "proprio.0.weight" in policy.parts(["head"])["head"]
    with pytest.raises(InputError, match=r"\(5, 25\).*window=2"):
        policy.features(readout, proprio[:, -1])
    plain = make_policy(0, replace(TINY, octo=octo))
    assert torch.equal(plain.features(readout, proprio), plain.features(readout, proprio[:, -1]))


def test_the_default_policy_by_hand():
    policy = make_policy()
    assert {name.split(".")[0] for name in policy.state_dict()} == {"octo", "head", "auxiliary", "normalization"}
    assert {name: tuple(p.shape) for name, p in policy.head.named_parameters() if p.dim() == 2} == {
        "net.0.weight": (256, 96 + 10 + 4 + 16),
        "net.3.weight": (256, 256),
        "net.6.weight": (4, 256),
    }
    p = {name: tensor.double().numpy() for name, tensor in policy.state_dict().items()}
    readout, proprio, noise = torch.randn(3, 96), torch.randn(3, 25), torch.randn(3, 4)
    normed = np.clip((proprio.double().numpy() - p["normalization.mean"]) / p["normalization.std"], -5, 5)
    angle = 0.25 * np.log(80.0) * np.exp(np.linspace(0, np.log(100), 8))
    inner = [readout.double().numpy(), normed[:, [0, 1, 2, 6, 7, 8, 18, 19, 20, 21]]]
    inner.append(80 * noise.double().numpy() / np.sqrt(80.0**2 + 0.25))
    x = np.concatenate([*inner, np.tile(np.sin(angle), (3, 1)), np.tile(np.cos(angle), (3, 1))], 1)
    for i in (0, 3):
        x = x @ p[f"head.net.{i}.weight"].T + p[f"head.net.{i}.bias"]
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        x = torch.nn.functional.gelu(torch.from_numpy(x * p[f"head.net.{i + 1}.weight"] + p[f"head.net.{i + 1}.bias"]))
        x = x.numpy()
    x = x @ p["head.net.6.weight"].T + p["head.net.6.bias"]
    skip, out = 0.25 / (79.998**2 + 0.25), 79.998 * 0.5 / np.sqrt(80.0**2 + 0.25)
    wanted = np.clip(skip * 80 * noise.double().numpy() + out * x, -1, 1)
    found = policy.to_wire(policy.sample(policy.features(readout, proprio), noise=noise))
    assert np.abs(found[:, [0, 1, 2, 6]].detach().numpy() - wanted).max() < 1e-5
    assert (found[:, 3:6] == 0).all()
