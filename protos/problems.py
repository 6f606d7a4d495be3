"""This module says in one line what the operating system refused: the path, the reason, the work, and what to do.

with doing("saving the checkpoint", path): …   anywhere: an OSError passes on with a note
problem_of(error)                              at the root of a process: the line

The line: "out/policy: no space left on device, while saving the checkpoint; make room there or name another disk, …".
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from protos.errors import TwinRLError

_WHILE = "while "
_AGAIN = "then give the same command again (with --resume where it has one)"
_MODE = "this user needs the permission; change the owner or the mode, or name another place"
REMEDIES: Mapping[int, str] = {
    errno.ENOSPC: f"make room there or name another disk, {_AGAIN}",
    errno.EDQUOT: f"the quota of this user is used up: make room or have it raised, {_AGAIN}",
    errno.EFBIG: f"a limit on the size of files (ulimit -f, or the file system's) is in the way: raise it, {_AGAIN}",
    errno.EROFS: "the disk can only be read: name a folder on another one, or mount it for writing",
    errno.EACCES: _MODE,
    errno.EPERM: _MODE,
    errno.ENOENT: "check the path; a file may have been moved or deleted meanwhile",
    errno.ENOTDIR: "a part of this path is a file: name a folder, or move the file away",
    errno.EEXIST: "something else of this name is there: move it away, or choose another name",
    errno.ENOTEMPTY: "the folder holds something: empty it, or choose another name",
    errno.EISDIR: "this is a folder and a file is expected: name the file",
    errno.ENAMETOOLONG: "choose a shorter name or folder",
    errno.ELOOP: "links lead in a circle: name the place itself",
    errno.EXDEV: "both places must lie on one disk",
    errno.EBUSY: "another program or a mount uses it: end that first",
    errno.ETXTBSY: "another program uses it: end that first",
    errno.EMFILE: "raise the limit of open files of this shell (ulimit -n 8192), then start again",
    errno.ENFILE: "this machine has too many files open: end other programs",
    errno.ENOMEM: "end other programs, or ask for less at a time",
    errno.EAGAIN: "the limit of processes or threads (ulimit -u) is reached: raise it or end other programs",
    errno.EIO: "the disk does not read or write this any more; look at `dmesg`, and keep a copy elsewhere",
    errno.ESTALE: "the network disk is gone or was mounted anew: mount it again",
    errno.EADDRINUSE: "another program listens there: end it, or choose another port",
    errno.EADDRNOTAVAIL: "this machine does not have that address: name one of its own",
    errno.ECONNREFUSED: "nobody listens there: start the service, or mend the address",
    errno.ECONNRESET: "the other side ended the connection: look at its log",
    errno.EPIPE: "the other side ended the connection: look at its log",
    errno.EHOSTUNREACH: "no way leads to that machine: check address and network",
    errno.ENETUNREACH: "no way leads to that network: check address and network",
    errno.ETIMEDOUT: "the other side did not answer: check address and network",
}

_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


@contextmanager
def doing(what: str, path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Notes on an OSError that passes what was being done ("saving the checkpoint"), and the path of a disk's own."""
    try:
        yield
    except OSError as error:
        if path is not None and error.filename is None and error.errno in _OF_A_DISK:
            error.filename = os.fspath(path)
        error.add_note(f"{_WHILE}{what}")
        raise


def problem_of(error: TwinRLError | OSError) -> str:
    """Returns the line for a person. An error of ours has its own words already."""
    cause = getattr(error, "cause", None)  # Ray's error of a task or actor is of its class too, with all of a traceback
    error = cause if isinstance(cause, TwinRLError | OSError) else error
    if isinstance(error, TwinRLError):
        return str(error)
    places = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    reason = (error.strerror or str(error) or type(error).__name__).strip().rstrip(".")
    reason = reason[:1].lower() + reason[1:] if error.strerror else reason
    work = next((note for note in getattr(error, "__notes__", ()) if note.startswith(_WHILE)), "")
    line = ": ".join(filter(None, (" -> ".join(places), ", ".join(filter(None, (reason, work))))))
    remedy = REMEDIES.get(error.errno or 0, "")
    return f"{line}; {remedy}" if remedy else line


def first_line(error: Exception) -> str:
    """Returns the first line of what a library's error says, its type where it says nothing."""
    text = problem_of(error) if isinstance(error, OSError) else str(error)
    return next(iter(text.strip().splitlines()), type(error).__name__)
