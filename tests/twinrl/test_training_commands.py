"""`twinrl sft` and `twinrl rl`, as a person in a lab uses them."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from learner.datasets import ActionScale
from learner.sft import twinrl_train
from learner.stage import SftSettings
from policy.checkpoint import load_manifest, load_policy, save_policy
from policy.model import Policy
from policy.octo.settings import OctoSettings
from policy.settings import HeadSettings, PolicySettings
from protos.episode import Segment
from protos.errors import InputError
from protos.schema import Configuration, Observation, Outcome, Schema, Source
from protos.settings import load_settings, save_settings
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter
from services.telemetry import read_metrics
from twinrl.commands import rl, sft

TIMEOUT_S = 90.0
SMALL = PolicySettings(
    octo=OctoSettings(side_px=16, wrist_px=16, dim=16, layers=1, heads=2, mlp_dim=16), head=HeadSettings(width=32)
)
SCHEMA = Schema(side_px=16, wrist_px=16)
POSES = {"cube": (-0.55, 0.1, 0.018, 0.0), "target": (-0.4, 0.0, 0.001, 0.0)}


def make_segment(rng, name):
    """A successful episode of 10 steps."""
    images = rng.integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)
    proprio = np.zeros((11, 25), np.float32)
    proprio[:, :3] = (-0.5, 0.0, 0.1)
    reward = np.zeros(10, np.float32)
    reward[-1] = 1.0
    return Segment(
        task="pick_and_place",
        scene="bench",
        instruction="Put the cube on the disc.",
        configuration=Configuration(region="A", cell=3, poses=POSES),
        episode=name,
        first_step=0,
        outcome=Outcome.SUCCESS,
        source=Source.TWIN,
        policy_versions=(-1, -1),
        backbone_id="",
        observation=Observation(side=images, wrist=images, proprio=proprio),
        action=rng.uniform(-1, 1, (10, 7)).astype(np.float32),
        reward=reward,
        human=np.zeros(10, bool),
        embedding=None,
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A replay with demonstrations under the prefix "lab", and the twin's transitions for RL."""
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as running:
        rng = np.random.default_rng(0)
        replay = ReplaySettings(urls=(running.url,), prefix="lab")
        with ReplayWriter(replay, SCHEMA, actor="demo", spool=None) as writer:
            for i in range(4):
                writer.add(make_segment(rng, f"d{i}"), ["demo"])
            assert writer.flush(TIMEOUT_S) == 0
        yield running.url


@pytest.fixture
def start(tmp_path):
    """A policy folder to go on from."""
    save_policy(tmp_path / "start", Policy(SMALL))
    return tmp_path / "start"


def common(url, out):
    return ["--replay", url, "--prefix", "lab", "--out", str(out), "--device", "cpu"]


