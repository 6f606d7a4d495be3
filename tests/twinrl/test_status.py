"""Tests of what `twinrl status` reads from a run folder, with real processes behind it."""

import json
import os
import shutil
import sys
import time

import pytest
from rich.console import Console

from protos.errors import InputError
from protos.folders import owned
from protos.status import StatusFile, read_status
from services.monitor import read_run, render_run
from twinrl.run.supervisor import Child, Supervisor

WORKER = """
import time
from protos.folders import owned
from protos.status import StatusFile
while True:
    StatusFile().write(doing="twin RL", waiting_for="replay: transitions", updates_per_s=41.5)
    time.sleep(0.2)
"""


def shown(run_dir):
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(render_run(read_run(run_dir)))
    return console.export_text()


def python(name, code, **settings):
    return Child(name=name, command=[sys.executable, "-c", code], **settings)


def eventually(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_living_run_shows_who_waits_for_whom(tmp_path):
    with owned(tmp_path, "twinrl demo"), Supervisor(tmp_path) as supervisor:
        supervisor.start(python("learner", WORKER))
        eventually((tmp_path / "logs" / "learner.status.json").exists)
        (line,) = read_run(tmp_path).processes
        assert (line.state, line.doing, line.waiting_for) == ("running", "twin RL", "replay: transitions")
        assert line.memory_mb > 1
        text = shown(tmp_path)
        assert "running" in text
        assert "updates per s 41.5" in text
    (line,) = read_run(tmp_path).processes
    assert line.state == "stopped"
    assert line.waiting_for == ""


def test_a_failed_process_is_shown_with_its_last_words(tmp_path):
    with owned(tmp_path, "twinrl demo"), Supervisor(tmp_path) as supervisor:
        supervisor.start(python("guide", "raise SystemExit('tau=3: between 0 and 1')"))
        eventually(lambda: read_run(tmp_path).processes[0].state == "failed")
        assert "tau=3: between 0 and 1" in shown(tmp_path)


def test_a_run_that_was_killed_is_not_running_and_its_processes_are_gone(tmp_path):
    row = {"name": "weights", "pid": 2**22 + 1, "state": "running", "started_unix_s": 0.0, "restarts": 2}
    (tmp_path / "processes.json").write_text(json.dumps({"processes": [row]}))
    run = read_run(tmp_path)
    assert not run.running
    assert (run.processes[0].state, run.processes[0].restarts) == ("gone", 2)


def test_another_process_with_the_same_number_is_not_taken_for_ours(tmp_path):
    row = {"name": "weights", "pid": os.getpid(), "state": "running", "started_unix_s": 1.0}
    (tmp_path / "processes.json").write_text(json.dumps({"processes": [row]}))
    with owned(tmp_path, "twinrl demo"):
        assert read_run(tmp_path).processes[0].state == "gone"


def test_a_copy_of_a_living_run_does_not_live(tmp_path):
    with owned(tmp_path / "run", "twinrl demo"), Supervisor(tmp_path / "run") as supervisor:
        supervisor.start(python("learner", WORKER))
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        assert read_run(tmp_path / "run").running
        copy = read_run(tmp_path / "copy")
        assert not copy.running
        assert [line.state for line in copy.processes] == ["gone"]


def test_stages_and_learning_are_listed_and_half_written_lines_left_out(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "stages.jsonl").write_text('{"stage": "scan", "wall_s": 31.4}\n{"stage": "dem')
    (tmp_path / "sft_ab").mkdir()
    (tmp_path / "sft_ab" / "metrics.jsonl").write_text('{"step": 120, "total": 850}\n{"step": 1')
    text = shown(tmp_path)
    assert "done: scan 0:31" in text
    assert "under way: sft_ab: 120 of 850" in text


def test_processes_that_only_write_a_status_file_are_listed(tmp_path):
    (tmp_path / "processes.json").write_text(json.dumps({"processes": []}))
    StatusFile(tmp_path / "logs" / "policy_server.status.json").write(doing="batches of 16")
    with owned(tmp_path, "twinrl demo"):
        (line,) = read_run(tmp_path).processes
    assert (line.name, line.pid, line.state) == ("policy_server", os.getpid(), "running")


def test_a_process_in_a_container_lives_while_its_status_is_fresh(tmp_path):
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "learner.status.json"
    said = {"pid": 2**22 + 1, "doing": "online RL", "waiting_for": "actors", "rates": {}}
    for age_s, state in ((0.0, "running"), (60.0, "gone")):
        path.write_text(json.dumps(said | {"t": time.time() - age_s}))
        run = read_run(tmp_path)
        assert run.processes[0].state == state
        assert run.running == (state == "running")


def test_a_folder_that_is_no_run_is_refused_with_the_runs_there(tmp_path):
    for name in ("demo", "kitchen"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text("{}")
    with pytest.raises(InputError, match="dmeo is not a run folder; runs there: demo, kitchen"):
        read_run(tmp_path / "dmeo")


def test_a_status_file_is_written_at_most_twice_a_second_unless_the_activity_changes(tmp_path):
    file = StatusFile(tmp_path / "logs" / "a.status.json")
    file.write(doing="warm-up", step=1.0)
    file.write(doing="warm-up", step=2.0)
    assert read_status(file.path).rates == {"step": 1.0}
    file.write(doing="online", waiting_for="actors")
    assert read_status(file.path).waiting_for == "actors"
    assert [path.name for path in file.path.parent.iterdir()] == ["a.status.json"]


@pytest.mark.parametrize("content", ["", "[]", "null", '{"t": 1}', '{"t": "x", "pid": 1, "doing": "", "rates": {}}'])
def test_a_damaged_status_file_reads_as_none(tmp_path, content):
    path = tmp_path / "a.status.json"
    path.write_text(content)
    assert read_status(path) is None


def test_no_path_and_no_variable_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.delenv("TWINRL_STATUS_FILE", raising=False)
    monkeypatch.chdir(tmp_path)
    StatusFile().write(doing="nothing")
    assert list(tmp_path.iterdir()) == []
