"""The replay benchmark: it runs, it compares the right images, and it says what did not run."""

import ast
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.images import film, make_steps
from benchmarks.measure import cpu_seconds, descendants, resident_bytes, spread, table, take_turns
from benchmarks.peers.protocol import Data, Job
from benchmarks.replay import run as replay
from benchmarks.replay.run import ReplayBench
from benchmarks.replay.systems import BASE, PINS, Worker, interpreter
from protos.errors import InputError, Unreachable

TOOLS = {
    "reverb_peer": ("tensorflow",),
}
"""What a peer needs beside itself."""
PEERS = sorted((Path(replay.__file__).parents[1] / "peers").glob("*.py"))
TINY = ReplayBench(
    quick=True, seconds=0.3, warm_up_s=0.1, batch=16, capacity=160, writers=1, side_px=32, wrist_px=16, no_peers=True
)


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]


def peer_environment(folder, peer, script):
    """An environment that looks complete and whose Python is a shell script."""
    (folder / peer / "bin").mkdir(parents=True)
    (folder / peer / "pins.txt").write_text("\n".join(PINS[peer]))
    python = folder / peer / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o700)
    return folder


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return make_steps(tmp_path_factory.mktemp("steps"), segments=3, side_px=32, wrist_px=16)


def transitions(data, rows):
    """A right batch: (segment, step) for each row."""
    batch = {}
    for name in ("side", "wrist", "proprio"):
        arrays = getattr(data, name)
        batch[name] = np.stack([arrays[segment, step] for segment, step in rows])
        batch[f"next_{name}"] = np.stack([arrays[segment, step + 1] for segment, step in rows])
    return batch | {"action": np.stack([data.action[row] for row in rows])}


def test_batches_are_delivered_by_mirror_and_direct():
    header, _, *rows = cells(replay.run(replace(TINY, parts=("batches",), only=("raw, direct",))))
    assert [row[0] for row in rows] == [BASE, "TwinRL, raw, direct"]
    for row in rows:
        assert len(row) == len(header)
        assert float(row[1].replace(",", "")) > 0


def test_steps_and_ingest_are_measured():
    text = replay.run(replace(TINY, parts=("step", "ingest"), only=("no other",)))
    names = [row[0] for row in cells(text) if row[0] not in ("---", "system", "server's log")]
    assert names == ["TwinRL, JPEG, mirror, prefetch 2", "fsynced each second", "none"]


def test_a_peer_that_does_not_run_is_said_and_ours_still_measured(tmp_path):
    peers = peer_environment(tmp_path, "reverb", "echo no such processor >&2; exit 3")
    text = replay.run(replace(TINY, parts=("batches",), only=("own",), no_peers=False, peers=peers))
    assert BASE in text
    assert "Not measured: dm-reverb, in a process of its own: the worker of reverb ended: no such processor" in text


def test_a_peer_that_fails_in_a_round_is_said_and_the_others_go_on(tmp_path):
    script = """read job; echo '{"ready": true}'; read order; echo 'ring was killed' >&2; exit 1"""
    peers = peer_environment(tmp_path, "reverb", script)
    text = replay.run(replace(TINY, parts=("batches",), only=("own",), no_peers=False, peers=peers))
    assert [row[0] for row in cells(text)][2:] == [BASE]
    assert "Not measured: dm-reverb, in a process of its own: the worker of reverb ended: ring was killed" in text


def test_a_worker_that_is_late_is_given_up(tmp_path, steps):
    peers = peer_environment(tmp_path, "reverb", "exec sleep 600")
    job = Job(data=str(steps), folder=str(tmp_path), capacity=160, batch=4, writers=1)
    worker = Worker("reverb", interpreter("reverb", peers), job, log_file=tmp_path / "log")
    with pytest.raises(Unreachable, match=r"did not answer within 0\.1 s"):
        worker.answer(0.1)
    worker.kill()


def test_a_right_batch_is_accepted(steps):
    data = Data(str(steps))
    data.check(transitions(data, [(0, 0), (2, 15), (1, 7)]), 3, tolerance=0.0)


@pytest.mark.parametrize("name", ["side", "next_side", "wrist", "next_wrist"])
def test_a_picture_of_another_step_is_refused(steps, name):
    data = Data(str(steps))
    batch = transitions(data, [(0, 0), (1, 7)])
    batch[name] = batch[name][::-1]
    with pytest.raises(ValueError, match=rf"^{name} of segment 0, step 0: off by"):
        data.check(batch, 2, tolerance=1.0)


def test_a_batch_of_another_shape_is_refused(steps):
    data = Data(str(steps))
    batch = transitions(data, [(0, 0), (1, 7)])
    with pytest.raises(ValueError, match="side is uint8"):
        data.check(batch, 3, tolerance=0.0)
    with pytest.raises(ValueError, match="side is float32"):
        data.check({**batch, "side": batch["side"].astype(np.float32)}, 2, tolerance=0.0)


def test_films_are_still_but_for_patch_and_noise():
    frames = film(np.random.default_rng(0), 3, 64).astype(int)
    assert frames.shape == (3, 64, 64, 3)
    same = np.abs(frames[1] - frames[0]).max(axis=-1) < 12
    assert 0.6 < same.mean() < 1.0
    assert frames.std() > 30


@pytest.mark.parametrize("path", PEERS, ids=lambda path: path.stem)
def test_peers_know_nothing_of_twinrl(path):
    allowed = {*sys.stdlib_module_names, "numpy", path.stem.removesuffix("_peer"), *TOOLS.get(path.stem, ())}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.split(".")[0] in allowed


def test_an_environment_that_is_there_is_used(tmp_path):
    peers = peer_environment(tmp_path, "reverb", "exit 0")
    assert interpreter("reverb", peers) == tmp_path / "reverb" / "bin" / "python"
    assert interpreter(None, peers) == Path(sys.executable)


def test_processes_and_what_they_cost():
    busy = "import sys\nfor i in range(10**7): pass\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert child.pid in descendants(os.getpid())
        assert cpu_seconds([child.pid]) > 0.05
        assert resident_bytes([child.pid]) > 1 << 20
        child.stdin.close()
    assert child.pid not in descendants(os.getpid())
    assert cpu_seconds([child.pid]) == 0.0


def test_systems_take_turns():
    called = []
    results = take_turns({"a": lambda: called.append("a") or 1, "b": lambda: called.append("b") or 2}, rounds=2)
    assert called == ["a", "b", "a", "b"]
    assert results == {"a": [1, 1], "b": [2, 2]}


def test_figures_are_medians_with_their_range():
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0 – 3.0)"
    assert spread([12345.6]) == "12,346"
    assert table(("x", "y"), [(1, 2), (3, 4)]) == "| x | y |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"seconds": 0.0}, {"capacity": 100}, {"rate": -1.0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ReplayBench(**wrong)