def test_sft_trains_resumes_and_says_so(url, start, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [*common(url, out), "--policy", str(start), "--steps", "6", "--train.batch-size", "4"]
    assert sft.main([*arguments, "--log-every", "2"]) == 0
    said = capsys.readouterr().out
    assert f"saved {out / 'policy'}" in said
    assert "bc" in said
    settings = load_settings(SftSettings, out / "settings.json")
    assert (settings.train.steps, settings.train.batch_size, settings.log_every) == (6, 4, 2)
    assert settings.schema == SCHEMA
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")] == [0, 2, 4, 6]
    with pytest.raises(InputError, match=r"holds the checkpoint of an earlier stage: --resume goes on"):
        sft.main(arguments)
    assert sft.main(["--out", str(out), "--resume", "--steps", "8"]) == 0
    assert [line["step"] for line in read_metrics(out / "metrics.jsonl")][-2:] == [6, 8]


def test_settings_of_a_file_are_where_flags_start(url, start, tmp_path):
    train = {"steps": 3, "optimizer": {"lr": 0.5}, "batch_size": 4}
    data = {"train": train, "log_every": 1, "initial_policy": str(start)}
    (tmp_path / "lab.json").write_text(json.dumps(data))
    out = tmp_path / "out"
    assert sft.main([*common(url, out), "--settings", str(tmp_path / "lab.json"), "--train.optimizer.lr", "0.001"]) == 0
    settings = load_settings(SftSettings, out / "settings.json")
    assert (settings.train.steps, settings.train.optimizer.lr, settings.log_every) == (3, 0.001, 1)
    assert len(read_metrics(out / "metrics.jsonl")) == 4


def test_a_recipe_is_where_flags_start(url, start, tmp_path):
    out = tmp_path / "out"
    small = ["--steps", "2", "--train.batch-size", "4", "--metres", "0.02", "--radians", "0.1"]
    assert sft.main([*common(url, out), "--policy", str(start), "--recipe", "twinrl", *small]) == 0
    settings = load_settings(SftSettings, out / "settings.json")
    assert settings.train == replace(twinrl_train(), steps=2, batch_size=4)
    assert settings.action_scale == ActionScale(metres=0.02, radians=0.1)
    assert load_manifest(out / "policy")["action_scale"] == {"metres": 0.02, "radians": 0.1}
    with pytest.raises(SystemExit):
        sft.main([*common(url, tmp_path / "other"), "--recipe", "another"])


def test_rl_runs_to_its_budget_and_its_policy_can_be_loaded(url, start, tmp_path, capsys):
    replay = ReplaySettings(urls=(url,), prefix="lab")
    out = tmp_path / "out"
    loop = ["--loop.env-steps", "40", "--loop.start-after", "10", "--loop.warmup-updates", "2", "--loop.slack", "40"]
    sizes = ["--batch.online.twin", "4", "--batch.demo.demo", "4", "--update.critic.width", "16"]
    arguments = [*common(url, out), "--policy", str(start), "--engine.kind", "torch", *loop, *sizes]
    with ReplayWriter(replay, SCHEMA, actor="twin", spool=None) as writer:
        process = run("rl", *arguments, "--loop.data-timeout-s", "60")
        until((out / "checkpoint" / "manifest.json").exists, "the stage has begun")
        rng = np.random.default_rng(1)
        for i in range(6):
            writer.add(make_segment(rng, f"t{i}"), ["twin"])
        assert writer.flush(TIMEOUT_S) == 0
        said, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors
    assert f"saved {out / 'policy'}" in said
    assert load_policy(out / "policy").settings == SMALL
    assert read_metrics(out / "metrics.jsonl")[-1]["updates"] == 7  # utd 0.25 x (40 - 10)


def test_ctrl_c_saves_and_says_how_to_go_on(url, start, tmp_path):
    out = tmp_path / "out"
    process = run("sft", *common(url, out), "--policy", str(start), "--steps", "1000000", "--log-every", "1")
    until(lambda: len(read_metrics(out / "metrics.jsonl")) > 2, "some steps")
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, errors
    assert f"To go on: twinrl sft --out {out} --resume" in said
    step = json.loads((out / "checkpoint" / "manifest.json").read_text())["manifest"]["progress"]["step"]
    assert sft.main(["--out", str(out), "--resume", "--steps", str(step + 2)]) == 0


def run(command, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "twinrl.cli", command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )


def until(condition, what):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT_S:g} s: {what}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (sft, [], "nothing to learn from: give a replay, dataset folders"),
        (sft, ["--policy", "tinny"], "--policy tinny: choose one of tiny, small, base, or a folder"),
        (sft, ["--data", "/nowhere", "--steps", "0"], "steps=0: must be greater than 0"),
        (sft, ["--data", "/nowhere", "--metres", "0.1"], "has two numbers: give --metres and --radians"),
        (sft, ["--data", "/nowhere", "--head", "consistency"], "has a consistency head already"),
        (sft, ["--settings", "/nowhere.json"], "/nowhere.json: no such settings file"),
        (rl, [], "name the policy to start from"),
        (rl, ["--policy", "START"], "name the replay that actors write to"),
        (rl, ["--policy", "START", "--replay", "http://x"], r"replay url 'http://x': begin with one of unix://"),
        (rl, ["--policy", "START", "--replay", "redis://x", "--engine.learners", "3"], "no 3 equal parts: learners=3"),
    ],
)
def test_mistakes_are_one_line(command, arguments, says, start, tmp_path):
    given = [str(start) if argument == "START" else argument for argument in arguments]
    with pytest.raises(InputError) as caught:
        command.main([*given, "--out", str(tmp_path / "out")])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_password_stays_with_the_owner(start, tmp_path):
    """The settings file is needed to resume; it names the password's file and nobody else reads it."""
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("pass phrase\n")
    address = ["--replay", "redis://learner@127.0.0.1:1", "--password-file", str(secret)]
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1"):
        sft.main(["--out", str(tmp_path / "out"), "--policy", str(start), *address, "--data-timeout-s", "0.1"])
    kept = (tmp_path / "out" / "settings.json").read_text()
    assert f'"password": "{secret}"' in kept and "phrase" not in kept
    assert (tmp_path / "out" / "settings.json").stat().st_mode & 0o077 == 0


def test_a_settings_file_of_the_module_works_too(url, start, tmp_path):
    """What `python -m learner sft --settings` takes is what the command takes."""
    settings = SftSettings(
        replay=ReplaySettings(urls=(url,), prefix="lab"), schema=SCHEMA, initial_policy=start, log_every=1
    )
    path = save_settings(settings, tmp_path / "sft.json")
    assert sft.main(["--settings", str(path), "--out", str(tmp_path / "out"), "--steps", "1"]) == 0
