"""This module sees to it that one program at a time drives an arm from this computer.

A locked file per arm, in a folder that only this user can enter, names the program. The kernel frees the lock when the
program ends, however it does. Programs of other users and computers are refused by the controller itself, which lets
one RTDE client have its input registers.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import tempfile
import time
from datetime import datetime
from pathlib import Path

from protos.errors import InputError
from protos.process import Closing

PATIENCE_S = 2.0
"""A program that was just ended needs a moment to hold the arm and leave."""


class Owner(Closing):
    """The right to drive the arm at `host`, until closed. Raises InputError that names the program that has it."""

    def __init__(self, host: str, *, pid: int, folder: Path | None = None, patience_s: float = PATIENCE_S) -> None:
        """`pid` is the process that an operator would end; `folder` another place for the lock files."""
        path = (folder or _runtime_folder()) / f"arm-{_address(host)}.lock"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not self._locked_within(patience_s):
            holder = os.pread(self._file, 4096, 0)
            os.close(self._file)
            raise InputError(f"the arm at {host} is driven by {_told(holder)}; end that program first")
        told = {"pid": pid, "host": socket.gethostname(), "since": datetime.now().isoformat(" ", "seconds")}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(told).encode(), 0)

    def close(self) -> None:
        os.close(self._file)

    def _locked_within(self, patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
            else:
                return True


def _runtime_folder() -> Path:
    """Returns a folder that this user alone can enter. Raises InputError when somebody else has it."""
    session = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(session) / "twinrl" if session else Path(tempfile.gettempdir()) / f"twinrl-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(f"{folder}: must be a folder that only you can enter (mode 0700); remove it or mend its mode")
    return folder


def _address(host: str) -> str:
    """Returns the numeric address of an arm, whatever it is called; its name when nobody knows the address."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return host.replace("/", "_")


def _told(holder: bytes) -> str:
    try:
        told = json.loads(holder)
        return f"process {int(told['pid'])} on {told['host']} since {told['since']}"
    except (ValueError, KeyError, TypeError):
        return "another program on this computer"
