"""This module lets the disk of a real server hang, and cuts its power: its log then keeps what an fsync had reached."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.replay import EmbeddedServer

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_WALL = 0x40000000
"""Constants of ptrace(2) and waitpid(2)."""


class HungDisk:
    """A hung disk ends no fsync of a server: the server answers, and its thread for fsync stands still."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._server = server
        self._thread = fsync_thread(server)
        self._traced = True
        self.synced_bytes = 0
        """Size of the log when the disk began to hang."""
        for request in (_SEIZE, _INTERRUPT):
            _ptrace(request, self._thread)
        os.waitpid(self._thread, _WALL)
        self.synced_bytes = log_of(server).stat().st_size

    def cut_power(self) -> None:
        """Ends the server at once; its log loses everything that it wrote since the disk hung."""
        os.kill(self._server.pid, signal.SIGKILL)
        os.waitpid(self._thread, _WALL)
        self._traced = False
        self._server.stop()
        os.truncate(log_of(self._server), self.synced_bytes)

    def end(self) -> None:
        """Lets the fsync go on."""
        if self._traced:
            _ptrace(_DETACH, self._thread)
            self._traced = False


@contextmanager
def hung_disk(server: EmbeddedServer) -> Iterator[HungDisk]:
    """Lets the disk of a server hang while the block runs, or until `cut_power`."""
    disk = HungDisk(server)
    try:
        yield disk
    finally:
        disk.end()


def fsync_thread(server: EmbeddedServer) -> int:
    """Finds the server's thread for fsync; it is called bio_aof, before Redis 7 bio_aof_fsync."""
    tasks = Path(f"/proc/{server.pid}/task").iterdir()
    return next(int(task.name) for task in tasks if (task / "comm").read_text().startswith("bio_aof"))


def fsyncs_done(server: EmbeddedServer) -> int:
    """Counts how often the thread for fsync has gone to sleep: once at least after each fsync."""
    lines = Path(f"/proc/{server.pid}/task/{fsync_thread(server)}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def log_of(server: EmbeddedServer) -> Path:
    """Finds the log of commands that the server appends to."""
    return max(server.directory.glob("appendonlydir/*.incr.aof"))


def _ptrace(request: int, thread: int) -> None:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if call(request, thread, None, None) != 0:
        pytest.skip(f"ptrace is refused here: {os.strerror(ctypes.get_errno())}")
