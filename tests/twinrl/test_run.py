"""A whole run, cut short and resumed, with its real processes; only its budgets are small."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SMALL = [
    "--demonstrations.real-a=1",
    "--demonstrations.twin-a=2",
    "--demonstrations.twin-b=2",
    "--sft.steps=60",
    "--sft.batch=8",
    "--twin-rl.env-steps=900",
    "--twin-rl.twins-per-actor=4",
    "--real-rl.env-steps=150",
    "--evaluation.rollouts=5",
    "--scan.train.steps=20",
]
STAGES = [
    "scan",
    "demonstrations",
    "SFT",
    "SFT in the twin",
    "twin RL",
    "twin RL in the twin",
    "arm before",
    "real RL",
    "arm after",
    "report",
]


def start(runs: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "twinrl.cli", "demo", "--runs", str(runs), "--name", "small", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, process: "subprocess.Popen[str]", within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} did not appear within {within_s:g} s"
        time.sleep(0.05)


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=5)
    assert not left, [process.cmdline() for process in left]


@pytest.mark.timeout(420)
def test_a_run_is_interrupted_resumed_and_complete(tmp_path):
    folder = tmp_path / "small"
    process = start(tmp_path, *SMALL)
    wait_for(folder / "sft_a" / "metrics.jsonl", process, 180)
    children = family(process)
    os.kill(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]  # seconds when nothing else uses the machine
    assert process.returncode == 130, output
    assert "Saved in" in output
    assert "--resume" in output
    assert_gone(children)
    done = [json.loads(line)["stage"] for line in (folder / "stages.jsonl").read_text().splitlines()]
    assert done == STAGES[:2]

    process = start(tmp_path, "--resume")
    wait_for(folder / "twin_rl" / "metrics.jsonl", process, 120)
    children = family(process)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert_gone(children)
    done = [json.loads(line)["stage"] for line in (folder / "stages.jsonl").read_text().splitlines()]
    assert done == STAGES
    for name in ("sft_a_twin", "sft_ab_twin", "twin_rl_twin", "before_standin", "after_standin"):
        assert (folder / "eval" / f"{name}.jsonl").read_text().count("\n") == 5 * 2, name
    assert "<html" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume",), "there is no run in"),
        (("--name", "a/b"), "a folder name without '/'"),
        (("--twin-rl.env-step", "3"), "--twin-rl.env-steps"),
        (("--seed", "-1"), "seed=-1"),
        (("--replay", "redis://127.0.0.1:1"), "replay at redis://127.0.0.1:1 did not answer"),
    ],
)
def test_wrong_input_is_refused(tmp_path, arguments, message):
    process = start(tmp_path, *arguments)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2, output
    assert message in " ".join(output.split())


def test_a_capture_without_pictures_is_refused_in_one_line(tmp_path):
    (tmp_path / "photos").mkdir()
    process = start(tmp_path, "--capture", str(tmp_path / "photos"))
    last = process.communicate(timeout=60)[0].strip().splitlines()[-1]
    assert process.returncode == 2
    assert last == f"twinrl: {tmp_path / 'photos'} is empty or missing; give a folder of photos or a video file"


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "thesis.tex").write_text("do not delete")
    process = start(tmp_path)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 2
    assert "is not a run of TwinRL" in output
    assert (tmp_path / "small" / "thesis.tex").exists()
