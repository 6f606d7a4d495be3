"""The stages run with a real Valkey and a real weights process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import SCHEMA, TEXT, make_policy, make_segment

from learner.rl import BatchSettings, CriticSettings, LoopSettings, UpdateSettings
from learner.stage import EngineSettings, RlSettings
from policy.acting import BatchActor
from policy.checkpoint import load, load_policy, save_policy
from protos.schema import Outcome
from protos.settings import save_settings
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, totals
from services.telemetry import read_metrics
from services.weights import WeightSubscriber

TIMEOUT_S = 60.0


def never():
    return False


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as running:
        yield running.url


class Feeder:
    """Writes episodes as far as the learner allows, like a twin actor without a twin."""

    def __init__(self, replay, backbone_id):
        self._writer = ReplayWriter(replay, SCHEMA, actor="feeder", spool=None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(backbone_id,))

    def _run(self, backbone_id):
        rng = np.random.default_rng(1)
        for count in range(100_000):
            self._writer.wait_for_allowance("twin", self._stop.is_set)
            if self._stop.is_set():
                return
            outcome = Outcome.SUCCESS if count % 2 else Outcome.TIMEOUT
            segment = make_segment(rng, f"t{count}", outcome=outcome, backbone_id=backbone_id, version=1)
            self._writer.add(segment, ["twin"])
            time.sleep(0.005)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._writer.close()


def until(condition, what):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_S:g} s: {what}"
        time.sleep(0.05)


def start(settings, out, *flags):
    command = [sys.executable, "-m", "learner", "rl", "--settings", str(settings), "--out", str(out), *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_rl_publishes_stops_cleanly_and_goes_on(server, weights, tmp_path):
    """One stage runs in two processes: plain torch until SIGTERM, RLlib from the checkpoint to the end."""
    policy = make_policy(3)
    save_policy(tmp_path / "start", policy)
    replay = ReplaySettings(urls=(server,), prefix="rl")
    rng = np.random.default_rng(0)
    with ReplayWriter(replay, SCHEMA, actor="demo", spool=None) as writer:
        for i in range(6):
            writer.add(make_segment(rng, f"d{i}"), ["demo"])  # no readouts: the learner makes them
        for i in range(3):
            writer.add(make_segment(rng, f"s{i}", backbone_id=policy.sha256("backbone")), ["twin"])
        writer.flush(TIMEOUT_S)
    settings = RlSettings(
        replay=ReplaySettings(urls=(server,), prefix="rl"),
        policy=tmp_path / "start",
        weights=weights,
        schema=SCHEMA,
        update=UpdateSettings(critic=CriticSettings(width=16)),
        batch=BatchSettings(online={"twin": 8}, demo={"demo": 8}),
        loop=LoopSettings(
            env_steps=850,
            start_after=50,
            slack=200,
            warmup_updates=10,
            publish_every=20,
            data_timeout_s=30.0,
        ),
        seed_twin_episodes=2,
        engine=EngineSettings(kind="torch"),
    )
    first, second = (save_settings(s, tmp_path / f"{s.engine.kind}.json") for s in (settings, with_rllib(settings)))
    out = tmp_path / "out"
    subscriber = WeightSubscriber(weights, name="test")
    process = start(first, out)
    subscriber.wait(1, TIMEOUT_S)
    with Feeder(replay, policy.sha256("backbone")):
        until(lambda: updates(out) >= 50 or process.poll() is not None, "50 updates")
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 0, said
        assert "saved" in said
        assert "--resume goes on" in said
        stopped_at = manifest(out)["progress"]["updates"]
        assert 50 <= stopped_at < 200
        assert manifest(out)["progress"]["base"] == {"twin": 30}
        process = start(second, out, "--resume")
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
    assert f"going on from update {stopped_at}" in said
    state = manifest(out)["progress"]
    assert state["updates"] == 200  # utd 0.25 x (850 - 50)
    assert totals(replay)["demo"] == 80  # two twin successes joined, once
    newest = subscriber.wait(state["version"] + 1, TIMEOUT_S)  # the checkpoint is written before the last version
    subscriber.close()
    final = load_policy(out / "policy")
    assert_saves_the_head(out)
    for name, tensor in final.head.state_dict().items():
        sent = newest.parts["head"][f"head.{name}"]  # as bf16
        assert np.allclose(sent, tensor.numpy(), rtol=1e-2, atol=1e-6)
    assert final.sha256("backbone") == policy.sha256("backbone") == BatchActor.from_weights(newest, TEXT).backbone_id
    assert not torch.equal(final.head.net[0].weight, policy.head.net[0].weight)
    lines = read_metrics(out / "metrics.jsonl")
    assert lines[-1]["step"] == lines[-1]["total"] == 850
    assert any(line.get("sample_age", 0) > 0 for line in lines)


def test_a_killed_learner_finds_its_data_and_its_version(server, weights, tmp_path):
    """The process is killed between two checkpoints; the second one has only what the replay has."""
    policy = make_policy(3)
    save_policy(tmp_path / "start", policy)
    replay = ReplaySettings(urls=(server,), prefix="killed")
    rng = np.random.default_rng(0)
    with ReplayWriter(replay, SCHEMA, actor="demo", spool=None) as writer:
        for i in range(6):
            writer.add(make_segment(rng, f"d{i}", backbone_id=policy.sha256("backbone")), ["demo"])
        assert writer.flush(TIMEOUT_S) == 0
    settings = RlSettings(
        replay=replay,
        policy=tmp_path / "start",
        weights=weights,
        schema=SCHEMA,
        update=UpdateSettings(critic=CriticSettings(width=16)),
        batch=BatchSettings(online={"twin": 8}, demo={"demo": 8}, sampling={"twin": "priority", "demo": "cells"}),
        loop=LoopSettings(
            env_steps=850,
            utd=1.0,
            start_after=50,
            slack=2000,
            warmup_updates=5,
            publish_every=20,
            checkpoint_every=50,
            data_timeout_s=30.0,
        ),
        engine=EngineSettings(kind="torch"),
    )
    path, out = save_settings(settings, tmp_path / "rl.json"), tmp_path / "out"
    subscriber = WeightSubscriber(weights, name="test")
    process = start(path, out)
    subscriber.wait(1, TIMEOUT_S)  # from here on what is written belongs to the stage
    with ReplayWriter(replay, SCHEMA, actor="twin", spool=None) as writer:
        for i in range(85):
            writer.add(make_segment(rng, f"t{i}", backbone_id=policy.sha256("backbone"), version=1), ["twin"])
        assert writer.flush(TIMEOUT_S) == 0
    until(lambda: checkpointed(out) >= 50, "a checkpoint after 50 updates")
    process.kill()
    process.communicate(timeout=30)
    before = manifest(out)["progress"]
    assert 50 <= before["updates"] < 800
    published = subscriber.wait(before["version"], TIMEOUT_S).version
    process = start(path, out, "--resume")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert f"going on from update {before['updates']}" in said
    after = manifest(out)["progress"]
    assert (after["updates"], after["base"]) == (800, {"twin": 0})
    assert subscriber.wait(after["version"], TIMEOUT_S).version > published
    subscriber.close()


def assert_saves_the_head(out):
    """The policy's head is the one that the checkpoint goes on from."""
    tensors, _ = load(out / "checkpoint")
    for name, tensor in load_policy(out / "policy").head.state_dict().items():
        assert torch.equal(tensor, tensors[f"policy.head.{name}"])


def with_rllib(settings):
    return replace(settings, engine=EngineSettings(kind="rllib"))


def updates(out):
    lines = read_metrics(out / "metrics.jsonl")
    return lines[-1]["updates"] if lines else 0


def checkpointed(out):
    return manifest(out)["progress"]["updates"] if (out / "checkpoint" / "manifest.json").exists() else -1


def manifest(out):
    return json.loads((out / "checkpoint" / "manifest.json").read_text())["manifest"]


def test_bad_settings_end_with_one_line(tmp_path):
    path = tmp_path / "rl.json"
    path.write_text(json.dumps({"replay": {"urls": ["unix:///nowhere"]}, "policy": "p", "batch": {"gama": 0.9}}))
    process = start(path, tmp_path / "out")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said.strip().splitlines() == [said.strip()]
    assert "gamma" in said
