"""This module measures CPU seconds and wall time of everything that a block starts, whoever waits for it.

    this process ─► run ─► raylet ─► workers         those whose parent dies become children of this process, the
         │                   └─► fork server ─► …    subreaper of all that it starts, and are counted further on
         └── sampled from /proc: time of those that live, and of the ended ones that they waited for

Time of an ended process lies in the one that waited for it; where its parent ignores the ends of children nobody has
it, and what was seen last stands for it.
"""

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_S = 0.2
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux's prctl."""
SIGCHLD_BIT = 1 << 16
"""SIGCHLD in the masks of /proc/PID/status."""


@dataclass(frozen=True)
class _Seen:
    """One process as it was seen last."""

    parent: int
    state: str
    own: int
    """Ticks of its threads."""
    waited: int
    """Ticks of the ended children that it waited for."""


Key = tuple[int, int]
"""Process id, and start in ticks, which tells apart those that had one id after the other."""


class Meter:
    """User and system time of this process's descendants, not its own; a context manager.

    What a process whose parent ignores its end does after its last sample is missing: at most `SAMPLE_S` of each.
    """

    def __init__(self) -> None:
        self._seen: dict[Key, _Seen] = {}
        self._adopted: set[Key] = set()
        self._forgetful: set[int] = set()  # parents that ignore the ends of their children
        self._lost = 0
        self._ticks = self._before = 0
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-meter", daemon=True)
        self._started = time.monotonic()
        self.wall_s = 0.0

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far, without what was used before the block."""
        with self._mutex:
            return (self._ticks - self._before) / TICKS_PER_S

    def sample(self) -> float:
        """Returns the CPU seconds of this moment."""
        with self._mutex:
            now = _descendants()
            self._note_lost(now)
            self._seen = now
            waited = os.times()
            of_ended = round((waited.children_user + waited.children_system) * TICKS_PER_S)
            self._ticks = of_ended + self._lost + sum(one.own + one.waited for one in now.values())
            self._reap(now)
        return self.cpu_s

    def __enter__(self) -> Self:
        _be_subreaper(True)
        self.sample()
        self._before = self._ticks
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()
        _be_subreaper(False)
        self.wall_s = time.monotonic() - self._started

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.sample()

    def _note_lost(self, now: dict[Key, _Seen]) -> None:
        """Keeps the time of those that have ended and that nobody waited for."""
        for key, one in self._seen.items():
            if key not in now and one.parent in self._forgetful:
                self._lost += one.own + one.waited
        self._forgetful = {pid for pid in {one.parent for one in now.values()} if _ignores_children(pid)}

    def _reap(self, now: dict[Key, _Seen]) -> None:
        """Waits for ended processes that came to this one when their parent ended; its own children it leaves alone."""
        for key, one in now.items():
            if one.parent != os.getpid():
                self._adopted.add(key)  # should it come to us one day, nobody else waits for it
            elif one.state == "Z" and key in self._adopted:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(key[0], os.WNOHANG)


def _be_subreaper(on: bool) -> None:
    """Lets orphans among this process's descendants come to it, instead of to init."""
    assert ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, int(on), 0, 0, 0) == 0, "Linux 3.4 has it"


def _descendants() -> dict[Key, _Seen]:
    """Reads every process that this one started, directly or not, and that is there."""
    everything = dict(_processes())
    children: dict[int, list[Key]] = {}
    for key, one in everything.items():
        children.setdefault(one.parent, []).append(key)
    found: dict[Key, _Seen] = {}
    ahead = [os.getpid()]
    while ahead:
        for key in children.get(ahead.pop(), []):
            found[key] = everything[key]
            ahead.append(key[0])
    return found


def _processes() -> Iterator[tuple[Key, _Seen]]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                text = (path / "stat").read_text()
                # proc(5): state, parent, …, utime, stime, cutime, cstime at 11 to 14, starttime at 19 after the name
                fields = text[text.rindex(")") + 2 :].split()
                own, waited = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
                key = (int(path.name), int(fields[19]))
                yield key, _Seen(parent=int(fields[1]), state=fields[0], own=own, waited=waited)


def _ignores_children(pid: int) -> bool:
    """Tells whether a process ignores SIGCHLD, so that the system forgets the time of its ended children."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigIgn:"):
                return bool(int(line.split()[1], 16) & SIGCHLD_BIT)
    return False
