"""An RL stage runs in this process: with images and a backbone that trains, late shards, a mismatch."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import redis
import torch
from samples import SCHEMA, TEXT, make_policy, make_segment

from learner.rl import ActorSettings, BatchSettings, CriticSettings, Draws, LoopSettings, RlAgent, UpdateSettings
from learner.stage import EngineSettings, RlSettings, run_rl
from learner.stage.data import wait_for_totals
from learner.stage.publication import Publication
from policy.acting import BatchActor
from policy.checkpoint import load, load_policy, save_policy
from protos.errors import CorruptData, InputError, LeaseLost, Unreachable
from protos.status import STATUS_VARIABLE, read_status
from protos.tensors import part_sha256
from services.replay import EmbeddedServer, Keys, Lease, ReplaySettings, ReplayWriter, ServerConfig
from services.telemetry import read_metrics
from services.weights import WeightSubscriber

TIMEOUT_S = 60.0
IMAGES = UpdateSettings(
    critic=CriticSettings(width=16, encoder="conv"), actor=ActorSettings(backbone="full", lr_backbone=1e-3)
)


ENGINE = EngineSettings(kind="torch")


def never():
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running.url


@pytest.fixture
def make_settings(server, tmp_path):
    """Returns settings of a stage whose transitions are all there when its allowance is asked for."""

    def make(prefix, **changes):
        replay = ReplaySettings(urls=(server,), prefix=prefix)
        save_policy(tmp_path / "start", make_policy(3))
        rng = np.random.default_rng(0)
        with ReplayWriter(replay, SCHEMA, actor="demo", spool=None) as writer:
            for i in range(4):
                writer.add(make_segment(rng, f"d{i}"), ["demo"])
            assert writer.flush(TIMEOUT_S) == 0
        loop = LoopSettings(
            env_steps=60,
            utd=0.5,
            start_after=20,
            slack=60,
            warmup_updates=2,
            publish_every=5,
            log_every=1,
            data_timeout_s=30.0,
        )
        made = RlSettings(
            replay=replay,
            policy=tmp_path / "start",
            schema=SCHEMA,
            batch=BatchSettings(online={"twin": 4}, demo={"demo": 4}),
            loop=loop,
            engine=ENGINE,
            device="cpu",
        )
        return replace(made, **changes)

    return make


def run_with_twin(settings, out):
    """Runs the stage, and a writer that brings its 60 transitions."""

    def write():
        rng = np.random.default_rng(1)
        with ReplayWriter(settings.replay, SCHEMA, actor="twin", spool=None) as writer:
            for i in range(6):
                writer.add(make_segment(rng, f"t{i}", version=1), ["twin"])
            writer.flush(TIMEOUT_S)

    def watch(line):
        if not writer.is_alive() and not writer.ident:
            writer.start()  # after the stage knows what had been there before it

    writer = threading.Thread(target=write)
    try:
        assert run_rl(settings, out, resume=False, stop=never, watch=watch)
    finally:
        writer.join()


def test_a_backbone_that_trains_sees_images_and_is_published_every_time(make_settings, weights, tmp_path):
    settings = make_settings("images", update=IMAGES, weights=weights)
    subscriber = WeightSubscriber(weights, name="test")
    run_with_twin(settings, tmp_path / "out")
    first, final = make_policy(3), load_policy(tmp_path / "out" / "policy")
    assert final.sha256("backbone") != first.sha256("backbone")
    manifest = json.loads((tmp_path / "out" / "checkpoint" / "manifest.json").read_text())["manifest"]
    newest = subscriber.wait(manifest["weights"]["version"] + 1, TIMEOUT_S)
    subscriber.close()
    actor = BatchActor.from_weights(newest, TEXT)
    names = {name: part_sha256(part, "bf16") for name, part in final.parts().items()}
    assert newest.sha256 == names == manifest["weights"]["parts"]
    assert "backbone_id" not in newest.settings
    sent = newest.parts["backbone"]["octo.positions.side"]
    assert np.allclose(sent, final.octo.positions["side"].detach().numpy(), rtol=1e-2, atol=1e-6)
    assert actor.version == newest.version
    lines = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert {"td", "bc", "actor_q"} <= set().union(*lines)


def test_prefetched_batches_give_the_same_run(make_settings, tmp_path, monkeypatch):
    """A thread that fetches images does not change the run."""
    runs = []
    for prefetch in (True, False):
        settings = make_settings(f"prefetch-{prefetch}", update=IMAGES)
        settings = replace(
            settings, loop=replace(settings.loop, warmup_updates=12, env_steps=1, utd=1.0, start_after=1)
        )
        monkeypatch.setattr("learner.rl.batches.Draws.__init__", forced(prefetch))
        run_with_twin(settings, tmp_path / f"{prefetch}")
        lines = read_metrics(tmp_path / f"{prefetch}" / "metrics.jsonl")
        runs.append([line["warmup_td"] for line in lines if "warmup_td" in line])
    assert len(runs[0]) == 12
    assert runs[0] == runs[1]


def forced(prefetch):
    original = Draws.__init__

    def init(self, experience, settings, *, seed, timeout_s, **_):
        original(self, experience, settings, seed=seed, prefetch=prefetch, timeout_s=timeout_s)

    return init


def test_a_frozen_backbone_travels_once(weights, make_settings):
    settings = make_settings("once", weights=weights)
    updater = RlAgent(make_policy(), settings.update, seed=0)
    publication = Publication(settings, make_policy().settings, updater)
    asked = []
    parts = updater.parts
    updater.parts = lambda names: asked.append(tuple(names)) or parts(names)
    first = publication()
    one = publication.sha256()
    with torch.no_grad():
        next(updater.policy.head.parameters()).add_(1.0)
    second = publication()
    assert (first, second) == (1, 2)
    assert asked == [("backbone", "head"), ("head",), ("head",)]
    two = publication.sha256()
    assert two["head"] != one["head"] and two["backbone"] == one["backbone"]
    publication.flush(TIMEOUT_S)
    subscriber = WeightSubscriber(weights, name="test")
    newest = subscriber.wait(2, TIMEOUT_S)
    subscriber.close()
    assert newest.sha256 == two
    assert newest.settings["backbone_id"] == two["backbone"] == updater.policy.sha256("backbone")
    publication.close()


def test_without_a_service_nothing_is_published(make_settings):
    settings = make_settings("silent")
    updater = RlAgent(make_policy(), settings.update, seed=0)
    publication = Publication(settings, make_policy().settings, updater)
    assert publication() == -1
    assert publication.sha256() == {
        "backbone": updater.policy.sha256("backbone"),
        "head": part_sha256(updater.parts(["head"])["head"], "bf16"),
    }
    publication.close()


def test_critics_of_an_earlier_stage_go_on(make_settings, tmp_path):
    run_with_twin(make_settings("earlier"), tmp_path / "earlier")
    settings = make_settings("later", critics=tmp_path / "earlier" / "checkpoint")
    settings = replace(settings, loop=replace(settings.loop, warmup_updates=0))
    asked = iter(range(10**9))
    assert not run_rl(settings, tmp_path / "later", resume=False, stop=lambda: next(asked) > 50)
    earlier, later = (load(tmp_path / name / "checkpoint")[0] for name in ("earlier", "later"))
    names = [name for name in earlier if name.startswith(("critic.", "target."))]
    assert names
    assert all(torch.equal(earlier[name], later[name]) for name in names)


def test_a_second_learner_of_a_run_is_refused(make_settings, tmp_path):
    settings = make_settings("two")
    with Lease(settings.replay, name="first", lifetime_s=1.0) as first:
        assert first.take()
        with pytest.raises(InputError, match=r"the learner of first \(pid .*\) leads the run 'two'"):
            run_rl(settings, tmp_path / "second", resume=False, stop=never)


def test_a_learner_that_lost_the_lead_leaves_everything_as_it_is(make_settings, tmp_path, server):
    settings = make_settings("lost")
    lines = []

    def watch(line):
        lines.append(line)
        with redis.Redis.from_url(server) as client:
            client.mset({"lost:learner": "{}", "lost:learner:number": 99})

    with pytest.raises(LeaseLost, match="another learner leads the run 'lost' now"):
        run_rl(settings, tmp_path / "out", resume=False, stop=never, watch=watch)
    assert len(lines) == 1
    assert not (tmp_path / "out" / "checkpoint").exists() and not (tmp_path / "out" / "policy").exists()
    with redis.Redis.from_url(server) as client:
        assert client.get(Keys("lost", "twin").allowance) is None


def test_a_shard_that_is_late_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv(STATUS_VARIABLE, str(tmp_path / "status.json"))
    settings = ReplaySettings(urls=(f"unix://{tmp_path}/valkey.sock",), connect_timeout_s=1.0)
    found = []
    waiting = threading.Thread(target=lambda: found.append(wait_for_totals(settings, TIMEOUT_S, never)))
    waiting.start()
    try:
        while (status := read_status(tmp_path / "status.json")) is None:
            assert waiting.is_alive()
        assert (status.doing, status.waiting_for.startswith("replay: ")) == ("starting", True)
        with EmbeddedServer(tmp_path, ServerConfig(socket=tmp_path / "valkey.sock")):
            waiting.join(TIMEOUT_S)
    finally:
        waiting.join(TIMEOUT_S)
    assert found == [dict.fromkeys(found[0], 0)]


def test_a_shard_that_stays_away_is_named_with_the_deadline(tmp_path):
    settings = ReplaySettings(urls=(f"unix://{tmp_path}/nobody.sock",))
    with pytest.raises(Unreachable, match=r"nobody\.sock.*given up after 0\.1 s"):
        wait_for_totals(settings, 0.1, never)
    assert wait_for_totals(settings, 60.0, lambda: True) == {}


def test_weights_with_another_backbone_than_the_promised_one_are_refused(weights, make_settings):
    settings = make_settings("id", weights=weights)
    updater = RlAgent(make_policy(), settings.update, seed=0)
    publication = Publication(settings, make_policy().settings, updater)
    publication._backbone_id = "0" * 64
    subscriber = WeightSubscriber(weights, name="test")
    publication()
    received = subscriber.wait(1, TIMEOUT_S)
    subscriber.close()
    publication.close()
    with pytest.raises(CorruptData, match="its settings promise 0000000000000000"):
        BatchActor.from_weights(received, TEXT)
