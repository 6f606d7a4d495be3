"""One program at a time writes into a folder: real processes, killed and copied, and what other machines left."""

import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from protos.errors import InputError
from protos.folders import FILE, contents, owned, owner_of, ownership

HOLD = """
import sys
from pathlib import Path
from protos.folders import owned
with owned(Path(sys.argv[1]), "twinrl sft"):
    print("mine", flush=True)
    sys.stdin.read()
"""
HOLD_WITH_CHILD = """
import subprocess, sys, time
from pathlib import Path
from protos.folders import owned
with owned(Path(sys.argv[1]), "twinrl demo") as mine:
    print(subprocess.Popen(["sleep", "60"], pass_fds=(mine.descriptor,)).pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other():
    """Starts programs that own a folder until their input ends."""
    started = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "mine\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def refusal(folder):
    with pytest.raises(InputError) as refused:
        owned(folder, "twinrl rl")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_second_program_is_refused_and_told_of_the_first(tmp_path, other):
    first = other(tmp_path / "out")
    said = refusal(tmp_path / "out")
    assert f"{tmp_path / 'out'} is in use by twinrl sft (pid {first.pid} on " in said
    assert said.endswith("end it, or name another --out")
    assert owner_of(tmp_path / "out").pid == first.pid
    assert contents(tmp_path / "out") == []
    first.communicate()
    with owned(tmp_path / "out", "twinrl rl"):
        assert owner_of(tmp_path / "out").command == "twinrl rl"
        (tmp_path / "out" / "policy").mkdir()
    assert owner_of(tmp_path / "out") is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["policy"]


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with owned(tmp_path / "runs" / "typo", "twinrl demo"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_program_is_taken_over_with_a_word(tmp_path, other, caplog):
    first = other(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert owner_of(tmp_path) is None
    with caplog.at_level(logging.WARNING), owned(tmp_path, "twinrl sft"):
        (line,) = caplog.messages
        assert f"taken over from twinrl sft (pid {first.pid}" in line


def test_what_a_killed_program_left_running_keeps_its_folder_until_it_ends(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD_WITH_CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(first.stdout.readline())
    first.kill()
    first.wait()
    first.stdout.close()
    assert owner_of(tmp_path).pid == first.pid
    end = threading.Timer(1.0, os.kill, (child, signal.SIGKILL))
    end.start()
    with owned(tmp_path, "twinrl sft"):
        end.join(timeout=0.5)
        assert not end.is_alive()


def test_a_copy_is_nobodys_and_a_moved_folder_is_still_its_owners(tmp_path, other, caplog):
    first = other(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert owner_of(tmp_path / "copy") is None
    with owned(tmp_path / "copy", "twinrl demo"):
        assert caplog.messages == []
    (tmp_path / "run").rename(tmp_path / "moved")
    assert f"pid {first.pid}" in refusal(tmp_path / "moved")


def test_its_owner_may_rename_a_folder(tmp_path):
    with owned(tmp_path / "run", "twinrl demo") as ownership:
        (tmp_path / "run" / "policy").mkdir()
        ownership.rename(tmp_path / "run.old")
        assert "run.old is in use by twinrl demo" in refusal(tmp_path / "run.old")
        with owned(tmp_path / "run", "twinrl demo"):
            pass
    assert [path.name for path in (tmp_path / "run.old").iterdir()] == ["policy"]


def left_behind(folder, **changes):
    """The file of an owner that is not there, as if it had been written here."""
    folder.mkdir(exist_ok=True)
    path = folder / FILE
    path.touch()
    said = {"command": "twinrl sft", "pid": os.getpid(), "host": "lab2", "since": "2026-01-02 03:04:05", "boot": "b"}
    path.write_text(json.dumps(said | {"inode": path.stat().st_ino} | changes))


def test_the_folder_of_another_machine_is_refused_until_its_file_is_removed(tmp_path):
    left_behind(tmp_path)
    said = refusal(tmp_path)
    assert f"pid {os.getpid()} on lab2, since 2026-01-02 03:04:05" in said
    assert f"remove {tmp_path / FILE} when it is gone" in said
    assert owner_of(tmp_path).host == "lab2"
    (tmp_path / FILE).unlink()
    owned(tmp_path, "twinrl sft").close()


def test_a_machine_that_was_started_again_owns_nothing(tmp_path):
    left_behind(tmp_path, host=os.uname().nodename)
    owned(tmp_path, "twinrl sft").close()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"command": 1', '{"pid": "x"}', "\0" * 100])
def test_a_damaged_file_owns_nothing(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert owner_of(tmp_path) is None
    owned(tmp_path, "twinrl sft").close()


def test_without_locks_of_the_filesystem_the_process_is_looked_for(tmp_path, other, monkeypatch):
    first = other(tmp_path)

    def no_locks(descriptor, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert f"pid {first.pid}" in refusal(tmp_path)
    assert owner_of(tmp_path).pid == first.pid
    first.kill()
    first.wait()
    assert owner_of(tmp_path) is None
    owned(tmp_path, "twinrl sft").close()


def test_one_of_many_that_start_at_once_gets_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "ENDING_S", 60.0)
    inside, most, gate = [], [], threading.Barrier(8)

    def turn():
        gate.wait()
        done = 0
        while done < 20:
            try:
                with owned(tmp_path, "twinrl sft"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    done += 1
            except InputError:
                continue

    threads = [threading.Thread(target=turn) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 160 and set(most) == {1}


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("a thesis")
    assert refusal(tmp_path / "out").startswith(f"{tmp_path / 'out'} cannot be written: file exists; name another")
    assert "cannot be written: not a directory" in refusal(tmp_path / "out" / "deeper")
