"""These tests put a new head on an imported backbone."""

from dataclasses import replace

import pytest
import torch

from policy.model import Policy, consistency_settings, described, on_backbone
from policy.octo.settings import OctoSettings
from policy.settings import ActionUnits, DiffusionSettings, HeadSettings, PolicySettings
from protos.errors import InputError

OCTO = OctoSettings(
    side_px=32, wrist_px=16, dim=32, layers=1, heads=2, mlp_dim=32, window=2, max_horizon=4, language_tokens=4
)
IMPORTED = PolicySettings(
    octo=OCTO,
    action_head="diffusion",
    diffusion=DiffusionSettings(action_dim=5, hidden=16),
    active_action_dims=tuple(range(5)),
    action_units=ActionUnits(scale=(2.0,) * 5, offset=(0.5,) * 5),
    proprio_indices=(),
    language_folder="/somewhere/language",
)


@pytest.fixture
def imported():
    torch.manual_seed(0)
    return Policy(IMPORTED)


def test_the_backbone_stays_and_everything_else_is_that_of_the_large_presets(imported):
    settings = consistency_settings(IMPORTED)
    policy = on_backbone(imported, settings, seed=1)
    assert policy.sha256("backbone") == imported.sha256("backbone")
    assert settings == PolicySettings(
        octo=OCTO,
        head=HeadSettings(network="conrft"),
        active_action_dims=tuple(range(7)),
        proprio_indices=tuple(range(25)),
        proprio_encoder="mlp",
        language_folder="/somewhere/language",
    )
    images = [torch.randint(0, 256, (3, 2, px, px, 3), dtype=torch.uint8) for px in (32, 16)]
    language = torch.randn(1, 4, 768)
    with torch.no_grad():
        readouts = [one.embed(*images, language) for one in (imported, policy)]
        assert torch.equal(*readouts)
        wire = policy.to_wire(policy.sample(policy.features(readouts[0], torch.randn(3, 2, 25))))
    assert wire.shape == (3, 7) and wire.abs().max() <= 1.0


def test_the_new_parts_depend_on_the_seed_alone(imported):
    settings = consistency_settings(IMPORTED)
    first = on_backbone(imported, settings, seed=1)
    before = torch.random.get_rng_state()
    torch.randn(7)
    again, other = on_backbone(imported, settings, seed=1), on_backbone(imported, settings, seed=2)
    assert first.sha256("head") == again.sha256("head") != other.sha256("head")
    assert first.sha256("backbone") == again.sha256("backbone") == other.sha256("backbone")
    torch.random.set_rng_state(before)
    on_backbone(imported, settings, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before), "nobody else's random numbers change"


def test_what_is_kept_is_said_in_one_line():
    line = described(IMPORTED, consistency_settings(IMPORTED))
    assert line == (
        "kept: backbone of 1 × 32, window 2; language encoder. New: consistency head for 7 numbers, encoder of 2 × 25 "
        "numbers of proprioception, auxiliary head. Dropped: diffusion head and its units."
    )
    bare = replace(IMPORTED, action_units=None, language_folder="")
    line = described(bare, consistency_settings(bare))
    assert "no language encoder (a stand-in)" in line and line.endswith("Dropped: diffusion head.")


def test_a_consistency_head_is_not_thrown_away():
    with pytest.raises(InputError, match="has a consistency head already"):
        consistency_settings(PolicySettings())
