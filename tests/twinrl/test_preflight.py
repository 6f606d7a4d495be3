"""What a run needs later is tried before its first stage, and its disk is watched."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from protos.errors import InputError, TwinRLError
from protos.schema import Schema
from twin import place_for_kernels
from twinrl.doctor import machine
from twinrl.run import room
from twinrl.run.preflight import preflight, raise_open_files
from twinrl.run.settings import RunSettings, TwinRlPlan
from twinrl.run.supervisor import Supervisor


def demo(*arguments, folder):
    command = [sys.executable, "-m", "twinrl.cli", "demo", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_a_plan_that_the_disk_cannot_hold_is_refused_before_anything_is_made(tmp_path):
    done = demo("--twin-rl.env-steps", "100000000000", folder=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "100,000,0" in done.stderr and "transitions of 13 KiB" in done.stderr and "make room" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("runs", "said"), [("/proc/1/runs", "cannot be written"), ("file", "not a directory")])
def test_a_place_that_cannot_hold_a_run_is_refused_in_one_line(tmp_path, runs, said):
    (tmp_path / "file").touch()
    done = demo("--runs", runs, folder=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert runs in done.stderr and said in done.stderr


def test_everything_that_would_end_a_run_later_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "ROBOT_HOSTS", ["192.0.2.1"])  # an address of nobody
    monkeypatch.setattr(machine, "RAY_SOCKET_BYTES", 105)
    with pytest.raises(InputError, match=r"sockets: .* set TMPDIR.*robot ports: "):
        preflight(tmp_path / "demo", RunSettings(), resume=False)


def test_what_only_slows_a_run_is_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MEMORY_GIB", 1e6)
    assert any("end other programs" in line for line in preflight(tmp_path / "demo", RunSettings(), resume=False))


def test_the_need_follows_images_and_steps():
    small, large = RunSettings(), RunSettings(schema=Schema(side_px=128, wrist_px=128))
    assert 3.5 < room.transition_bytes(large.schema) / room.transition_bytes(small.schema) < 4
    more = RunSettings(twin_rl=TwinRlPlan(env_steps=TwinRlPlan().env_steps + 1000))
    assert room.transitions(more) == room.transitions(small) + 1000
    assert room.needed_bytes(RunSettings(replay=("redis://elsewhere",))) < room.needed_bytes(small) < 2 << 30


def test_a_resumed_run_needs_what_is_missing(tmp_path, monkeypatch):
    run = RunSettings(runs=tmp_path)
    need = room.needed_bytes(run)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: resource_like(free=need - 1000))
    with pytest.raises(InputError, match="this plan"):
        preflight(run.folder, run, resume=True)
    run.folder.mkdir()
    (run.folder / "replay").write_bytes(b"x" * 1000)
    preflight(run.folder, run, resume=True)


def resource_like(*, free):
    return type("Usage", (), {"free": free})()


def test_a_run_ends_before_its_disk_is_full(tmp_path, monkeypatch):
    with Supervisor(tmp_path) as supervisor:
        supervisor.check()
        monkeypatch.setattr(room, "LOW_BYTES", 1 << 60)
        with pytest.raises(TwinRLError, match=rf"{tmp_path}: [\d.]+ MiB are left on the disk.*make room there"):
            supervisor.check()


def test_the_limit_of_open_files_is_raised_as_far_as_the_system_allows():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(8_192, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_kernels_are_kept_elsewhere_only_where_no_usual_place_can_be_written(tmp_path):
    assert place_for_kernels(tmp_path, Path("/proc/1/cache")) is None
    assert place_for_kernels(Path("/proc/1"), tmp_path / "yet" / "to be made") is None
    found = place_for_kernels(Path("/proc/1"), Path("/proc/1/cache"))
    assert found is not None and found.name.startswith("twinrl-numba-")
