"""Ray runs this program in place of `python`: it asks the node's fork server for a process that is warm already.

    raylet ──starts──► fork_launcher ──argv, environment, folder──► fork_server ──fork──► the Ray worker

Standard library only, so that it costs a hundredth of a second. It starts the fork server when none answers. Without a
fork server's help the worker starts as it would have without this file.

A Ray of our own runs it in place of Ray's set-up step too, which imports all of Ray to put variables into the
environment: half a second of CPU time for each worker. A worker that names no world to be warm for is not forked.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORLD_VARIABLE = "TWINRL_FORK_WORLD"
"""Environment variable with the `TwinWorld` to warm up for, as JSON."""
CONTEXT, LANGUAGE = "--serialized-runtime-env-context=", "--language="
"""Arguments of Ray's set-up step."""
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 50.0
"""Deadline below the minute after which Ray gives up on a worker that did not register."""


def socket_path() -> Path:
    """Returns the socket of the fork server of this raylet and job; Ray reads its environment once, when imported."""
    name = f"{os.environ.get('RAY_RAYLET_PID', '0')}-{os.environ.get('RAY_JOB_ID', '0')}.sock"
    return Path(tempfile.gettempdir()) / f"twinrl-fork-{os.getuid()}" / name


def main() -> None:
    arguments = _set_up(sys.argv[1:])
    if WORLD_VARIABLE not in os.environ or not _forked(arguments):
        os.execv(sys.executable, [sys.executable, *arguments])


def _set_up(arguments: list[str]) -> list[str]:
    """Puts the variables of a runtime environment into this one; returns the arguments that are the worker's own."""
    own = []
    for argument in arguments:
        if argument.startswith(CONTEXT):
            for name, value in json.loads(argument.removeprefix(CONTEXT)).get("env_vars", {}).items():
                os.environ[name] = os.path.expandvars(value)
        elif not argument.startswith(LANGUAGE):
            own.append(argument)
    return own


def _forked(arguments: list[str]) -> bool:
    try:
        path = socket_path()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.parent.stat().st_uid != os.getuid():
            return False
        with _connected(path) as connection:
            request = {"argv": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(ANSWER_TIMEOUT_S)
            return connection.recv(64).startswith(b"pid ")
    except OSError as error:
        sys.stderr.write(f"no fork server ({error}); this worker starts cold\n")
        return False


def _connected(path: Path) -> socket.socket:
    """Returns a connection to the fork server, which is started when there is none; it listens before it is warm."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = False
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(path))
                return connection
            except OSError:
                connection.close()
                if time.monotonic() > deadline:
                    raise
            if not started:
                started = True
                path.unlink(missing_ok=True)
                command = [sys.executable, "-m", "actors.sim.fork_server", str(path)]
                subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
            time.sleep(0.02)


if __name__ == "__main__":
    main()
