"""The child processes of a run: started, logged, watched, restarted, ended.

    Supervisor.start ──► child (own session) ──► logs/<name>.log, logs/<name>.status.json
         │ pids                │ ends by itself
         ▼                     ▼
    guardian            watcher thread ─┬─ service: started again after 0.5 s, counted
    (ends all when                     ├─ expendable: started again once, told in a line; the run goes on
     the run is killed)                └─ anything else with exit code ≠ 0: kept until `check` or `wait` raises it

`processes.json` in the run folder tells `twinrl status` who is there. Nothing outlives `close`, which ends the workers
first and the services they write to last, each within 4 s.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from protos.errors import TwinRLError, Unreachable
from protos.files import log_tail, write_durably
from protos.folders import Ownership
from protos.problems import problem_of
from protos.process import Closing, Exit, ProblemPipe, problem_in
from protos.status import STATUS_VARIABLE
from twinrl.run.guardian import GRACE_S, signal_group
from twinrl.run.room import check_low

log = logging.getLogger(__name__)

POLL_S = 0.1
RESTART_DELAY_S = 0.5
RESTART_LIMIT = 5
"""A service that ends more often than this within `RESTART_WINDOW_S` counts as failed."""
RESTART_WINDOW_S = 60.0
EXPENDABLE_RESTARTS = 1


@dataclass(frozen=True, kw_only=True)
class Child:
    """A child process to start. `command` is the whole command line; `python_module` builds the usual one."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the run's own environment."""
    service: bool = False
    """A service keeps its state on disk and listens on a fixed address: it is started again when it ends by itself."""
    expendable: bool = False
    """The run goes on without it: it is started again once, and its loss is told in a line."""
    terminal: bool = False
    """It asks a person at the run's own terminal; only what it logs goes to its file."""


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line `python -m module arguments…` with the interpreter of this process."""
    return [sys.executable, "-m", module, *arguments]


@dataclass(kw_only=True)
class _Entry:
    child: Child
    popen: subprocess.Popen[bytes]
    problems: ProblemPipe
    started_unix_s: float
    state: str = "running"  # running, restarting, finished, failed, stopped; lost: expendable, and not there any more
    exits: list[float] = field(default_factory=list)
    refused: str = ""
    """The reason for which the system did not let the child start again."""

    def row(self) -> dict[str, object]:
        return {
            "name": self.child.name,
            "pid": self.popen.pid,
            "state": self.state,
            "service": self.child.service,
            "started_unix_s": self.started_unix_s,
            "restarts": max(len(self.exits) - (self.state in ("restarting", "failed", "lost")), 0),
            "exit_code": self.popen.returncode,
            "command": list(self.child.command),
        }


class Supervisor(Closing):
    """Owns every child process of one run; a context manager. Safe to call from several threads."""

    def __init__(
        self, run_dir: Path, *, ownership: Ownership | None = None, tell: Callable[[str], None] = log.warning
    ) -> None:
        """Gives `ownership` of the folder to the guardian too: it stays taken until a killed run's last child ended.

        `tell` shows a line to the person who watches the run; it is called from a thread.
        """
        self._tell = tell
        self.run_dir, self.logs = run_dir, run_dir / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._starter = ThreadPoolExecutor(1, "starter")
        self._guardian = subprocess.Popen(
            [sys.executable, "-S", str(Path(__file__).with_name("guardian.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            pass_fds=() if ownership is None else (ownership.descriptor,),
        )
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()

    def start(self, child: Child) -> int:
        """Starts a child and returns its process id. A name may be used again once its process has ended.

        A signal interrupts the main thread alone: no child starts without being known, and `close` ends it.
        """
        return self._starter.submit(self._start, child).result()

    def _start(self, child: Child) -> int:
        with self._lock:
            old = self._entries.get(child.name)
            assert old is None or old.state not in ("running", "restarting"), f"{child.name} runs already"
            popen, problems = self._spawn(child)
            entry = _Entry(child=child, popen=popen, problems=problems, started_unix_s=time.time())
            self._entries[child.name] = entry
            self._save()
            return self._entries[child.name].popen.pid

    def check(self) -> None:
        """Raises TwinRLError, with the end of its log, if a child failed, and if the disk is nearly full."""
        with self._lock:
            for entry in self._entries.values():
                if entry.state == "failed":
                    raise TwinRLError(self._failure(entry))
        check_low(self.run_dir)

    def wait(self, *names: str, timeout_s: float, poll: Callable[[], None] | None = None) -> None:
        """Returns when every named child has ended with exit code 0, calling `poll` ten times a second meanwhile.

        Raises TwinRLError if any child of the run fails, or after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.check()
            left = [name for name in names if self._entries[name].state in ("running", "restarting")]
            if not left:
                return
            if time.monotonic() > deadline:
                raise TwinRLError(f"{', '.join(left)} did not finish within {timeout_s:g} s")
            if poll is not None:
                poll()
            time.sleep(POLL_S)

    def wait_listening(self, name: str, address: str, *, timeout_s: float = 20.0) -> None:
        """Returns when the child accepts connections at "host:port" or at a socket's path, else Unreachable."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            if _accepts(address):
                return
            time.sleep(POLL_S / 2)
        raise Unreachable(f"{name} does not listen on {address} after {timeout_s:g} s; see {self.log_path(name)}")

    def stop(self, *names: str) -> None:
        """Ends the named children: SIGTERM, SIGKILL after 4 s. Those that have ended already are left as they are."""
        with self._lock:
            live = [self._entries[name] for name in reversed(names) if self._is_live(name)]
            for entry in live:
                entry.state = "stopped"
        for entry in live:
            entry.popen.terminate()  # the child alone: what it started is its own to end, in its own order
        deadline = time.monotonic() + GRACE_S
        for entry in live:
            self._reap(entry, deadline)
        self._save()

    def running(self, name: str) -> bool:
        """Returns whether the child's process is there now."""
        with self._lock:
            return self._entries[name].state == "running" and self._entries[name].popen.poll() is None

    def pid(self, name: str) -> int:
        """Process id of the child's newest process."""
        return self._entries[name].popen.pid

    def restarts(self, name: str) -> int:
        """Returns how often the child was started again."""
        with self._lock:
            restarts = self._entries[name].row()["restarts"]
        assert isinstance(restarts, int)
        return restarts

    def log_path(self, name: str) -> Path:
        """Returns the file that receives the child's standard output and error."""
        return self.logs / f"{name}.log"

    def close(self) -> None:
        """Ends everything: first the workers, latest first, then the services, within 4 s each."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._starter.shutdown()
        self._watcher.join()
        for service in (False, True):
            self.stop(*(name for name, entry in self._entries.items() if entry.child.service is service))
        assert self._guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guardian.stdin.close()
        self._guardian.wait()

    def _is_live(self, name: str) -> bool:
        return self._entries[name].state in ("running", "restarting")

    def _reap(self, entry: _Entry, deadline: float) -> None:
        """Waits for an ending child until the deadline, then kills what is left of its process group."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            entry.popen.wait(max(deadline - time.monotonic(), 0.0))
        signal_group(entry.popen.pid, signal.SIGKILL)
        entry.popen.wait()
        entry.problems.read()
        self._tell_guardian("-", entry.popen.pid)

    def _spawn(self, child: Child) -> tuple[subprocess.Popen[bytes], ProblemPipe]:
        status = {STATUS_VARIABLE: str(self.logs.absolute() / f"{child.name}.status.json"), "PYTHONUNBUFFERED": "1"}
        problems = ProblemPipe()
        with problems.writing(), self.log_path(child.name).open("ab") as output:
            popen = subprocess.Popen(
                list(child.command),
                stdin=None if child.terminal else subprocess.DEVNULL,
                stdout=None if child.terminal else output,
                stderr=output,
                env=os.environ | status | problems.environment | dict(child.environment),
                pass_fds=(problems.writer,),
                start_new_session=True,
            )
        self._tell_guardian("+", popen.pid)
        return popen, problems

    def _tell_guardian(self, sign: str, pgid: int) -> None:
        assert self._guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # without its guardian a run works, only not through `kill -9`
            self._guardian.stdin.write(f"{sign}{pgid}\n")
            self._guardian.stdin.flush()

    def _watch(self) -> None:
        """Body of the watcher thread: notices ends and starts services again."""
        while not self._closing.wait(POLL_S):
            with self._lock:
                for entry in self._entries.values():
                    if entry.state == "running" and entry.popen.poll() is not None:
                        self._ended(entry)
                    elif entry.state == "restarting" and time.monotonic() >= entry.exits[-1] + RESTART_DELAY_S:
                        self._start_again(entry)

    def _start_again(self, entry: _Entry) -> None:
        try:
            entry.popen, entry.problems = self._spawn(entry.child)
        except OSError as error:  # no process or no log for it: the next check tells
            entry.refused, entry.state = f"{entry.child.name} cannot start again: {problem_of(error)}", "failed"
            if entry.child.expendable:
                entry.state = "lost"
                self._tell(f"{entry.refused}; the run goes on without it")
            return
        entry.started_unix_s, entry.state = time.time(), "running"
        self._save()

    def _ended(self, entry: _Entry) -> None:
        """Decides what the end of a child means, and ends what it may have started itself."""
        signal_group(entry.popen.pid, signal.SIGKILL)
        self._tell_guardian("-", entry.popen.pid)
        entry.problems.read()
        now, code = time.monotonic(), entry.popen.returncode
        if entry.child.service:
            entry.exits.append(now)
            recent = sum(now - moment < RESTART_WINDOW_S for moment in entry.exits)
            entry.state = "restarting" if recent <= RESTART_LIMIT else "failed"
            log.warning("%s ended with exit code %d: %s", entry.child.name, code, entry.state)
        elif entry.child.expendable and code != 0:
            entry.exits.append(now)
            again = len(entry.exits) <= EXPENDABLE_RESTARTS
            entry.state = "restarting" if again else "lost"
            then = "it is started again" if again else "the run goes on without it"
            self._tell(f"{entry.child.name} {_how_it_ended(code)}, see {self.log_path(entry.child.name)}; {then}")
        else:
            entry.state = "finished" if code == 0 else "failed"
        self._save()

    def _failure(self, entry: _Entry) -> str:
        path, code = self.log_path(entry.child.name), entry.popen.returncode
        told = entry.problems.told or problem_in(log_tail(path, 1))
        if entry.refused or (code in (Exit.PROBLEM, Exit.ARM_STOPPED) and told is not None):
            return entry.refused or str(told)
        how = _how_it_ended(code)
        if entry.child.service:
            how += f" {len(entry.exits)} times"
        return f"{entry.child.name} {how}; the end of {path}:\n{log_tail(path)}"

    def _save(self) -> None:
        with self._lock:
            rows = [entry.row() for entry in self._entries.values()]
            try:
                write_durably(self.run_dir / "processes.json", [json.dumps({"processes": rows}, indent=1).encode()])
            except OSError as error:  # only `twinrl status` reads it
                log.info("%s", problem_of(error))


def _how_it_ended(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _accepts(address: str) -> bool:
    at_path = address.startswith("/")
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_UNIX if at_path else socket.AF_INET) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address if at_path else (host, int(port)))
        except OSError:
            return False
        return True
