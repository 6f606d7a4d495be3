"""Released values are as published; settings that contradict themselves are refused."""

import dataclasses
from pathlib import Path

import pytest

from learner.optimization import ComputeSettings
from learner.rl import (
    ActorSettings,
    BatchSettings,
    CriticSettings,
    LoopSettings,
    UpdateSettings,
    conrft_update,
    twinrl_update,
)
from learner.sft import OptimizerSettings, TrainSettings, conrft_train, twinrl_train
from learner.stage import RECIPES, RlSettings, SftSettings, with_rl_recipe, with_train_recipe
from protos.errors import InputError
from protos.settings import from_json, to_json
from services.replay import ReplaySettings


def test_conrft_as_released():
    settings = conrft_update()
    actor, critic, calql = settings.actor, settings.critic, settings.calql
    assert (actor.lr, critic.lr, settings.rates.schedule) == (3e-4, 3e-4, "constant")
    assert (settings.weight_decay, actor.clip_norm, critic.clip_norm) == (0.0, None, None)
    assert (critic.tau, critic.members, actor.every) == (0.005, 2, 2)
    assert (calql.alpha, calql.actions, calql.raised) == (0.1, 10, "all")
    assert (actor.weights_offline, actor.weights_start, actor.weights_end) == ((1, 0.1), (0.5, 1), (0.5, 1))
    assert actor.sigma_weighted
    assert (actor.backbone, critic.encoder, settings.augment.crop_pad) == ("frozen", "conv", 4)
    assert critic.target_clip is None
    assert actor.offline


def flat(tree, prefix=""):
    if isinstance(tree, dict):
        return {path: value for name, inner in tree.items() for path, value in flat(inner, f"{prefix}.{name}").items()}
    return {prefix.removeprefix("."): tree}


def changes(settings, start):
    """Returns the fields in which settings differ from others, by their path."""
    before = flat(to_json(start))
    return {path: value for path, value in flat(to_json(settings)).items() if value != before[path]}


def test_twinrl_as_released():
    assert changes(twinrl_update(), conrft_update()) == {
        "actor.backbone": "full",
        "actor.lr": 3e-5,
        "critic.lr": 3e-5,
        "rates.schedule": "cosine",
        "rates.warmup": 2000,
        "rates.decay": 98_000,
        "weight_decay": 1e-3,
        "actor.clip_norm": 1.0,
        "critic.clip_norm": 1.0,
    }
    assert twinrl_update().actor.lr_backbone == 3e-5


def test_fine_tuning_as_released():
    settings = twinrl_train()
    optimizer = settings.optimizer
    assert (settings.batch_size, optimizer.lr, optimizer.warmup, optimizer.final_lr) == (64, 3e-5, 2000, 0.0)
    assert (settings.steps, optimizer.weight_decay, optimizer.clip_norm) == (50_000, 1e-3, 1.0)
    assert (settings.augment.crop_pad, settings.augment.wrist_dropout) == (4, 0.0)
    assert settings.sigma_weighted
    assert settings.auxiliary_weight == 0.0
    assert changes(conrft_train(), settings) == {
        "steps": 20_000,
        "batch_size": 256,
        "optimizer.lr": 3e-4,
        "optimizer.warmup": 1,
        "optimizer.final_lr": 1.0,
        "optimizer.weight_decay": 0.0,
        "optimizer.clip_norm": None,
        "backbone": "frozen",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_where_settings_start(name):
    replay = ReplaySettings(urls=("unix:///nowhere",))
    sft = with_train_recipe(
        SftSettings(replay=replay, log_every=3, train=TrainSettings(optimizer=OptimizerSettings(lr=0.5))), name
    )
    wanted = {"demo": TrainSettings(), "conrft": conrft_train(), "twinrl": twinrl_train()}[name]
    assert (sft.train, sft.log_every) == (wanted, 3)
    batch = BatchSettings(online={"real": 3}, demo={"human": 3}, gamma=0.5)
    loop = LoopSettings(publish_every=3, warmup_updates=7)
    rl = with_rl_recipe(RlSettings(replay=replay, policy=Path("p"), batch=batch, loop=loop), name)
    assert rl.update == {"demo": UpdateSettings(), "conrft": conrft_update(), "twinrl": twinrl_update()}[name]
    gamma, n_step = (0.97, 3) if name == "demo" else (0.98, 1)
    assert rl.batch == dataclasses.replace(batch, gamma=gamma, n_step=n_step)
    warmup = {"demo": 300, "conrft": 40_000, "twinrl": 100_000}[name]
    assert rl.loop == dataclasses.replace(loop, warmup_updates=warmup)


@pytest.mark.parametrize(
    "settings", [UpdateSettings(), conrft_update(), twinrl_update(), TrainSettings(), conrft_train(), twinrl_train()]
)
def test_settings_survive_json(settings):
    assert from_json(type(settings), to_json(settings)) == settings


@pytest.mark.parametrize(
    ("kind", "change", "match"),
    [
        (CriticSettings, {"tau": 0.0}, r"tau=0\.0"),
        (ActorSettings, {"every": 0}, "every=0"),
        (UpdateSettings, {"weight_decay": -1.0}, r"weight_decay=-1\.0"),
        (ComputeSettings, {"accumulate": 0}, "accumulate=0"),
    ],
)
def test_wrong_values_are_refused(kind, change, match):
    with pytest.raises(InputError, match=match):
        kind(**change)


@pytest.mark.parametrize("beside", [{"demo": 1.0}, {"twin": 1.0, "real": 1.0}])
def test_a_stage_that_nothing_would_pace_is_refused(beside):
    batch = BatchSettings(online={"real": 48, "twin": 16})
    with pytest.raises(InputError, match=r"loop\.beside=.*and not all of them \(real, twin\)"):
        RlSettings(
            replay=ReplaySettings(urls=("unix:///x",)), policy=Path("p"), batch=batch, loop=LoopSettings(beside=beside)
        )
