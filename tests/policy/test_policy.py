"""These tests check policy, normalization, language, acting and checkpoints through their public doors."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples_policy import TEXT, TINY, Published, make_policy, observation

from policy.acting import BatchActor
from policy.normalize import Normalization
from policy.settings import PolicySettings, preset
from protos.errors import InputError
from protos.settings import from_json, to_json


def act(actor, seed=5, **kwargs):
    return actor.act(observation(), generator=torch.Generator().manual_seed(seed), **kwargs)


def test_actions_on_the_wire_move_only_the_active_numbers():
    policy = make_policy()
    actions, embeddings = act(BatchActor(policy, TEXT))
    assert actions.shape == (3, 7)
    assert embeddings.shape == (3, 96)
    assert actions.dtype == embeddings.dtype == np.float32
    assert (actions[:, 3:6] == 0).all()
    assert np.abs(actions).max() <= 1
    wire = torch.from_numpy(actions)
    assert torch.equal(policy.to_wire(policy.from_wire(wire)), wire)


def test_parts_carry_a_policy_to_another_process():
    source = make_policy(1)
    actor = BatchActor(make_policy(2), TEXT)
    before = act(actor)[0]
    actor.load(Published(source))
    wanted = act(BatchActor(source, TEXT))
    assert not np.allclose(before, wanted[0])
    for found, right in zip(act(actor), wanted, strict=True):
        assert (found == right).all()
    assert actor.version == 7
    assert actor.backbone_id == source.sha256("backbone")
    fresh = BatchActor.from_weights(Published(source), TEXT)
    assert (act(fresh)[0] == wanted[0]).all()


def test_the_head_can_travel_alone_and_keeps_the_backbone_id():
    source, other = make_policy(1), make_policy(1)
    with torch.no_grad():
        source.head.net[0].bias += 1.0
    assert source.sha256("backbone") == other.sha256("backbone")
    other.load_parts({"head": source.parts()["head"]})
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), other.state_dict().values(), strict=True)
    )
    with torch.no_grad():
        source.octo.positions["readout"] += 1.0
    assert source.sha256("backbone") != other.sha256("backbone")


def test_parts_of_another_network_are_refused():
    policy = make_policy()
    parts = policy.parts()["head"]
    with pytest.raises(InputError, match="choose one of backbone, head"):
        policy.load_parts({"tail": parts})
    parts.pop("head.net.0.bias")
    with pytest.raises(InputError, match=r"another network.*head\.net\.0\.bias"):
        policy.load_parts({"head": parts})


def test_nan_never_reaches_an_action():
    bad = observation()
    bad.proprio[1, 4] = np.nan
    with pytest.raises(InputError, match=r"rows \[1\]"):
        BatchActor(make_policy(), TEXT).act(bad)


def test_exploration_moves_the_tool_and_leaves_the_gripper():
    actor = BatchActor(make_policy(), TEXT)
    plain, noisy = act(actor)[0], act(actor, explore=0.3)[0]
    assert (plain[:, 6] == noisy[:, 6]).all()
    assert (plain[:, :3] != noisy[:, :3]).any()
    assert np.abs(noisy).max() <= 1


def test_wrong_image_sizes_are_named():
    policy = make_policy()
    with pytest.raises(InputError, match=r"\(1, 32, 32, 3\).*\(1, 64, 64, 3\)"):
        policy.embed(torch.zeros(1, 32, 32, 3), torch.zeros(1, 64, 64, 3), torch.zeros(1, 1, 768))


def test_normalization_has_floors_and_limits():
    rows = np.zeros((100, 25), np.float32)
    rows[:, 0] = np.linspace(-1, 1, 100)
    normal = Normalization.fit([rows])
    assert float(normal.std[0]) == pytest.approx(rows[:, 0].std(), rel=1e-5)
    assert normal.std[[1, 6, 18]].tolist() == pytest.approx([0.02, 0.05, 0.1])
    assert float(normal(torch.full((1, 25), 1e6)).max()) == 5.0
    rows[3, 2] = np.inf
    with pytest.raises(InputError, match="finite"):
        Normalization.fit([rows])


def test_features_take_the_chosen_numbers():
    policy = make_policy()
    features = policy.features(torch.zeros(2, 96), torch.arange(50.0).reshape(2, 25))
    wanted = policy.normalization(torch.arange(50.0).reshape(2, 25))[:, [0, 1, 2, 6, 7, 8, 18, 19, 20, 21]]
    assert features.shape == (2, TINY.feature_dim)
    assert torch.equal(features[:, 96:], wanted)


def test_settings_survive_json_and_refuse_strangers():
    assert from_json(PolicySettings, json.loads(json.dumps(to_json(preset("base"))))) == preset("base")
    with pytest.raises(InputError, match="active_action_dims"):
        PolicySettings(active_action_dims=(0, 0))
    with pytest.raises(InputError, match=r"octo\.window=2"):
        replace(TINY.octo, window=2)
