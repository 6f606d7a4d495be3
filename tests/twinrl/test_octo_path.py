"""What a lab does with a released Octo: import, fine-tune with a new head, train on what actors stream, act."""

import os
import threading
import time
from pathlib import Path

import pytest
from acted_episodes import TEXT, act, write_episodes

from actors.policies import NoPolicy, StoredPolicy
from policy.checkpoint import load_manifest, load_policy
from protos.errors import InputError
from protos.schema import Schema
from services.replay import EmbeddedServer, ReplaySettings
from services.telemetry import read_metrics
from twinrl.commands import import_octo, rl, sft

DATA = Path(os.environ.get("TWINRL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
CHECKPOINT, BRIDGE = DATA / "octo" / "octo_tiny_ckpt", DATA / "bridge" / "bridge_dataset"
SCHEMA = Schema(side_px=64, wrist_px=32)
TIMEOUT_S = 90.0


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    for folder in (CHECKPOINT, BRIDGE):
        if not folder.is_dir():
            pytest.skip(f"no {folder}; set TWINRL_SHARED_DATA to the folder of shared test data")
    folder = tmp_path_factory.mktemp("imported") / "octo"
    assert import_octo.main([str(CHECKPOINT), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def server(tmp_path):
    with EmbeddedServer(tmp_path) as running:
        yield running.url


def fine_tune(imported, out, *flags):
    flags = ("--head", "consistency", "--steps", "3", "--train.batch-size", "8", "--device", "cpu", *flags)
    return sft.main(["--data", str(BRIDGE), "--policy", str(imported), "--out", str(out), *flags])


@pytest.mark.parametrize("recipe", ["conrft", "twinrl"])
def test_from_a_released_checkpoint_to_a_policy_that_acts(recipe, imported, server, tmp_path, capsys):
    """ConRFT leaves Octo as it is, TwinRL trains all of it; the critics see images."""
    tuned, trained = tmp_path / "sft", tmp_path / "rl"
    assert fine_tune(imported, tuned, "--language", "stand-in", "--recipe", recipe) == 0
    assert "kept: backbone of 2 × 64, window 2" in capsys.readouterr().out
    policy, first = load_policy(tuned / "policy"), load_policy(imported)
    assert (policy.sha256("backbone") == first.sha256("backbone")) == (recipe == "conrft")
    scale = load_manifest(tuned / "policy")["action_scale"]
    assert 0.001 < scale["metres"] < 0.1, "Bridge moves some millimetres a step"

    replay = ReplaySettings(urls=(server,), prefix="lab")
    write_episodes(replay, SCHEMA, NoPolicy(), "demo", episodes=2)
    actor = threading.Thread(target=stream, args=(replay, tuned / "policy", trained))
    actor.start()
    sizes = ["--batch.online.twin", "4", "--batch.demo.demo", "4", "--update.critic.width", "16"]
    loop = ["--loop.env-steps", "50", "--loop.start-after", "10", "--loop.warmup-updates", "2", "--loop.utd", "0.1"]
    given = ["--policy", str(tuned / "policy"), "--replay", server, "--prefix", "lab", "--out", str(trained)]
    assert rl.main([*given, "--recipe", recipe, *loop, *sizes, "--engine.kind", "torch", "--device", "cpu"]) == 0
    actor.join(TIMEOUT_S)

    assert read_metrics(trained / "metrics.jsonl")[-1]["updates"] == 4
    trained_backbone = load_policy(trained / "policy").sha256("backbone")
    assert (trained_backbone == policy.sha256("backbone")) == (recipe == "conrft")
    final = StoredPolicy(trained / "policy", TEXT, explore=0.0, seed=0)
    assert final.window == 2
    assert [result.steps for result in act(final, Nowhere(), SCHEMA, episodes=2)] == [20, 20]
    assert load_manifest(trained / "policy")["action_scale"] == scale


def stream(replay, policy, stage):
    """Acts once the stage has begun."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (stage / "checkpoint" / "manifest.json").exists():
        assert time.monotonic() < deadline, f"the stage has not begun within {TIMEOUT_S:g} s"
        time.sleep(0.05)
    write_episodes(replay, SCHEMA, StoredPolicy(policy, TEXT, explore=0.1, seed=0), "twin", episodes=4)


class Nowhere:
    def add(self, segment):
        """Looked at by nobody."""


def test_without_its_language_encoder_the_ways_out_are_named(imported, tmp_path):
    with pytest.raises(InputError, match=r"--tokenizer FOLDER.*--language stand-in"):
        fine_tune(imported, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_imported_head_can_be_fine_tuned_but_not_trained_by_reinforcement(imported, tmp_path, capsys):
    keep = ["--head", "keep", "--language", "stand-in"]
    assert fine_tune(imported, tmp_path / "out", *keep) == 0
    assert "kept:" not in capsys.readouterr().out
    policy = tmp_path / "out" / "policy"
    assert load_policy(policy).settings.action_head == "diffusion"
    with pytest.raises(InputError, match=r"has a diffusion head.*twinrl sft --policy .* --head consistency"):
        rl.main(["--policy", str(policy), "--replay", "redis://127.0.0.1:1", "--out", str(tmp_path / "rl")])
    assert not (tmp_path / "rl").exists()
