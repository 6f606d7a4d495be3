"""The benchmark of the demo: it counts the time of every process, follows a run's stages, and its table says so."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cost import Meter
from benchmarks.demo.run import DemoBench, summary
from benchmarks.demo.turn import Checkout, Plan, StageCost, checkouts
from protos.errors import InputError, TwinRLError

BURN = "import time\nwhile time.process_time() < {}: pass\n"
ORPHAN = f"""
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        {BURN.format(0.4).replace(chr(10), chr(10) + "        ")}
        os.write(1, b"done")
    os._exit(0)
os.wait()
"""
"""A program whose grandchild burns 0.4 s after its parent has ended."""
FORGETFUL = f"""
import os, signal, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    {BURN.format(0.5).replace(chr(10), chr(10) + "    ")}
    os.write(1, b"done")
    sys.stdin.read()
    os._exit(0)
try:
    os.wait()
except ChildProcessError:
    pass
"""
"""A program that lets the system forget the time of its ended child, which ends with its standard input."""
FAKE_DEMO = """
import json, sys, time
from pathlib import Path

command, *flags = sys.argv[1:]
assert command == "demo" and flags[0] == "--runs" and flags[2:4] == ["--name", "demo"], sys.argv
folder = Path(flags[1]) / "demo"
resumed = flags[4:] == ["--resume"]
assert resumed == folder.exists(), "a new run has no folder, and one to go on with has"
assert resumed or flags[4:] == ["--seed", "3"], flags
(folder / "logs").mkdir(parents=True, exist_ok=True)
path = folder / "stages.jsonl"
done = len(path.read_text().splitlines()) if path.exists() else 0
if (Path(__file__).parent / "broken").exists():
    sys.exit("no scene")
for stage in range(done, 10):
    until = time.process_time() + 0.2 * (stage + 1)
    while time.process_time() < until:
        pass
    status = {"t": time.time(), "pid": 1, "doing": "", "waiting_for": "", "rates": {"steps": 5.0 * (stage == 1)}}
    (folder / "logs" / "fleet.status.json").write_text(json.dumps(status))
    time.sleep(0.3)
    with path.open("a") as file:
        file.write(json.dumps({"stage": str(stage), "wall_s": 7.0 + stage}) + "\\n")
"""


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    code = tmp_path / "code"
    (code / "twinrl").mkdir(parents=True)
    (code / "twinrl" / "__init__.py").touch()
    (code / "twinrl" / "cli.py").write_text(FAKE_DEMO)
    return Checkout(label="fake", code=code, runs=tmp_path / "runs")


def test_the_meter_counts_those_whose_parent_ended_before_them():
    with Meter() as meter:
        subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, timeout=60, check=True)
    assert meter.cpu_s >= 0.4


def test_the_meter_counts_those_whose_time_the_system_forgets():
    with (
        Meter() as meter,
        subprocess.Popen([sys.executable, "-c", FORGETFUL], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout.read(4) == b"done"
        meter.sample()
    assert process.returncode == 0
    assert meter.cpu_s >= 0.5


def test_the_meter_leaves_children_to_who_started_them():
    with Meter() as meter:
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(5)"])
        while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z":
            pass
        meter.sample()
        meter.sample()
    assert child.wait(10) == 5


def test_stages_are_measured_one_by_one(checkout):
    first, second = checkout.turn(Plan(first=0, last=1, flags="--seed 3"))
    assert (first.wall_s, second.wall_s) == (7.0, 8.0)
    assert first.cpu_s >= 0.2 and first.cpu_s + second.cpu_s >= 0.6, "on a busy machine the first is seen to end late"
    assert first.first_step_s is None
    assert second.first_step_s is not None and second.first_step_s > 0


def test_stages_before_the_first_wanted_are_run_once(checkout):
    plan = Plan(first=2, last=2, flags="--seed 3")
    for _ in range(2):
        (cost,) = checkout.turn(plan)
        assert cost.wall_s == 9.0 and cost.cpu_s >= 0.6
        (checkout.code / "twinrl" / "seen").touch()
    kept = checkout.runs / "before-stage-2" / "demo" / "stages.jsonl"
    assert len(kept.read_text().splitlines()) == 2


def test_a_demo_that_ends_early_is_told_with_its_log(checkout):
    (checkout.code / "twinrl" / "broken").touch()
    with pytest.raises(TwinRLError, match=r"fake: the demo ended early(?s:.*)no scene"):
        checkout.turn(Plan(first=0, last=0, flags="--seed 3"))


def test_commits_that_are_not_there_are_refused(tmp_path):
    (here,) = checkouts((".",), tmp_path)
    assert (here.code / "benchmarks" / "demo" / "turn.py").exists()
    with pytest.raises(InputError, match="nosuchcommit"):
        checkouts(("nosuchcommit",), tmp_path)


def test_a_table_compares_the_last_commit_with_the_first():
    def turn(scale, step=None):
        return [
            StageCost(cpu_s=10.0 * scale, wall_s=4.0 * scale),
            StageCost(cpu_s=30.0 * scale, wall_s=20.0, first_step_s=step, first_step_cpu_s=step),
        ]

    costs = {"old": [turn(2.0, 25.0), turn(4.0, 27.0)], "new": [turn(1.0, 9.0)] * 2}
    text = summary(Plan(first=3, last=4, flags=""), costs)
    stage = "30.0 (20.0 – 40.0) | 12.0 (8.0 – 16.0) | 10.0 (10.0 – 10.0) | 4.0 (4.0 – 4.0) | 0.33 | 0.33"
    together = "120.0 (80.0 – 160.0) | 32.0 (28.0 – 36.0) | 40.0 (40.0 – 40.0) | 24.0 (24.0 – 24.0) | 0.33 | 0.75"
    assert f"| SFT in the twin | {stage} |" in text
    assert f"| together | {together} |" in text
    assert text.endswith(
        "old 26.0 (25.0 – 27.0) s and 26.0 (25.0 – 27.0) s of CPU, new 9.0 (9.0 – 9.0) s and 9.0 (9.0 – 9.0) s of CPU."
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"stages": ("twin",)}, "no stage 'twin'; one of 'scan'"),
        ({"stages": ("SFT", "scan")}, "in their order"),
        ({"commits": ()}, "one or more"),
        ({"rounds": 0}, "at least 1"),
    ],
)
def test_settings_are_checked(wrong, words):
    with pytest.raises(InputError, match=words):
        DemoBench(**wrong)
