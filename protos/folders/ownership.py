"""This module lets one program at a time write into a folder.

    with owned(out, "twinrl sft"):  ──► out/owner.json {command, pid, host, since, …}, locked until the block ends
    second program  ──► "out is in use by twinrl sft (pid 4711 on lab1, since …); …"
    owner_of(out)   ──► who writes there now, for those who only look

The kernel holds the lock and gives it back however its owner ends, so a folder whose owner died is taken over, with a
line in the log. In two cases the file decides: on a filesystem without locks the process is looked for by its number;
and what another machine wrote is refused until a person removes the file, since its processes cannot be seen from here.
A copy of a folder is nobody's, though the file was copied with it.

Reading takes no lock and writes none, so a folder on a read-only disk is read like any other.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from protos.errors import InputError
from protos.process import Closing

log = logging.getLogger(__name__)

FILE = "owner.json"
ENDING_S = 15.0
"""Time that the children of a dead owner are given to end, before its folder counts as in use."""
POLL_S = 0.05
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, kw_only=True)
class Owner:
    """An owner is the program that writes into a folder."""

    command: str
    pid: int
    host: str
    since: str
    """Local time of its start."""
    boot: str
    """Identity of the kernel that runs it: containers of one machine share it, a restart changes it."""
    inode: int
    """Number of the file that it wrote; a copy of the file has another."""

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid} on {self.host}, since {self.since})"

    @property
    def is_here(self) -> bool:
        """Returns whether this kernel runs it, so that its lock and its process can be seen."""
        return self.boot == boot_id() if self.boot else self.host == socket.gethostname()

    @property
    def is_elsewhere(self) -> bool:
        """Returns whether another machine runs it; one that was started again since runs it no more."""
        return not self.is_here and self.host != socket.gethostname()


class Ownership(Closing):
    """An ownership is a folder that this process alone may write into until `close`."""

    def __init__(self, folder: Path, descriptor: int, *, made: Sequence[Path]) -> None:
        self.folder, self._made = folder, made
        self.descriptor = descriptor
        """The open file that keeps the lock: a process that inherits it keeps the folder too."""

    def rename(self, folder: Path) -> None:
        """Moves the folder, which stays this process's."""
        self.folder, self._made = self.folder.rename(folder), ()

    def close(self) -> None:
        """Gives the folder back, and removes its file; also the folders that were made for nothing."""
        if self.descriptor < 0:
            return
        path, descriptor, self.descriptor = self.folder / FILE, self.descriptor, -1
        if _is_file(descriptor, path):
            path.unlink()
            with contextlib.suppress(OSError):  # the first that holds something
                for made in self._made:
                    made.rmdir()
        os.close(descriptor)


def owned(folder: Path, command: str, *, instead: str = "name another --out") -> Ownership:
    """Takes a folder, and makes it where it is missing; give it back by `close` or at the end of a `with` block.

    Raises InputError, in one line that ends with what to do `instead`, when another program has it or it cannot be
    written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        descriptor = _locked(folder, instead)
        try:
            _write(descriptor, command)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {(error.strerror or str(error)).lower()}; {instead}") from error
    return Ownership(folder, descriptor, made=made)


def owner_of(folder: Path) -> Owner | None:
    """Returns the program that writes into a folder now; None where there is none, or none that can be known."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        owner, locked = _read(descriptor), _lock(descriptor, fcntl.LOCK_SH)
        return owner if locked is False or _may_live(owner, descriptor, unlocked=locked is True) else None
    finally:
        os.close(descriptor)


def contents(folder: Path) -> list[Path]:
    """Returns what lies in a folder, its owner's file aside; nothing where there is no folder."""
    return [path for path in folder.iterdir() if path.name != FILE] if folder.is_dir() else []


def _locked(folder: Path, instead: str) -> int:
    """Makes the folder; returns the descriptor of its file, locked where the filesystem has locks."""
    path, give_up = folder / FILE, time.monotonic() + ENDING_S
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was removed meanwhile
            continue
        locked, owner = _lock(descriptor, fcntl.LOCK_EX), _read(descriptor)
        lives = _may_live(owner, descriptor, unlocked=locked is True)
        if locked is not False and not lives and _is_file(descriptor, path):
            _tell(folder, owner, descriptor)
            return descriptor
        os.close(descriptor)
        # else it was given back between our calls, or its owner starts or was killed and its children are ending
        if lives or time.monotonic() > give_up:
            raise InputError(_refusal(folder, owner, instead, locked=locked is False))
        time.sleep(POLL_S)


def _lock(descriptor: int, kind: int) -> bool | None:
    """Takes the kernel's lock; False when another has it, None on a filesystem without locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _may_live(owner: Owner | None, descriptor: int, *, unlocked: bool) -> bool:
    """Returns whether an owner may still write, as far as its file tells.

    `unlocked` is the kernel's word that no process of this machine does.
    """
    if owner is None or owner.inode != os.fstat(descriptor).st_ino:
        return False
    if owner.is_here:
        return not unlocked and _is_alive(owner.pid)
    return owner.is_elsewhere


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    """Returns whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write(descriptor: int, command: str) -> None:
    owner = Owner(
        command=command,
        pid=os.getpid(),
        host=socket.gethostname(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        boot=boot_id(),
        inode=os.fstat(descriptor).st_ino,
    )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(owner)).encode() + b"\n", 0)


def _read(descriptor: int) -> Owner | None:
    """Returns what the file says; None when it says nothing, as at the very start of its owner."""
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        kinds = {"command": str, "pid": int, "host": str, "since": str, "boot": str, "inode": int}
        return Owner(**{name: kind(found[name]) for name, kind in kinds.items()})
    except (ValueError, TypeError, KeyError):
        return None


def _tell(folder: Path, owner: Owner | None, descriptor: int) -> None:
    """Says from whom a folder is taken over; a copy of one is taken over from nobody."""
    if owner is not None and owner.inode == os.fstat(descriptor).st_ino:
        log.warning("%s: taken over from %s, which ended without giving it back", folder, owner)


def _refusal(folder: Path, owner: Owner | None, instead: str, *, locked: bool) -> str:
    if owner is None:
        return f"{folder} is in use by another program; {instead}"
    if owner.is_elsewhere and not locked:
        return (
            f"{folder} is in use by {owner}, and {socket.gethostname()} cannot see whether that still runs; {instead}, "
            f"or remove {folder / FILE} when it is gone"
        )
    return f"{folder} is in use by {owner}; end it, or {instead}"


def boot_id() -> str:
    """Returns the identity of the kernel that runs here; a restart changes it, and it is empty where it is not told."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
