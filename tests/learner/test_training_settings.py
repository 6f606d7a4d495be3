"""Values that others released, and settings that contradict themselves."""

import dataclasses
from pathlib import Path

import pytest

from learner.recipes import RECIPES, with_rl_recipe, with_train_recipe
from learner.rl.update_settings import conrft_update, twinrl_update
from learner.settings import LoopSettings, RlSettings, SftSettings, TrainSettings, UpdateSettings
from learner.sft.train_settings import conrft_train, twinrl_train
from protos.errors import InputError
from protos.settings import from_json, to_json
from services.replay import ReplaySettings


def test_conrft_as_released():
    settings = conrft_update()
    assert (settings.lr_actor, settings.lr_critic, settings.schedule) == (3e-4, 3e-4, "constant")
    assert (settings.weight_decay, settings.clip_norm, settings.clip_norm_critic) == (0.0, None, None)
    assert (settings.tau, settings.critics, settings.actor_every) == (0.005, 2, 2)
    assert (settings.calql_alpha, settings.calql_actions, settings.calql_raised) == (0.1, 10, "all")
    assert (settings.weights_offline, settings.weights_start, settings.weights_end) == ((1, 0.1), (0.5, 1), (0.5, 1))
    assert settings.sigma_weighted
    assert (settings.backbone, settings.critic_encoder, settings.augment.crop_pad) == ("frozen", "conv", 4)
    assert settings.target_clip is None
    assert settings.actor_offline


def test_twinrl_as_released():
    released, conrft = vars(twinrl_update()), vars(conrft_update())
    differs = {name: released[name] for name in released if released[name] != conrft[name]}
    assert differs == {
        "backbone": "full",
        "lr_actor": 3e-5,
        "lr_critic": 3e-5,
        "schedule": "cosine",
        "lr_warmup": 2000,
        "lr_decay": 98_000,
        "weight_decay": 1e-3,
        "clip_norm": 1.0,
        "clip_norm_critic": 1.0,
    }
    assert released["lr_backbone"] == 3e-5


def test_fine_tuning_as_released():
    settings = twinrl_train()
    assert (settings.batch_size, settings.lr, settings.warmup, settings.final_lr) == (64, 3e-5, 2000, 0.0)
    assert (settings.steps, settings.weight_decay, settings.clip_norm) == (50_000, 1e-3, 1.0)
    assert (settings.augmentation.crop_pad, settings.augmentation.wrist_dropout) == (4, 0.0)
    assert settings.sigma_weighted
    assert settings.auxiliary_weight == 0.0
    released, conrft = vars(settings), vars(conrft_train())
    assert {name: conrft[name] for name in conrft if released[name] != conrft[name]} == {
        "steps": 20_000,
        "batch_size": 256,
        "lr": 3e-4,
        "warmup": 1,
        "final_lr": 1.0,
        "weight_decay": 0.0,
        "clip_norm": None,
        "backbone": "frozen",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_where_settings_start(name):
    replay = ReplaySettings(urls=("unix:///nowhere",))
    sft = with_train_recipe(SftSettings(replay=replay, log_every=3, train=TrainSettings(lr=0.5)), name)
    wanted = {"demo": TrainSettings(), "conrft": conrft_train(), "twinrl": twinrl_train()}[name]
    assert (sft.train, sft.log_every) == (wanted, 3)
    loop = LoopSettings(online={"real": 3}, demo={"human": 3}, warmup_updates=7)
    rl = with_rl_recipe(RlSettings(replay=replay, policy=Path("p"), loop=loop, gamma=0.5), name)
    assert rl.update == {"demo": UpdateSettings(), "conrft": conrft_update(), "twinrl": twinrl_update()}[name]
    assert (rl.gamma, rl.n_step) == ((0.97, 3) if name == "demo" else (0.98, 1))
    warmup = {"demo": 300, "conrft": 40_000, "twinrl": 100_000}[name]
    assert rl.loop == dataclasses.replace(loop, warmup_updates=warmup)


@pytest.mark.parametrize(
    "settings", [UpdateSettings(), conrft_update(), twinrl_update(), TrainSettings(), conrft_train(), twinrl_train()]
)
def test_settings_survive_json(settings):
    assert from_json(type(settings), to_json(settings)) == settings


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tau": 0.0}, r"tau=0\.0"),
        ({"actor_every": 0}, "actor_every=0"),
        ({"weight_decay": -1.0}, r"weight_decay=-1\.0"),
        ({"accumulate": 0}, "accumulate=0"),
    ],
)
def test_wrong_values_are_refused(change, match):
    with pytest.raises(InputError, match=match):
        dataclasses.replace(UpdateSettings(), **change)
