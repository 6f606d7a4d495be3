"""This module lets one learner at a time lead a run, by a lease whose number is checked wherever it writes.

    Lease.take ─► first shard ── holder   expires unless it is renewed, five times in its lifetime
         │                    └─ number   of the newest lease, never falls
         ├─ allow(client, …) ──────────► every shard     ─┐ refused below the newest number seen there,
         └─ number ──► Lead, Publish ──► weights service ─┘ with a line that names the newest holder

A learner that stands still for longer than the lease loses it to the next one, and to nobody else: renewing it late is
allowed while no other has a newer number. A holder that ran on this machine and is gone is followed at once; any other
is waited for until it speaks, and then refuses, or until its lease has run out.
"""

import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from protos.errors import InputError, LeaseLost, Unreachable
from protos.folders import boot_id
from protos.process import Closing
from protos.schema import Buffer
from services.replay.connection import Client, connect, reaching
from services.replay.scripts import ALLOW, LEASE, run_script
from services.replay.settings import Keys, LeaseKeys, ReplaySettings

log = logging.getLogger(__name__)

LIFETIME_S = 15.0
RENEWALS = 5
"""Times that a lease is renewed in its lifetime."""
POLL_S = 0.2
START_TOLERANCE_S = 5.0
"""A process with the same number that started later than this is another one."""
MAX_BYTES = 4 << 10


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A holder is the learner that a lease is for."""

    name: str
    """The stage."""
    host: str
    pid: int
    since: str
    """Local time at which it took the lease."""
    system: str
    """Kernel and process namespace that run it; empty where they are not told."""
    started_unix_s: float
    """Start of its process."""

    @classmethod
    def here(cls, name: str) -> Self:
        """Describes this process."""
        import psutil  # only who leads needs it; a robot's computer does without

        return cls(
            name=name,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            system=_system(),
            started_unix_s=psutil.Process().create_time(),
        )

    @classmethod
    def parse(cls, words: bytes) -> Self | None:
        """Reads what a holder said of itself; None for anything else."""
        try:
            found = json.loads(words)
            kinds = {"name": str, "host": str, "pid": int, "since": str, "system": str, "started_unix_s": float}
            return cls(**{name: kind(found[name]) for name, kind in kinds.items()})
        except (ValueError, TypeError, KeyError):
            return None

    def __str__(self) -> str:
        return f"the learner of {self.name} (pid {self.pid} on {self.host}, since {self.since})"

    @property
    def is_gone(self) -> bool:
        """Tells whether its process is known to have ended: it ran here, and runs no more."""
        if not self.system or self.system != _system():
            return False
        import psutil

        try:
            process = psutil.Process(self.pid)
            other = abs(process.create_time() - self.started_unix_s) > START_TOLERANCE_S
            return other or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


class Lease(Closing):
    """A lease is the right to lead the run with the settings' prefix, from `take` to `close`. Thread-safe."""

    def __init__(self, settings: ReplaySettings, *, name: str, lifetime_s: float = LIFETIME_S) -> None:
        self._settings, self._lifetime_s = settings, lifetime_s
        self._keys = LeaseKeys(settings.prefix)
        self._holder = Holder.here(name)
        self._words = json.dumps(asdict(self._holder)).encode()
        self._client = connect(settings)
        self._mutex, self._stop = threading.Lock(), threading.Event()
        self._lost = ""
        self._thread: threading.Thread | None = None
        self.number = 0
        """0 before it is taken; a later lease has a higher one."""

    def __str__(self) -> str:
        return str(self._holder)

    def take(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Takes the lease and keeps it; False when told to stop first.

        Raises InputError, which names the holder, when that is alive; Unreachable.
        """
        gone, left_ms = b"", math.inf
        while not stop():
            taken, words, now_ms = self._ask(gone=gone)
            if taken:
                self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
                self._thread.start()
                return True
            holder = Holder.parse(words)
            if now_ms > left_ms:
                raise InputError(
                    f"{_named(holder)} leads the run {self._settings.prefix!r}: end it first, or give this one another "
                    "prefix"
                )
            if math.isinf(left_ms):
                log.info("waiting up to %.0f s for the lease of %s", now_ms / 1000, _named(holder))
            gone, left_ms = words if holder is not None and holder.is_gone else b"", now_ms
            if not gone:
                time.sleep(POLL_S)
        return False

    def above(self, number: int) -> int:
        """Returns this lease's number after raising it above `number`, which a service saw of an emptied replay's.

        Raises LeaseLost, Unreachable.
        """
        self.confirm(above=number)
        return self.number

    def confirm(self, *, above: int = 0) -> None:
        """Renews the lease now. Raises LeaseLost when another learner has a newer one; Unreachable."""
        self.check()
        taken, words, _ = self._ask(above=above)
        if not taken:
            self._lost = self._lost or _over(words, self._settings.prefix)
            self.check()

    def check(self) -> None:
        """Raises LeaseLost once another learner is known to have a newer lease."""
        if self._lost:
            raise LeaseLost(self._lost)

    def close(self) -> None:
        """Gives the lease back, if the replay answers."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            try:
                if not self._lost:
                    self._ask(lifetime_ms=0)
            except (Unreachable, InputError) as error:
                log.debug("lease not given back: %s", error)
        self._client.close()

    def _ask(self, *, above: int = 0, gone: bytes = b"", lifetime_ms: int | None = None) -> tuple[bool, bytes, int]:
        """Takes or renews the lease; returns whether it is ours, else its holder's words and when they run out [ms]."""
        kept_ms = int(self._lifetime_s * 1000) if lifetime_ms is None else lifetime_ms
        with self._mutex, reaching(self._settings):
            keys, number = (self._keys.holder, self._keys.number), self.number
            own, _, words, left_ms = run_script(self._client, LEASE, keys, number, above, gone, self._words, kept_ms)
            self.number = int(own) or self.number
            return bool(own), bytes(words), int(left_ms)

    def _keep(self) -> None:
        """Renews until it is lost or given back; a replay that does not answer is asked again."""
        problem = ""
        while not self._stop.wait(self._lifetime_s / RENEWALS):
            try:
                self.confirm()
                problem = ""
            except LeaseLost:
                return
            except (Unreachable, InputError) as error:
                if not problem:
                    log.warning("the lease is not renewed: %s", error)
                problem = str(error)


def allow(client: Client, prefix: str, totals: Mapping[Buffer, int], *, lease: int) -> None:
    """Sets how many transitions each of some buffers may have on a shard, under the lease with this number, 0 for none.

    Raises LeaseLost where the shard has seen a newer lease; redis errors.
    """
    keys = LeaseKeys(prefix)
    names = (keys.holder, keys.number, *(Keys(prefix, buffer).allowance for buffer in totals))
    taken, _, words = run_script(client, ALLOW, names, lease, *totals.values())
    if not taken:
        raise LeaseLost(_over(bytes(words), prefix))


@dataclass(frozen=True, kw_only=True)
class LeaseReading:
    """A lease as it is now, for those who look."""

    number: int
    holder: Holder
    left_s: float
    """Time until it runs out unless it is renewed."""


def read_lease(settings: ReplaySettings) -> LeaseReading | None:
    """Asks for the learner's lease; None where nobody holds one. Raises Unreachable."""
    keys = LeaseKeys(settings.prefix)
    with reaching(settings), closing(connect(settings)) as client:
        pipeline = client.pipeline(transaction=False)
        for name in (keys.holder, keys.number):
            pipeline.execute_command("GETRANGE", name, 0, MAX_BYTES - 1)
        pipeline.execute_command("PTTL", keys.holder)
        words, number, left_ms = pipeline.execute()
    holder = Holder.parse(words)
    return None if holder is None else LeaseReading(number=int(number or 0), holder=holder, left_s=left_ms / 1000)


def _over(words: bytes, prefix: str) -> str:
    return f"the lease of this learner is over: {_named(Holder.parse(words))} leads the run {prefix!r} now"


def _named(holder: Holder | None) -> str:
    return "another learner" if holder is None else str(holder)


def _system() -> str:
    """Names the kernel and the namespace in which a process number means this process."""
    try:
        return f"{boot_id()} {Path('/proc/self/ns/pid').readlink()}" if boot_id() else ""
    except OSError:
        return ""
