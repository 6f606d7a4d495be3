"""Tests real child processes: started, restarted, failed, ended, and gone after `kill -9` of their parent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from protos.errors import TwinRLError, Unreachable
from protos.files import log_tail
from protos.process import Exit
from protos.status import read_status
from services.net import free_port
from twinrl.run.supervisor import Child, Supervisor, python_module

SLEEPER = "import time; print('here', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"
)
SERVER = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("pid", os.getpid(), flush=True)
while True:
    server.accept()[0].close()
"""
TELLS = """
import sys
from dataclasses import dataclass
from protos.errors import InputError
from protos.process import run_process

@dataclass
class Arguments: pass

def main(_):
    {}

sys.exit(run_process(Arguments, main))
"""


def python(name, code, *arguments, **settings):
    return Child(name=name, command=[sys.executable, "-c", code, *arguments], **settings)


def eventually(condition, what, limit_s=20.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.02)


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def supervisor(tmp_path):
    with Supervisor(tmp_path) as running:
        yield running


def test_a_child_that_finishes_is_waited_for_and_its_output_is_logged(supervisor):
    supervisor.start(python("scan", "import sys; print('out'); print('err', file=sys.stderr)"))
    turns = []
    supervisor.wait("scan", timeout_s=20, poll=lambda: turns.append(1))
    assert set(supervisor.log_path("scan").read_text().split()) == {"out", "err"}
    assert not supervisor.running("scan")


def test_a_child_that_asks_a_person_has_the_runs_terminal(supervisor, capfd):
    supervisor.start(
        python("arm", "import sys; print('go?', flush=True); print('log', file=sys.stderr)", terminal=True)
    )
    supervisor.wait("arm", timeout_s=20)
    assert capfd.readouterr().out == "go?\n"
    assert supervisor.log_path("arm").read_text() == "log\n"


@pytest.mark.parametrize("code", [Exit.PROBLEM, Exit.ARM_STOPPED])
def test_what_a_person_can_mend_is_said_in_the_childs_own_line(supervisor, code):
    told = f"import sys; sys.stderr.write('twinrl: photos is empty\\n'); sys.exit({code:d})"
    supervisor.start(python("scan", told))
    with pytest.raises(TwinRLError, match=r"^photos is empty$"):
        supervisor.wait("scan", timeout_s=20)


def test_a_service_at_a_path_is_waited_for(supervisor, tmp_path):
    code = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX)\ntime.sleep(0.5); s.bind(sys.argv[1]); s.listen()"
    )
    code += "; time.sleep(60)"
    supervisor.start(python("replay", code, str(tmp_path / "s"), service=True))
    supervisor.wait_listening("replay", str(tmp_path / "s"))
    assert (tmp_path / "s").is_socket()
    with pytest.raises(Unreachable, match="does not listen"):
        supervisor.wait_listening("replay", str(tmp_path / "other"), timeout_s=0.1)


def test_a_log_on_a_full_disk_hides_no_problem(supervisor):
    supervisor.log_path("scan").symlink_to("/dev/full")
    supervisor.start(python("scan", TELLS.format("raise InputError('photos is empty')")))
    with pytest.raises(TwinRLError, match=r"^photos is empty$"):
        supervisor.wait("scan", timeout_s=20)


def test_what_the_system_refused_a_child_is_its_line_and_its_log_has_the_traceback(supervisor):
    supervisor.start(python("scan", TELLS.format("open('/missing')")))
    with pytest.raises(TwinRLError, match=r"^/missing: no such file or directory; check the path[^\n]*$"):
        supervisor.wait("scan", timeout_s=20)
    assert "Traceback" in supervisor.log_path("scan").read_text()


def test_a_service_whose_log_cannot_be_opened_any_more_is_told(supervisor, tmp_path):
    supervisor.start(python("weights", "import time; time.sleep(1)", service=True))
    supervisor.log_path("weights").unlink()
    supervisor.log_path("weights").mkdir()
    with pytest.raises(TwinRLError, match=r"^weights cannot start again: .*weights\.log: is a directory"):
        eventually(supervisor.check, "the service failed")


