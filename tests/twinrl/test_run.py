"""A whole run, cut short and resumed, with its real processes, some of which die; only its budgets are small."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from demo_process import demo

from protos.files import read_object
from protos.folders import owned
from protos.settings import save_settings
from services.replay import EmbeddedServer, Keys, ReplaySettings, connect
from twinrl.run.settings import RunSettings
from twinrl.run.stored_replay import run_settings

SMALL = [
    "--demonstrations.real-a=1",
    "--demonstrations.twin-a=2",
    "--demonstrations.twin-b=2",
    "--sft.steps=60",
    "--sft.batch=8",
    "--twin-rl.env-steps=900",
    "--twin-rl.twins-per-actor=4",
    "--real-rl.env-steps=150",
    "--evaluation.rollouts=2",
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


def refused(runs: Path, *arguments: str) -> str:
    """Runs the command to its refusal; returns what it says."""
    code, output = demo("--runs", str(runs), "--name", "small", *arguments)
    assert code == 2, output
    return output


def wait_for(path: Path, process: "subprocess.Popen[str]", within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} did not appear within {within_s:g} s"
        time.sleep(0.05)


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return family_of(process.pid)


def kill_beside_arm(folder: Path, process: "subprocess.Popen[str]") -> None:
    """Ends the fleet beside the arm, with all its processes, and the guide: none of them can do anything about it."""
    deadline = time.monotonic() + 200
    while not (rows := beside_arm(folder)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no fleet beside the arm"
        time.sleep(0.05)
    for pid in [*(child.pid for child in family_of(rows["fleet"])), rows["fleet"], rows["guide"]]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def beside_arm(folder: Path) -> dict[str, int]:
    """Process ids of fleet, guide and arm, by name; empty before they are all there."""
    table = read_object(folder / "processes.json").get("processes", [])
    running = {row["name"]: row["pid"] for row in table if row["state"] == "running"}
    return running if {"fleet", "guide", "arm"} <= running.keys() else {}


def family_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=5)
    assert not left, [process.cmdline() for process in left]


@pytest.mark.timeout(900)
def test_a_run_is_interrupted_resumed_and_complete(tmp_path):
    folder = tmp_path / "small"
    process = start(tmp_path, *SMALL)
    wait_for(folder / "sft_a" / "metrics.jsonl", process, 300)
    children = family(process)
    os.kill(process.pid, signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "Saved in" in output
    assert "--resume" in output
    assert_gone(children)
    done = [json.loads(line)["stage"] for line in (folder / "stages.jsonl").read_text().splitlines()]
    assert done == STAGES[:2]

    process = start(tmp_path, "--resume")
    wait_for(folder / "twin_rl" / "metrics.jsonl", process, 300)
    children = family(process)
    kill_beside_arm(folder, process)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert "note: fleet was killed by signal 9" in output and "it is started again" in output
    assert_gone(children)
    done = [json.loads(line)["stage"] for line in (folder / "stages.jsonl").read_text().splitlines()]
    assert done == STAGES
    for name in ("sft_a_twin", "sft_ab_twin", "twin_rl_twin", "before_standin", "after_standin"):
        assert (folder / "eval" / f"{name}.jsonl").read_text().count("\n") == 2 * 2, name
    assert "<html" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume",), "there is no run in"),
        (("--name", "mein tisch"), "--name 'mein tisch': 1 to 80 bytes of letters"),
        (("--name", ".."), "as in 'demo'"),
        (("--twin-rl.env-step", "3"), "--twin-rl.env-steps"),
        (("--seed", "-1"), "seed=-1"),
        (("--replay", "redis://127.0.0.1:1"), "replay at redis://127.0.0.1:1 did not answer"),
    ],
)
def test_wrong_input_is_refused(tmp_path, arguments, message):
    output = refused(tmp_path, *arguments)
    assert message in " ".join(output.split())


def test_a_capture_without_pictures_is_refused_in_one_line(tmp_path):
    (tmp_path / "photos").mkdir()
    last = refused(tmp_path, "--capture", str(tmp_path / "photos")).strip().splitlines()[-1]
    told = f"{tmp_path / 'photos'} is empty or missing; give a folder of photos or a video file"
    assert last == f"twinrl: stage 'scan': {told}. Go on with: twinrl demo --runs {tmp_path} --name small --resume"


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "thesis.tex").write_text("do not delete")
    output = refused(tmp_path)
    assert "is not a run of TwinRL" in output
    assert (tmp_path / "small" / "thesis.tex").exists()


def saved(folder: Path, **settings: object) -> Path:
    """The folder of a run that has begun. Its photos are not there: the scan refuses them, and shows whose they are."""
    capture = folder.parent / "photos"
    save_settings(RunSettings(capture=capture, **settings), folder / "settings.json")
    return folder


def test_a_run_under_way_is_refused_and_left_alone(tmp_path):
    saved(tmp_path / "small")
    with owned(tmp_path / "small", "twinrl demo"):
        before = sorted(tmp_path.rglob("*"))
        for arguments in ((), ("--resume",)):
            output = refused(tmp_path, *arguments)
            assert output.count("\n") == 1
            assert f"small is in use by twinrl demo (pid {os.getpid()} on " in output
        assert sorted(tmp_path.rglob("*")) == before


def test_an_older_run_in_use_is_not_deleted(tmp_path):
    saved(tmp_path / "small", seed=2)
    saved(tmp_path / "small.old", seed=1)
    with owned(tmp_path / "small.old", "twinrl demo"):
        assert "small.old is in use by" in refused(tmp_path)
    assert json.loads((tmp_path / "small.old" / "settings.json").read_text())["seed"] == 1
    refused(tmp_path, "--seed=3", "--capture", str(tmp_path / "photos"))
    seeds = {
        name: json.loads((tmp_path / name / "settings.json").read_text())["seed"] for name in ("small", "small.old")
    }
    assert seeds == {"small": 3, "small.old": 2}
    assert not list(tmp_path.rglob("owner.json"))


def test_what_is_called_old_and_is_no_run_is_not_deleted(tmp_path):
    saved(tmp_path / "small")
    (tmp_path / "small.old").mkdir()
    (tmp_path / "small.old" / "thesis.tex").touch()
    assert "small.old exists and is not a run of TwinRL" in refused(tmp_path)
    assert (tmp_path / "small" / "settings.json").exists()


@pytest.mark.parametrize("name", ["demo", "mein tisch"])
def test_a_run_is_resumed_where_it_lies(tmp_path, name):
    saved(tmp_path / name, name=name, runs=Path("elsewhere"), seed=5)
    (tmp_path / name / "settings").mkdir()
    (tmp_path / name / "settings" / "sft_a.json").write_text("{}")
    (tmp_path / name).rename(tmp_path / "small")
    output = refused(tmp_path, "--resume")
    assert "photos is empty or missing" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]
    job = json.loads((tmp_path / "small" / "settings" / "scan.json").read_text())
    assert job["out"] == str(tmp_path / "small" / "scene")
    assert [path.name for path in (tmp_path / "small" / "settings").iterdir()] == ["scan.json"]
    wanted = "demo" if name == "demo" else "small"
    assert run_settings(tmp_path / "small").prefix == f"twinrl-{wanted}"


def test_a_run_that_was_never_named_says_what_to_rename(tmp_path):
    saved(tmp_path / "mein tisch", name="mein tisch")
    last = refused(tmp_path, "--name", "mein tisch", "--resume").strip().splitlines()[-1]
    assert last.startswith(f"twinrl: {tmp_path / 'mein tisch'}: rename the folder")
    assert last.endswith("as in 'mein-tisch'")


def test_a_name_under_which_a_shared_replay_keeps_another_run_is_refused(tmp_path):
    with EmbeddedServer(tmp_path / "replay") as server:
        settings = ReplaySettings(urls=(server.url,))
        with closing(connect(settings)) as client:
            client.execute_command("HSET", Keys("twinrl-small", "demo").counters, "transitions", 7)
        output = refused(tmp_path / "runs", "--replay", server.url)
    assert "keeps 7 transitions of another run of this name" in output
    assert "choose another --name" in output
    assert not (tmp_path / "runs").exists()


def test_paths_given_to_a_run_mean_the_same_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(Path("runs"), "--capture", "photos")
    settings = run_settings(tmp_path / "runs" / "small")
    assert settings.capture == tmp_path / "photos"
