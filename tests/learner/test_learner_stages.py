"""Stages against a real Valkey and a real weights process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from samples import SCHEMA, SMALL, TEXT, make_policy, make_segment

from learner.settings import (
    LoopSettings,
    RlSettings,
    Selection,
    SftSettings,
    TrainSettings,
    UpdateSettings,
)
from learner.sources import read_episodes
from learner.stages import run_sft
from policy.acting import BatchActor
from policy.checkpoint import load, load_policy, save_policy
from protos.errors import InputError, Unreachable
from protos.schema import Outcome, Source
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


@pytest.fixture(scope="module")
def demos(server):
    """Prefix "demos": A and B in the twin, A on the arm, one failure."""
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
    assert [episode.name for episode in read_episodes(sft_settings(demos, select=select), never)] == names


def test_an_empty_selection_is_reported(demos):
    with pytest.raises(Unreachable, match=r"no episode.*data_timeout_s=0\.1"):
        read_episodes(sft_settings(demos, select=(Selection(buffer="human"),), data_timeout_s=0.1), never)


def test_sft_stopped_and_resumed_equals_sft_in_one_go(demos, tmp_path):
    settings = sft_settings(demos)
    assert run_sft(settings, tmp_path / "whole", resume=False, stop=never)
    asked = iter(range(1000))
    assert not run_sft(settings, tmp_path / "parts", resume=False, stop=lambda: next(asked) > 12)
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


def test_cameras_that_do_not_fit_are_refused(demos, tmp_path):
    settings = SftSettings(replay=demos, schema=SCHEMA)
    with pytest.raises(InputError, match="64 and 64 pixels, the schema says 16 and 16"):
        run_sft(settings, tmp_path, resume=False, stop=never)


class Feeder:
    """A twin actor without a twin: writes episodes as far as the learner allows."""

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


@pytest.fixture
def weights(tmp_path):
    """Address of a weights process of this test."""
    port = tmp_path / "port"
    command = [sys.executable, "-m", "services.weights", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen([*command, "--store", str(tmp_path / "store"), "--port-file", str(port)])
    until(port.exists, "the weights process listens")
    yield f"127.0.0.1:{port.read_text().strip()}"
    process.terminate()
    process.wait(timeout=30)


def until(condition, what):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_S:g} s: {what}"
        time.sleep(0.05)


def start(settings, out, *flags):
    command = [sys.executable, "-m", "learner", "rl", "--settings", str(settings), "--out", str(out), *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_rl_publishes_stops_cleanly_and_goes_on(server, weights, tmp_path):
    """One stage in two processes: plain torch until SIGTERM, RLlib from the checkpoint to the end."""
    policy = make_policy(3)
    save_policy(tmp_path / "start", policy)
    replay = ReplaySettings(urls=(server,), prefix="rl")
    rng = np.random.default_rng(0)
    with ReplayWriter(replay, SCHEMA, actor="demo", spool=None) as writer:
        for i in range(6):
            writer.add(make_segment(rng, f"d{i}"), ["demo"])  # no readouts: the learner makes them
        for i in range(3):
            writer.add(make_segment(rng, f"s{i}", backbone_id=policy.backbone_id), ["twin"])
        writer.flush(TIMEOUT_S)
    settings = RlSettings(
        replay=ReplaySettings(urls=(server,), prefix="rl"),
        policy=tmp_path / "start",
        weights=weights,
        schema=SCHEMA,
        update=UpdateSettings(critic_width=16),
        loop=LoopSettings(
            online={"twin": 8},
            demo={"demo": 8},
            env_steps=850,
            start_after=50,
            slack=200,
            warmup_updates=10,
            publish_every=20,
            data_timeout_s=30.0,
        ),
        seed_twin_episodes=2,
        engine="torch",
    )
    first, second = (save_settings(s, tmp_path / f"{s.engine}.json") for s in (settings, with_rllib(settings)))
    out = tmp_path / "out"
    subscriber = WeightSubscriber(weights, name="test")
    process = start(first, out)
    subscriber.wait(1, TIMEOUT_S)
    with Feeder(replay, policy.backbone_id):
        until(lambda: updates(out) >= 50 or process.poll() is not None, "50 updates")
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
        assert process.returncode == 0, said
        assert "saved" in said
        assert "--resume goes on" in said
        stopped_at = manifest(out)["state"]["updates"]
        assert 50 <= stopped_at < 200
        assert manifest(out)["state"]["base"] == {"twin": 30}
        process = start(second, out, "--resume")
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
    assert f"going on from update {stopped_at}" in said
    state = manifest(out)["state"]
    assert state["updates"] == 200  # utd 0.25 x (850 - 50)
    assert totals(replay)["demo"] == 80  # two twin successes joined, once
    newest = subscriber.wait(state["version"] + 1, TIMEOUT_S)  # the checkpoint is written before the last version
    subscriber.close()
    final = load_policy(out / "policy")
    assert_saves_the_head(out)
    for name, tensor in final.head.state_dict().items():
        sent = newest.parts["head"][f"head.{name}"]  # as bf16
        assert np.allclose(sent, tensor.numpy(), rtol=1e-2, atol=1e-6)
    assert final.backbone_id == policy.backbone_id == BatchActor.from_weights(newest, TEXT).backbone_id
    assert not torch.equal(final.head.net[0].weight, policy.head.net[0].weight)
    lines = read_metrics(out / "metrics.jsonl")
    assert lines[-1]["step"] == lines[-1]["total"] == 850
    assert any(line.get("sample_age", 0) > 0 for line in lines)


def assert_saves_the_head(out):
    """The policy's head is the one that the checkpoint goes on from."""
    tensors, _ = load(out / "checkpoint")
    for name, tensor in load_policy(out / "policy").head.state_dict().items():
        assert torch.equal(tensor, tensors[f"policy.head.{name}"])


def with_rllib(settings):
    return RlSettings(**(vars(settings) | {"engine": "rllib"}))


def updates(out):
    lines = read_metrics(out / "metrics.jsonl")
    return lines[-1]["updates"] if lines else 0


def manifest(out):
    return json.loads((out / "checkpoint" / "manifest.json").read_text())["manifest"]


def test_bad_settings_end_with_one_line(tmp_path):
    path = tmp_path / "rl.json"
    path.write_text(json.dumps({"replay": {"urls": ["unix:///nowhere"]}, "policy": "p", "gama": 0.9}))
    process = start(path, tmp_path / "out")
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said.strip().splitlines() == [said.strip()]
    assert "gamma" in said