def test_a_name_may_be_used_again_after_its_process_ended(supervisor):
    for _ in range(2):
        supervisor.start(python("sft", "print('once')"))
        supervisor.wait("sft", timeout_s=20)
    assert supervisor.log_path("sft").read_text().split() == ["once", "once"]


def test_a_failing_child_raises_with_the_end_of_its_log(supervisor):
    supervisor.start(python("learner", "raise SystemExit('no episodes in buffer demo')"))
    with pytest.raises(TwinRLError, match=r"learner ended with exit code 1; the end of .*learner\.log:\nno episodes"):
        supervisor.wait("learner", timeout_s=20)


def test_the_failure_of_any_child_ends_a_wait_for_another(supervisor):
    supervisor.start(python("valkey", SLEEPER))
    supervisor.start(python("actor", "import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(TwinRLError, match="actor was killed by signal 9"):
        supervisor.wait("valkey", timeout_s=20)


def test_waiting_has_a_deadline(supervisor):
    supervisor.start(python("learner", SLEEPER))
    with pytest.raises(TwinRLError, match=r"learner did not finish within 0\.2 s"):
        supervisor.wait("learner", timeout_s=0.2)


def test_a_killed_service_comes_back_on_the_same_port_and_is_counted(supervisor):
    address = f"127.0.0.1:{free_port()}"
    supervisor.start(python("weights", SERVER, address.rpartition(":")[2], service=True))
    supervisor.wait_listening("weights", address)
    first = supervisor.pid("weights")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: supervisor.restarts("weights") == 1, "one restart")
    supervisor.wait_listening("weights", address)
    assert supervisor.pid("weights") != first
    assert supervisor.log_path("weights").read_text().count("pid") == 2
    supervisor.check()


def test_a_service_that_keeps_ending_is_given_up(supervisor):
    supervisor.start(python("weights", "raise SystemExit('address in use')", service=True))

    def failed():
        try:
            supervisor.check()
        except TwinRLError as error:
            return "6 times" in str(error) and "address in use" in str(error)
        return False

    eventually(failed, "the service is given up", limit_s=60)


def told_of(path):
    told = []
    return told, Supervisor(path, tell=told.append)


def test_a_child_that_the_run_can_do_without_is_started_again_once(tmp_path):
    told, supervisor = told_of(tmp_path)
    with supervisor:
        supervisor.start(python("learner", "import time; time.sleep(600)"))
        supervisor.start(python("fleet", SLEEPER, expendable=True))
        os.kill(first := supervisor.pid("fleet"), signal.SIGKILL)
        eventually(lambda: supervisor.restarts("fleet") == 1 and supervisor.running("fleet"), "another life")
        assert supervisor.pid("fleet") != first
        os.kill(supervisor.pid("fleet"), signal.SIGKILL)
        eventually(lambda: len(told) == 2, "it is given up")
        supervisor.check()
        assert supervisor.running("learner") and not supervisor.running("fleet")
        rows = {row["name"]: row for row in json.loads((tmp_path / "processes.json").read_text())["processes"]}
        assert (rows["fleet"]["state"], rows["fleet"]["restarts"]) == ("lost", 1)
        supervisor.stop("fleet", "learner")
    log = supervisor.log_path("fleet")
    assert told == [
        f"fleet was killed by signal 9, see {log}; it is started again",
        f"fleet was killed by signal 9, see {log}; the run goes on without it",
    ]


def test_a_child_that_the_run_can_do_without_may_end(tmp_path):
    told, supervisor = told_of(tmp_path)
    with supervisor:
        supervisor.start(python("fleet", "print('done')", expendable=True))
        supervisor.wait("fleet", timeout_s=20)
        assert told == [] and supervisor.restarts("fleet") == 0


def test_a_service_that_never_listens_is_named_with_its_deadline(supervisor):
    supervisor.start(python("guide", SLEEPER, service=True))
    with pytest.raises(Unreachable, match=r"guide does not listen on 127\.0\.0\.1:\d+ after 0\.3 s"):
        supervisor.wait_listening("guide", f"127.0.0.1:{free_port()}", timeout_s=0.3)


def test_close_ends_workers_before_services_and_kills_the_stubborn(tmp_path):
    note = "import signal, sys, time\ndef end(*_):\n    open({log!r}, 'a').write({name!r} + ' ')\n    sys.exit()\n"
    note += "signal.signal(signal.SIGTERM, end)\nprint('here', flush=True)\ntime.sleep(600)"
    order = tmp_path / "order.txt"
    supervisor = Supervisor(tmp_path)
    supervisor.start(python("weights", note.format(log=str(order), name="weights"), service=True))
    supervisor.start(python("learner", note.format(log=str(order), name="learner")))
    supervisor.start(python("stuck", STUBBORN))
    names = ("weights", "learner", "stuck")
    eventually(lambda: all("here" in log_tail(supervisor.log_path(name)) for name in names), "all started")
    pids = [supervisor.pid(name) for name in names]
    supervisor.close()
    supervisor.close()
    assert order.read_text().split() == ["learner", "weights"]
    assert all(gone(pid) for pid in pids)
    rows = json.loads((tmp_path / "processes.json").read_text())["processes"]
    assert {row["name"]: row["state"] for row in rows} == dict.fromkeys(names, "stopped")


def test_a_child_that_an_interruption_meets_while_it_starts_is_ended_too(tmp_path, monkeypatch):
    started = []

    class Interrupting(subprocess.Popen):
        def __init__(self, command, *arguments, **settings):
            super().__init__(command, *arguments, **settings)
            if SLEEPER in command:
                started.append(self.pid)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Supervisor(tmp_path) as supervisor:
            monkeypatch.setattr(subprocess, "Popen", Interrupting)
            with pytest.raises(KeyboardInterrupt):
                supervisor.start(python("child", SLEEPER))
    finally:
        signal.signal(signal.SIGINT, before)
    (pid,) = started
    assert gone(pid)


def test_one_child_can_be_stopped_alone(supervisor):
    supervisor.start(python("standin", SLEEPER))
    supervisor.start(python("guide", SLEEPER))
    supervisor.stop("standin", "standin")
    assert not supervisor.running("standin")
    assert supervisor.running("guide")
    supervisor.check()


def test_children_learn_where_their_status_file_is(supervisor):
    supervisor.start(
        python(
            "learner",
            "from protos.status import StatusFile; StatusFile().write(doing='update 3', waiting_for='replay', ups=2.5)",
        )
    )
    supervisor.wait("learner", timeout_s=20)
    status = read_status(supervisor.logs / "learner.status.json")
    assert (status.doing, status.waiting_for, status.rates) == ("update 3", "replay", {"ups": 2.5})


PARENT = """
import os, sys, time
from pathlib import Path
from services.net.transport import free_port
from twinrl.run.supervisor import Child, Supervisor
sleep = "import time; time.sleep(600)"
grandchild = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleep!r}]); {sleep}"
supervisor = Supervisor(Path(sys.argv[1]))
supervisor.start(Child(name="service", command=[sys.executable, "-c", sleep], service=True))
supervisor.start(Child(name="worker", command=[sys.executable, "-c", grandchild]))
print("ready", flush=True)
time.sleep(600)
"""


def test_nothing_is_left_when_the_run_itself_is_killed(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"
    process = psutil.Process(parent.pid)
    eventually(lambda: len(process.children(recursive=True)) == 4, "guardian, service, worker, the worker's child")
    family = [child.pid for child in process.children(recursive=True)]
    parent.kill()
    parent.communicate()
    eventually(lambda: all(gone(pid) for pid in family), "everything ended")


def test_python_module_uses_this_interpreter():
    command = python_module("services.weights", "--listen", "127.0.0.1:1")
    assert command == [sys.executable, "-m", "services.weights", "--listen", "127.0.0.1:1"]


def test_log_tail_reads_the_end_only(tmp_path):
    path = tmp_path / "long.log"
    path.write_text("\n".join(f"line {i}" for i in range(100_000)))
    assert log_tail(path, 2) == "line 99998\nline 99999"
    assert log_tail(Path("/nonexistent")) == "(empty)"
