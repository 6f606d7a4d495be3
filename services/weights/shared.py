"""This module keeps one copy of each large part in shared memory, for all subscribers that a user runs on this host.

    the first       <sha256>.new, locked ── pull, check, decode ──► renamed <sha256> ──► mapped, read-only
    the others      wait while it is locked ────────────────────────────────────────────► mapped, read-only
    the last        removes the file when nothing refers to its mapping any more

A file gets its name after its bytes have passed their sha256, so whoever finds one maps it as it is: the checksum is
computed once per host. Its bytes are the tensors decoded. Folder and files belong to the user and nobody else may open
them; what looks otherwise is left alone. Where there is no shared memory, no room in it or no answer from whoever holds
the lock, the subscriber pulls for itself, as if it were alone.

Locks (flock) end with their process and guard names, never contents: a writer that is killed leaves a `.new` file that
the next one fills again, and a file that is unlinked stays as it is for those who have mapped it.

    a waiter waits for     the file, the lock, a writer without progress for 2 s, the subscriber's end
"""

import errno
import fcntl
import logging
import mmap
import os
import re
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.problems import problem_of
from services.weights.wire import Tensors, decode_into, decoded_bytes, decoded_views

log = logging.getLogger(__name__)
SHARED_MEMORY = Path("/dev/shm")
LEAST_BYTES = 4 << 20
"""Smaller parts are pulled by everyone: that costs no more than looking for a file."""
STALLED_S = 2.0
"""Time without a chunk after which nobody waits any longer for the one who pulls."""
_FORM = 1
"""Number of the form in which parts lie decoded; another form lies in another folder."""
_POLL_S = 0.01
_NEW = ".new"
_NAME = re.compile(rf"[0-9a-f]{{64}}({re.escape(_NEW)})?")

Pull = Callable[[Callable[[], None]], NDArray[np.uint8]]
"""Pulls a part and returns its checked bytes; calls what it is given after each chunk."""


class SharedParts:
    """The parts that the user's subscribers on this host have in common. For one thread at a time."""

    def __init__(self, memory: Path, stopped: Callable[[], bool]) -> None:
        """`memory` is where files are memory, /dev/shm; `stopped` ends waiting."""
        self.folder = memory / f"twinrl-weights-{_FORM}-{os.geteuid()}"
        self._stopped = stopped
        self._problem = ""

    def tensors(self, part: pb.WeightPart, pull: Pull) -> Tensors | None:
        """Returns a part's tensors, read-only: found here, or pulled by this process and left here.

        None where nothing can be shared now; the reason is logged once. What `pull` raises passes through.
        """
        if part.size < LEAST_BYTES:
            return None
        try:
            with _opened(self.folder) as folder:
                found = self._find_or_make(folder, part, pull)
        except OSError as error:
            self._note(f"{self.folder}: {problem_of(error)}")
            return None
        if found is not None:
            self._problem = ""
        return found

    def _find_or_make(self, folder: int, part: pb.WeightPart, pull: Pull) -> Tensors | None:
        progress, since_s = 0, time.monotonic()
        while not self._stopped():
            found = self._find(folder, part)
            if found is not None:
                return found
            with ExitStack() as stack:
                file = _claimed(folder, part.sha256, stack)
                if file is not None:
                    return self._make(folder, file, part, pull)
            seen = _modified_ns(folder, part.sha256)
            if seen != progress:
                progress, since_s = seen, time.monotonic()
            elif time.monotonic() - since_s > STALLED_S:
                self._note(f"{self.folder}: whoever pulls part {part.name!r} has stopped")
                return None
            time.sleep(_POLL_S)
        return None

    def _find(self, folder: int, part: pb.WeightPart) -> Tensors | None:
        try:
            file = os.open(part.sha256, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return None
        with ExitStack() as stack:
            stack.callback(os.close, file)
            _check_owner(os.fstat(file), stat.S_IFREG)
            if not _locked(file, fcntl.LOCK_SH):
                return None  # it is being removed
            if os.fstat(file).st_size != decoded_bytes(part):
                os.unlink(part.sha256, dir_fd=folder)
                raise OSError(errno.EIO, "a file of a wrong size was removed", part.sha256)
            return self._mapped(file, part)

    def _make(self, folder: int, file: int, part: pb.WeightPart, pull: Pull) -> Tensors:
        """Fills the file that this process has locked, and gives it its name."""
        new = part.sha256 + _NEW
        with ExitStack() as on_error:
            on_error.callback(_remove, folder, new)
            _remove_unused(folder, kept=part.sha256)
            os.ftruncate(file, decoded_bytes(part))
            os.posix_fallocate(file, 0, decoded_bytes(part))  # a full memory is an error here, and SIGBUS later
            data = pull(lambda: os.utime(file))
            _write(file, part, data)
            os.rename(new, part.sha256, src_dir_fd=folder, dst_dir_fd=folder)
            on_error.pop_all()
        fcntl.flock(file, fcntl.LOCK_SH)
        return self._mapped(file, part)

    def _mapped(self, file: int, part: pb.WeightPart) -> Tensors:
        """Maps a file; its lock, shared, is held until nothing refers to the mapping any more."""
        mapping = mmap.mmap(file, decoded_bytes(part), access=mmap.ACCESS_READ)
        weakref.finalize(mapping, _let_go, os.dup(file), self.folder / part.sha256)
        return decoded_views(part, np.frombuffer(mapping, np.uint8))

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("weights are not shared on this host: %s", problem)
        self._problem = problem


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Opens the folder, made if there is none. Raises PermissionError when it is not the user's alone."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_owner(os.fstat(folder), stat.S_IFDIR)
        yield folder
    finally:
        os.close(folder)


def _check_owner(found: os.stat_result, kind: int) -> None:
    if stat.S_IFMT(found.st_mode) != kind or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "there is something that others than this user may write or read")


def _claimed(folder: int, sha256: str, stack: ExitStack) -> int | None:
    """Opens and locks the file that is to become `sha256`; None while another process has it. `stack` closes it."""
    new = sha256 + _NEW
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    stack.callback(os.close, file)
    _check_owner(os.fstat(file), stat.S_IFREG)
    return file if _locked(file, fcntl.LOCK_EX) and _is_named(file, new, folder) else None


def _locked(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(file: int, name: str, folder: int | None = None) -> bool:
    """Tells whether the name still leads to the open file: it may have been renamed or removed before the lock."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(file))


def _modified_ns(folder: int, sha256: str) -> int:
    try:
        return os.stat(sha256 + _NEW, dir_fd=folder, follow_symlinks=False).st_mtime_ns
    except FileNotFoundError:
        return 0


def _write(file: int, part: pb.WeightPart, data: NDArray[np.uint8]) -> None:
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    mapping = mmap.mmap(file, decoded_bytes(part), flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    decode_into(part, data, np.frombuffer(mapping, np.uint8))


def _remove(folder: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _remove_unused(folder: int, *, kept: str) -> None:
    """Removes files that no process has locked: those of processes that were killed."""
    for name in os.listdir(folder):
        if not _NAME.fullmatch(name) or name.removesuffix(_NEW) == kept:
            continue
        with suppress(OSError), ExitStack() as stack:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            stack.callback(os.close, file)
            if _locked(file, fcntl.LOCK_EX) and _is_named(file, name, folder):
                os.unlink(name, dir_fd=folder)


def _let_go(file: int, path: Path) -> None:
    """Removes the file of a mapping that is no more, unless another mapping holds its lock."""
    try:
        if _locked(file, fcntl.LOCK_EX) and _is_named(file, str(path)):
            path.unlink(missing_ok=True)
    finally:
        os.close(file)
