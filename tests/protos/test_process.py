"""How processes of TwinRL begin and end: one line for a person, exit codes, signals."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from protos.process import Exit, problem_in, stop_on_signal, tell_problem

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    ("learner", "rl", "--settings", "{}", "--out", "out"),
    ("actors.sim", "fleet", "--settings", "{}"),
    ("actors.real", "train", "--settings", "{}"),
    ("actors.simulated_ur", "--settings", "{}"),
    ("services.guide", "--settings", "{}"),
    ("services.weights", "--store", "store", "--listen", "nonsense"),
    ("services.replay", "--directory", "replay", "--listen", "nonsense"),
    ("services.monitor", "--listen", "8.8.8.8:1"),
    ("twinrl.run.scan", "--settings", "{}"),
]
CHILD = """
import sys
from dataclasses import dataclass
from protos.process import interrupt_on_signal, run_process, stop_on_signal

@dataclass(frozen=True, kw_only=True)
class Arguments:
    how: str

def main(arguments):
    if arguments.how == "stop":
        stop = stop_on_signal()
        print("ready", flush=True)
        stop.wait(60)
        return 0
    interrupt_on_signal()
    print("ready", flush=True)
    import time
    while True:
        time.sleep(0.05)  # a signal in the instant before a long sleep would be handled after it

sys.exit(run_process(Arguments, main))
"""


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("command", MODULES, ids=lambda command: command[0])
def test_every_process_tells_a_wrong_input_in_its_last_line(tmp_path, command):
    """So that a supervisor, whichever child it is, can pass the line on."""
    missing = str(tmp_path / "missing.json")
    words = [word.replace("{}", missing) for word in command]
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    told = problem_in(done.stdout)
    assert done.returncode == Exit.PROBLEM, done.stdout
    assert told is not None and ("missing.json" in told or "nonsense" in told or "8.8.8.8" in told), done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(("how", "code"), [("stop", Exit.DONE), ("interrupt", Exit.INTERRUPTED)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_process(how, code, number):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, "--how", how], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    assert child.wait(60) == code


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield stop_on_signal()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_no_wait_for_a_signal_is_long(stop, monkeypatch):
    """The handler of a signal that arrives just before a wait begins runs when that wait ends."""
    slices = []

    def wait(event, timeout):
        slices.append(timeout)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(threading.Event, "wait", wait)
    assert stop.wait(60)
    assert len(slices) == 1 and slices[0] <= 1


def test_a_wait_ends_with_its_timeout(stop):
    assert not stop.wait(0.01)


def test_a_problem_is_one_line_that_fits_a_screen(capsys):
    tell_problem("value=" + "x\n" * 10_000 + ": choose one of a, b")
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and len(told) < 1_100
    assert told.startswith("twinrl: value=x") and told.endswith(": choose one of a, b\n")


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("", None),
        ("twinrl: full", "full"),
        ("INFO begin\ntwinrl: seed=-1: 0 or more\n", "seed=-1: 0 or more"),
        ("twinrl: first\nTraceback", None),
    ],
)
def test_a_problem_is_the_last_line(log, told):
    assert problem_in(log) == told


OURS = """
import os, resource, signal, socket, sys
from dataclasses import dataclass
from pathlib import Path
from protos.files import write_durably
from protos.process import run_process

@dataclass
class Arguments: pass

def main(_):
    {}

sys.exit(run_process(Arguments, main))
"""


def ended(code, *words, **options):
    """Runs code as a process of ours; exit code, standard error."""
    command = [sys.executable, *words, "-c", OURS.format(code)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("open('/dev/full', 'w').write('x' * 100_000)", "no space left on device"),
        ("open('missing/file')", "missing/file: no such file or directory; check the path"),
        ("open('.')", ".: is a directory; this is a folder"),
        ("os.mkdir('a' * 300)", "file name too long; choose a shorter name"),
        ("open('/etc/passwd/x')", "/etc/passwd/x: not a directory; a part of this path is a file"),
        ("[os.dup(0) for _ in range(100_000)]", "too many open files; raise the limit"),
        ("a = socket.create_server(('', 0)); socket.create_server(a.getsockname())", "another program listens there"),
        ("socket.socket(socket.AF_UNIX).bind('x' * 200)", "AF_UNIX path too long"),
        ("write_durably(Path('/dev/full/x'), [b''])", "/dev/full: file exists; something else of this name is there"),
        (
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)); "
            "write_durably(Path('out.json'), [b'x' * 99])",
            "out.json: file too large, while writing out.json; a limit on the size of files",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line(tmp_path, code, said):
    returned, stderr = ended(code, cwd=tmp_path)
    assert returned == Exit.PROBLEM
    assert len(stderr.splitlines()) == 1 and said in stderr, stderr


def test_a_bug_shows_its_traceback_and_a_developer_sees_all():
    assert "Traceback" in ended("dict()['a']")[1]
    returned, stderr = ended("open('missing')", "-X", "dev")
    assert returned == Exit.PROBLEM and "Traceback" in stderr and problem_in(stderr).startswith("missing: no such file")


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_reader_of_the_output_may_leave(size):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", OURS.format(f"sys.stdin.read(); print('x' * {size})")]
    with subprocess.Popen(command, env=environment(), text=True, **pipes) as child:
        child.stdout.close()
        child.stdin.close()
        assert (child.stderr.read(), child.wait(60)) == ("", Exit.DONE)


@pytest.mark.parametrize("size", [10, 100_000])
def test_output_that_finds_no_room_is_one_line(size):
    command = [sys.executable, "-c", OURS.format(f"print('x' * {size})")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        told = subprocess.run(command, env=environment(), stdout=full, stderr=full, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.PROBLEM, 1), done.stderr
    assert "no space left on device" in done.stderr
    assert told.returncode == Exit.PROBLEM
