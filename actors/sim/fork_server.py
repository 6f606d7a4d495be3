"""The fork server of a node imports, compiles and loads once; twin actors are forked from it and so start warm.

    fork_launcher ──request──► fork server ──fork──► Ray worker: runs Ray's own worker script
                               numba's kernels compiled, MuJoCo, the scene: read-only pages that all of them share

A twin actor that starts by itself takes 3 CPU seconds and 150 MB; a forked one 0.4 CPU seconds and 50 MB of its own.
The server has one thread, opens no connection and ends with its raylet. It serves the user who started it alone: the
socket lies in a folder of mode 0700.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from actors.sim.fork_launcher import WORLD_VARIABLE

RAY_WORKER_MODULES = ("ray", "ray.actor", "ray._private.node", "ray._private.runtime_env.setup_hook")
POLL_S = 2.0
MAX_REQUEST_BYTES = 4 << 20


def main() -> None:
    path = Path(sys.argv[1])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(512)
        warm_up(os.environ[WORLD_VARIABLE])
        assert threading.active_count() == 1, f"threads do not survive a fork: {threading.enumerate()}"
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers leave no zombies
        gc.collect()
        gc.freeze()  # what is here now is not looked at again, so its pages stay shared
        server.settimeout(POLL_S)
        raylet = int(os.environ.get("RAY_RAYLET_PID", os.getppid()))
        while _alive(raylet):
            _serve_one(server)
    path.unlink(missing_ok=True)


def warm_up(world_json: str) -> None:
    """Imports what a twin actor imports and takes one step of one twin, so that every kernel is compiled."""
    from actors.sim.settings import TwinWorld
    from actors.sim.twins import make_twin
    from protos.settings import from_json
    from twin import tasks

    for module in (*RAY_WORKER_MODULES, "actors.sim.twin_actor"):
        importlib.import_module(module)
    world = from_json(TwinWorld, json.loads(world_json))
    twin = make_twin(world, n=1, seed=0)
    twin.reset(0, tasks.get(world.task).space.sample(np.random.default_rng(0)))
    twin.observe()
    twin.step(np.zeros((1, 7), np.float32))
    twin.close()


def _serve_one(server: socket.socket) -> None:
    """Answers one request, or returns after `POLL_S` without any."""
    try:
        connection, _ = server.accept()
    except TimeoutError:
        return
    with connection:
        try:
            request = _read(connection)
            child = os.fork()
            if child == 0:
                server.close()
                connection.close()
                become_worker(request)
            connection.sendall(f"pid {child}".encode())
        except (OSError, ValueError, KeyError) as error:
            sys.stderr.write(f"fork server: a request failed ({error})\n")


def _read(connection: socket.socket) -> dict[str, Any]:
    connection.settimeout(POLL_S)
    data = b""
    while part := connection.recv(1 << 16):
        data += part
        if len(data) > MAX_REQUEST_BYTES:
            raise ValueError(f"more than {MAX_REQUEST_BYTES} bytes")
    request = json.loads(data)
    return {name: request[name] for name in ("argv", "environment", "folder")}


def become_worker(request: dict[str, Any]) -> NoReturn:
    """Runs the script that Ray asked for in this, forked, process; does not return."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)  # not a session of its own: Linux shares CPU out by session before it looks at niceness
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = request["argv"]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    finally:
        os._exit(code)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
