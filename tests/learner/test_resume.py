"""A stage that goes on from a checkpoint does what it would have done without the interruption, to the last bit."""

from dataclasses import replace

import pytest
from resume_samples import (
    CHECKPOINT_EVERY,
    UPDATES,
    Kept,
    assert_goes_on,
    lines,
    never,
    rl_settings,
    write,
    write_demonstrations,
    write_experience,
)
from samples import SCHEMA, SMALL, make_policy

from learner.sft import TrainSettings
from learner.stage import ResumeSettings, SftSettings, run_rl, run_sft
from policy.checkpoint import save_policy
from protos.errors import Unreachable
from services.replay import EmbeddedServer, ReplaySettings

WARMUP = 4


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    with (
        EmbeddedServer(tmp_path_factory.mktemp("one")) as one,
        EmbeddedServer(tmp_path_factory.mktemp("other")) as other,
    ):
        yield one.url, other.url


@pytest.fixture
def replay(urls, request):
    """Returns a replay of its own for each test, on one server."""
    return ReplaySettings(urls=urls[:1], prefix=request.node.name.translate(str.maketrans("[] ", "___")))


@pytest.fixture
def start(tmp_path):
    """Returns folder and backbone of the policy to begin with."""
    policy = make_policy(3)
    save_policy(tmp_path / "start", policy)
    return tmp_path / "start", policy.sha256("backbone")


def run_whole(settings, out, backbone_id):
    """Runs the stage without an interruption; experience begins to arrive once it runs."""
    arrived = []

    def watch(line):
        if not arrived:
            arrived.append(line)
            write_experience(settings.replay, backbone_id)

    assert run_rl(settings, out, resume=False, stop=never, watch=watch)
    assert len(lines(out)) == WARMUP + UPDATES
    return out


VARIANTS = {
    "uniform": ({}, (0, 2)),
    "priority": ({"sampling": {"twin": "priority", "demo": "priority"}}, (0, 2)),
    "cells": ({"sampling": {"twin": "cells"}}, (1, 3)),
    "full rings": ({"capacity": {"demo": 60, "twin": 130}, "sampling": {"twin": "priority", "demo": "cells"}}, (0, 2)),
    "images": ({"update": {"critic": {"encoder": "conv"}}}, (2,)),
}
"""Settings, and the checkpoints to go on from: 0 is that of the stage's beginning, before the warm-up."""


@pytest.mark.parametrize("name", VARIANTS)
def test_rl_goes_on_exactly(replay, start, tmp_path, monkeypatch, name):
    folder, backbone_id = start
    changes, numbers = VARIANTS[name]
    write_demonstrations(replay)
    settings = rl_settings(replay, folder, **changes)
    kept = Kept(monkeypatch, tmp_path / "kept")
    whole = run_whole(settings, tmp_path / "whole", backbone_id)
    for number in numbers:
        out = kept.at(number, tmp_path / f"from{number}")
        assert run_rl(settings, out, resume=True, stop=never)
        assert_goes_on(whole, out, UPDATES - CHECKPOINT_EVERY * number)
        assert len(lines(out)) == len(lines(whole)) - (CHECKPOINT_EVERY * number + WARMUP if number else 0)


def test_rows_of_two_shards_come_back_in_their_order(replay, urls, start, tmp_path, monkeypatch):
    folder, backbone_id = start
    pair = replace(replay, urls=urls)
    write_demonstrations(pair, backbone_id)
    settings = rl_settings(pair, folder, sampling={"twin": "priority"})
    kept = Kept(monkeypatch, tmp_path / "kept")
    whole = run_whole(settings, tmp_path / "whole", backbone_id)
    for number in (1, 3):
        out = kept.at(number, tmp_path / f"from{number}")
        assert run_rl(settings, out, resume=True, stop=never)
        assert_goes_on(whole, out, UPDATES - CHECKPOINT_EVERY * number)


def sft_settings(replay, **changes):
    train = TrainSettings(steps=20, batch_size=8)
    defaults = {"log_every": 1, "checkpoint_every": 7, "schema": SCHEMA, "policy": SMALL, "train": train}
    return SftSettings(replay=replay, **(defaults | changes))


def test_sft_goes_on_exactly_though_demonstrations_have_come_since(replay, urls, tmp_path, monkeypatch):
    pair = replace(replay, urls=urls)
    write_demonstrations(pair)
    settings = sft_settings(pair)
    kept = Kept(monkeypatch, tmp_path / "kept")
    assert run_sft(settings, tmp_path / "whole", resume=False, stop=never)
    write(pair, "demo", "another", 5, start=100)
    for number, step in ((0, 7), (1, 14)):
        out = kept.at(number, tmp_path / f"from{step}")
        assert run_sft(settings, out, resume=True, stop=never)
        assert_goes_on(tmp_path / "whole", out, 20 - step)
        assert len(lines(out)) == 20 - step
    assert run_sft(settings, tmp_path / "anew", resume=False, stop=never)
    assert lines(tmp_path / "anew") != lines(tmp_path / "whole")


def test_a_shard_that_is_needed_and_away_is_named(replay, start, tmp_path, monkeypatch):
    folder, backbone_id = start
    with EmbeddedServer(tmp_path / "server") as server:
        gone = replace(replay, urls=(*replay.urls, server.url))
        write_demonstrations(gone, backbone_id)
        settings = rl_settings(gone, folder, resume=ResumeSettings(timeout_s=0.2))
        kept = Kept(monkeypatch, tmp_path / "kept")
        run_whole(settings, tmp_path / "whole", backbone_id)
    out = kept.at(1, tmp_path / "out")
    with pytest.raises(Unreachable, match=r"shard 1 .* set partial=true"):
        run_rl(settings, out, resume=True, stop=never)
