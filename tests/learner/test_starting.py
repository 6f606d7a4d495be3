"""Fine-tuning starts from the backbone, head, language and action scale that the settings name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import SCHEMA, SMALL, make_demo, recorded

from learner.datasets import ActionScale
from learner.datasets.rlds import RldsWriter
from learner.sft import TrainSettings
from learner.stage import SftSettings, run_sft, starting_settings
from learner.stage.sft import starting_policy, starting_scale
from policy.checkpoint import load_manifest, load_policy, save_policy
from policy.model import PARTS, Policy
from policy.settings import ActionUnits, DiffusionSettings
from protos.errors import InputError

FIRST, SECOND = ActionScale(metres=0.02, radians=0.1), ActionScale(metres=0.01, radians=0.2)
IMPORTED = replace(
    SMALL,
    action_head="diffusion",
    diffusion=DiffusionSettings(action_dim=7, hidden=16, blocks=1),
    active_action_dims=tuple(range(7)),
    action_units=ActionUnits(scale=(1.5,) * 7, offset=(0.1,) * 7),
    proprio_indices=(),
    language_folder="language",
)


def never():
    return False


def write(folder, scale, count, seed):
    """Writes an RLDS dataset of `count` episodes."""
    rng = np.random.default_rng(seed)
    writer = RldsWriter(folder, SCHEMA, action_scale=scale)
    for i in range(count):
        writer.add(recorded(make_demo(rng), f"e{i}"))
    writer.close()
    return folder


@pytest.fixture
def data(tmp_path):
    """Writes two datasets whose actions mean different things."""
    return write(tmp_path / "first", FIRST, 2, 0), write(tmp_path / "second", SECOND, 3, 1)


@pytest.fixture
def imported(tmp_path):
    """Writes a policy folder as an import without a tokenizer leaves it."""
    torch.manual_seed(0)
    save_policy(tmp_path / "imported", Policy(IMPORTED))
    return tmp_path / "imported"


def settings_of(data, **changes):
    train = TrainSettings(steps=6, batch_size=8)
    return replace(SftSettings(data=tuple(data), schema=SCHEMA, policy=SMALL, train=train, log_every=1), **changes)


def test_several_datasets_share_one_scale_that_stays_with_the_policy(data, tmp_path):
    assert run_sft(settings_of(data), tmp_path / "one", resume=False, stop=never)
    assert load_manifest(tmp_path / "one" / "policy")["action_scale"] == {"metres": 0.02, "radians": 0.1}
    going_on = settings_of(data[::-1], initial_policy=tmp_path / "one" / "policy")
    assert starting_scale(going_on) == FIRST, "what the head has learned, not what the first dataset says"
    assert run_sft(going_on, tmp_path / "two", resume=False, stop=never)
    assert load_manifest(tmp_path / "two" / "policy")["action_scale"] == {"metres": 0.02, "radians": 0.1}
    given = replace(going_on, action_scale=SECOND)
    assert starting_scale(given) == SECOND


def test_a_policy_of_nobodys_scale_takes_that_of_the_data(data, imported):
    assert starting_scale(settings_of(data, initial_policy=imported)) is None
    assert starting_scale(settings_of(data)) is None


def test_a_new_head_on_an_imported_backbone_resumes_exactly(data, imported, tmp_path):
    settings = settings_of(data, initial_policy=imported, head="consistency", language="stand-in")
    assert run_sft(settings, tmp_path / "whole", resume=False, stop=never)
    asked = iter(range(1000))
    assert not run_sft(settings, tmp_path / "parts", resume=False, stop=lambda: next(asked) > 9)
    assert 0 < load_manifest(tmp_path / "parts" / "checkpoint")["progress"]["step"] < 6
    assert run_sft(settings, tmp_path / "parts", resume=True, stop=never)
    whole, parts = (load_policy(tmp_path / name / "policy") for name in ("whole", "parts"))
    assert [whole.sha256(part) for part in PARTS] == [parts.sha256(part) for part in PARTS]
    assert (whole.settings.action_head, whole.settings.language_folder) == ("consistency", "")
    assert load_manifest(tmp_path / "whole" / "policy")["action_scale"] == {"metres": 0.02, "radians": 0.1}


def test_a_backbone_that_does_not_train_is_the_imported_one(data, imported, tmp_path):
    settings = settings_of(data, initial_policy=imported, head="consistency", language="stand-in")
    settings = replace(settings, train=replace(settings.train, backbone="frozen"))
    assert starting_policy(settings).sha256("backbone") == load_policy(imported).sha256("backbone")
    assert run_sft(settings, tmp_path / "out", resume=False, stop=never)
    assert load_policy(tmp_path / "out" / "policy").sha256("backbone") == load_policy(imported).sha256("backbone")


def test_a_missing_language_encoder_is_said_before_anything_is_read(data, imported, tmp_path):
    settings = settings_of([tmp_path / "nowhere"], initial_policy=imported, head="consistency")
    with pytest.raises(InputError, match=r"no such folder on this machine.*--tokenizer FOLDER.*language='stand-in'"):
        run_sft(settings, tmp_path / "out", resume=False, stop=never)


def test_a_head_that_has_learned_is_not_replaced(data, tmp_path):
    save_policy(tmp_path / "start", Policy(SMALL))
    with pytest.raises(InputError, match="has a consistency head already"):
        starting_settings(settings_of(data, initial_policy=tmp_path / "start", head="consistency"))


def test_data_that_do_not_fit_into_memory_are_refused(data, tmp_path):
    one = 11 * (2 * 16 * 16 * 3 + 25 * 4)
    assert run_sft(settings_of(data, memory_bytes=5 * one), tmp_path / "fits", resume=False, stop=never)
    with pytest.raises(
        InputError, match=rf"memory_bytes={5 * one - 1}: with 3 of the 3 episodes of .*{5 * one:,} bytes"
    ):
        run_sft(settings_of(data, memory_bytes=5 * one - 1), tmp_path / "out", resume=False, stop=never)
