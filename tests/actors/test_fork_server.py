"""Workers that start warm: the launcher, the fork server behind it, and a start without its help."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from actors.sim import TwinWorld, fork_launcher
from actors.sim.fork_launcher import WORLD_VARIABLE
from protos.schema import Schema
from protos.settings import to_json
from twin.scene import synthetic_scene

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 90.0
SCRIPT = """
import json, os, sys, threading
from pathlib import Path
Path(sys.argv[1]).write_text(json.dumps({
    "argv": sys.argv[1:], "warm": "numba" in sys.modules, "folder": str(Path.cwd()), "mark": os.environ.get("MARK"),
    "name": __name__, "leads": os.getpgid(0) == os.getpid(), "session": os.getsid(0),
    "server": os.getppid(), "threads": threading.active_count(),
    "world": os.environ.get("TWINRL_FORK_WORLD", "")}))
"""


def until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def place():
    """Provides a folder with a short path, as a socket's path must be."""
    folder = Path(tempfile.mkdtemp(prefix="fork-"))
    (folder / "script.py").write_text(SCRIPT)
    synthetic_scene(spacing_m=0.05).save(folder / "scene")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def raylet():
    """Provides a process that runs as long as a raylet would."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def launch(place, raylet, *, world=True, mark="1"):
    """Runs the script through the launcher; returns what it reports of itself."""
    out = place / f"out-{mark}.json"
    out.with_suffix(".tmp").unlink(missing_ok=True)
    settings = TwinWorld(scene=place / "scene", schema=Schema(side_px=16, wrist_px=16))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(place),
        "RAY_RAYLET_PID": str(raylet.pid),
        "RAY_JOB_ID": "01",
        "MARK": mark,
    }
    environment |= {WORLD_VARIABLE: json.dumps(to_json(settings))} if world else {}
    command = [sys.executable, "-I", "-S", fork_launcher.__file__, str(place / "script.py"), str(out), "--flag"]
    subprocess.run(command, env=environment, cwd=place, timeout=DEADLINE_S, check=True)

    def said():
        return out.exists() and out.read_text().endswith("}")

    until(said, "the worker ran")
    return json.loads(out.read_text())


def test_workers_are_forked_warm_with_their_own_arguments_and_environment(place, raylet):
    one, two = launch(place, raylet, mark="1"), launch(place, raylet, mark="2")
    assert one["warm"] and two["warm"] and one["threads"] == 1
    assert (one["name"], one["argv"][1:], one["folder"]) == ("__main__", ["--flag"], str(place))
    assert (one["mark"], two["mark"]) == ("1", "2")
    assert one["leads"], "a worker leads a process group of its own"
    assert one["server"] == two["server"], "one server forks them all"
    assert one["session"] == two["session"] == os.getsid(one["server"]), "a session each would make niceness void"
    server = psutil.Process(one["server"])
    assert "actors.sim.fork_server" in server.cmdline()
    (folder,) = place.glob("twinrl-fork-*")
    assert folder.stat().st_mode & 0o77 == 0, "nobody else may ask"
    raylet.kill()
    raylet.wait()
    until(lambda: not server.is_running(), "the server ends with its raylet")
    assert list(folder.glob("*.sock")) == []


def test_without_a_world_to_warm_up_for_the_worker_starts_cold(place, raylet):
    said = launch(place, raylet, world=False)
    assert not said["warm"] and said["argv"][1:] == ["--flag"]
