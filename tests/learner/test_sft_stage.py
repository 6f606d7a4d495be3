"""The supervised stage runs with a real Valkey."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import SCHEMA, SMALL, make_demo, make_segment, recorded

from learner.datasets import ActionScale
from learner.datasets.rlds import RldsWriter
from learner.sft import TrainSettings
from learner.stage import ResumeSettings, Selection, SftSettings, run_sft
from learner.stage.data import EpisodeNames, selected_episodes
from policy.checkpoint import load, load_policy
from protos.errors import CorruptData, InputError, Unreachable
from protos.schema import Outcome, Source
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter
from services.telemetry import read_metrics

TIMEOUT_S = 60.0


def never():
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running.url


@pytest.fixture(scope="module")
def demos(server):
    """Writes under the prefix "demos": A and B in the twin, A on the arm, one failure."""
    rng = np.random.default_rng(0)
    with ReplayWriter(ReplaySettings(urls=(server,), prefix="demos"), SCHEMA, actor="demo", spool=None) as writer:
        for i in range(4):
            writer.add(make_segment(rng, f"a{i}", region="A"), ["demo"])
            writer.add(make_segment(rng, f"b{i}", region="B"), ["demo"])
            writer.add(make_segment(rng, f"r{i}", region="A", source=Source.REAL), ["demo"])
        writer.add(make_segment(rng, "failed", outcome=Outcome.FAILURE), ["demo"])
        assert writer.flush(TIMEOUT_S) == 0
    return ReplaySettings(urls=(server,), prefix="demos")


def sft_settings(replay, **changes):
    train = TrainSettings(steps=12, batch_size=8)
    return SftSettings(replay=replay, schema=SCHEMA, policy=SMALL, train=train, log_every=5, **changes)


@pytest.mark.parametrize(
    ("select", "names"),
    [
        ((Selection(),), ["a0", "b0", "r0", "a1", "b1", "r1", "a2", "b2", "r2", "a3", "b3", "r3"]),
        ((Selection(source=Source.REAL, region="A", limit=2),), ["r0", "r1"]),
        ((Selection(region="B"), Selection(outcome=Outcome.FAILURE)), ["b0", "b1", "b2", "b3", "failed"]),
    ],
)
def test_selections(demos, select, names):
    assert [episode.name for episode in selected_episodes(sft_settings(demos, select=select), never)[0]] == names


def test_an_empty_selection_is_reported(demos):
    with pytest.raises(Unreachable, match=r"no episode.*data_timeout_s=0\.1"):
        selected_episodes(sft_settings(demos, select=(Selection(buffer="human"),), data_timeout_s=0.1), never)


def test_sft_stopped_and_resumed_equals_sft_in_one_go(demos, tmp_path):
    settings = sft_settings(demos)
    assert run_sft(settings, tmp_path / "whole", resume=False, stop=never)
    told = []
    assert not run_sft(settings, tmp_path / "parts", resume=False, stop=lambda: len(told) > 1, watch=told.append)
    assert read_metrics(tmp_path / "parts" / "metrics.jsonl")[-1]["step"] < 12
    assert run_sft(settings, tmp_path / "parts", resume=True, stop=never)
    whole, parts = (load_policy(tmp_path / name / "policy").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), parts.values(), strict=True))
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert [(line["step"], line["total"], line["stage"]) for line in lines] == [
        (0, 12, "whole"),
        (5, 12, "whole"),
        (10, 12, "whole"),
        (12, 12, "whole"),
    ]


def test_names_that_are_none_are_refused():
    with pytest.raises(CorruptData, match="not the names of episodes"):
        EpisodeNames.parse({"format": 1, "shards": [], "mirrors": {}})


def test_episodes_that_the_replay_no_longer_has_are_counted(demos, caplog):
    settings = sft_settings(demos)
    names = EpisodeNames(episodes=(("demo", "b1", 10), ("demo", "gone", 10), ("demo", "a0", 10)))
    found, again = selected_episodes(settings, never, names)
    assert [episode.name for episode in found] == ["b1", "a0"]
    assert again is names
    assert "no longer has 1 of the 3 episodes" in caplog.text


def test_a_shard_that_is_away_is_waited_for_and_then_done_without(demos):
    away = replace(demos, urls=(*demos.urls, "redis://127.0.0.1:1"))
    names = EpisodeNames(episodes=(("demo", "b1", 10),))
    settings = sft_settings(away, resume=ResumeSettings(timeout_s=0.2))
    with pytest.raises(Unreachable, match=r"shard 1 .* set partial=true"):
        selected_episodes(settings, never, names)
    partial = replace(settings, resume=ResumeSettings(timeout_s=0.2, partial=True))
    assert [episode.name for episode in selected_episodes(partial, never, names)[0]] == ["b1"]


@pytest.fixture
def folder(tmp_path):
    """Writes an RLDS dataset of three episodes."""
    rng = np.random.default_rng(3)
    writer = RldsWriter(tmp_path / "rlds", SCHEMA, action_scale=ActionScale(metres=0.03, radians=0.0))
    for i in range(3):
        writer.add(recorded(make_demo(rng), f"e{i}"))
    writer.close()
    return tmp_path / "rlds"


@pytest.mark.parametrize("beside", [False, True])
def test_dataset_folders_are_learnt_from_instead_of_a_replay_or_beside_it(demos, folder, beside, tmp_path, caplog):
    settings = sft_settings(demos if beside else None, data=(folder,))
    with caplog.at_level("INFO"):
        assert run_sft(settings, tmp_path / "out", resume=False, stop=never)
    assert f"fine-tuning on {12 + 3 if beside else 3} episodes" in caplog.text
    manifest = load(tmp_path / "out" / "policy")[1]
    assert manifest["action_scale"] == {"metres": pytest.approx(0.03), "radians": 0.0}


OUTCOMES = (Outcome.SUCCESS, Outcome.UNKNOWN, Outcome.FAILURE, Outcome.FAILURE, Outcome.TIMEOUT)


@pytest.mark.parametrize(
    ("outcomes", "count", "line"),
    [
        (None, 2, "left out for their outcome: failure 2, timeout 1"),
        ("all", 5, ""),
        ("success", 1, "unknown 1, failure 2, timeout 1"),
        ("success, failure", 3, "unknown 1, timeout 1"),
    ],
)
def test_failures_are_learnt_from_by_choice_only(outcomes, count, line, tmp_path, caplog):
    rng = np.random.default_rng(3)
    writer = RldsWriter(tmp_path / "rlds", SCHEMA, action_scale=ActionScale(metres=0.03, radians=0.0))
    for i, outcome in enumerate(OUTCOMES):
        writer.add(replace(recorded(make_demo(rng), f"e{i}"), outcome=outcome))
    writer.close()
    chosen = {} if outcomes is None else {"outcomes": outcomes}
    settings = sft_settings(None, data=(tmp_path / "rlds",), **chosen)
    with caplog.at_level("INFO"):
        assert run_sft(settings, tmp_path / "out", resume=False, stop=never)
    assert f"fine-tuning on {count} episodes" in caplog.text and line in caplog.text
    assert line or "left out" not in caplog.text


def test_data_without_a_chosen_outcome_end_the_stage(folder, tmp_path):
    with pytest.raises(InputError, match=r"all of its episodes have other outcomes: success 3; .*--outcomes all"):
        run_sft(sft_settings(None, data=(folder,), outcomes="failure"), tmp_path / "out", resume=False, stop=never)
    with pytest.raises(InputError, match=r"outcomes='won': 'won' is none of .*; or all by itself"):
        sft_settings(None, data=(folder,), outcomes="won")


def test_a_replay_that_does_not_fit_into_memory_is_refused(demos, tmp_path):
    with pytest.raises(InputError, match="memory_bytes=1000: with the replay's 12 episodes"):
        run_sft(sft_settings(demos, memory_bytes=1000), tmp_path, resume=False, stop=never)


def test_without_anything_to_learn_from_there_is_nothing_to_do():
    with pytest.raises(InputError, match="nothing to learn from"):
        SftSettings()


def test_cameras_that_do_not_fit_are_refused(demos, tmp_path):
    settings = SftSettings(replay=demos, schema=SCHEMA)
    with pytest.raises(InputError, match="64 and 64 pixels, the schema says 16 and 16"):
        run_sft(settings, tmp_path, resume=False, stop=never)
