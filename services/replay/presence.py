"""This module keeps the presence of writers and readers: each sends its state once a second, which expires after 20 s.

    Beacon.send ──SET … EX 20──► {prefix}:presence:<kind>:<name> ──► presence(settings)

The age is measured by the server's clock, so that hosts whose clocks differ do not look dead.
"""

import json
import logging
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from protos.errors import InputError
from services.net import seconds_left
from services.replay.connection import Client, connect, reaching
from services.replay.scripts import ANNOUNCE, run_script
from services.replay.settings import ReplaySettings

log = logging.getLogger(__name__)

Kind = Literal["writer", "reader"]
INTERVAL_S = 1.0
LIFETIME_S = 600
"""Time for which one that was lost is shown; one that leaves takes its presence back."""
LOST_S = 4.0
"""A presence is sent once a second: whose last one is older stands still, is cut off or has died."""
MAX_BYTES = 64 << 10
RATE_WINDOW_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Presence:
    """A presence is one writer or reader that was alive `age_s` ago, by the server's clock."""

    kind: str
    name: str
    shard: int
    age_s: float
    host: str
    pid: int
    stats: Mapping[str, float]
    """Counts of its own, defined in docs/metrics.md."""

    @property
    def is_lost(self) -> bool:
        """Tells whether nothing is heard of it any more; its stats are then those of its last word."""
        return self.age_s > LOST_S


class Beacon:
    """A beacon sends the presence of a writer or reader. It belongs to the thread that owns the client."""

    def __init__(self, settings: ReplaySettings, kind: Kind, name: str) -> None:
        self._names = _names_key(settings)
        self._member = f"{kind}:{name}"
        self._key = f"{self._names}:{self._member}"
        self._next_s = 0.0
        self._credentials = settings.credentials

    def send(self, client: Client, stats: Callable[[], Mapping[str, float]]) -> None:
        """Sends the presence, at most once a second. Raises redis errors."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + INTERVAL_S
        who = {"t": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
        told = {**stats(), **self._certificate()}
        text = json.dumps(who | {name: _finite(value) for name, value in told.items()})
        run_script(client, ANNOUNCE, (self._names, self._key), self._member, text, LIFETIME_S)

    def _certificate(self) -> dict[str, float]:
        try:
            left_s = seconds_left(self._credentials)
        except InputError:  # expired or gone: the connection that stands is good until it breaks
            left_s = 0.0
        return {} if left_s is None else {"certificate_left_s": left_s}

    def due_s(self) -> float:
        """Returns the seconds until the next presence is due."""
        return max(0.0, self._next_s - time.monotonic())

    def leave(self, client: Client) -> None:
        """Removes the presence at once. Raises redis errors."""
        client.execute_command("UNLINK", self._key)


def presence(settings: ReplaySettings) -> list[Presence]:
    """Asks every shard for its writers and readers. Raises Unreachable for a shard that does not answer."""
    return [one for shard in range(settings.shards) for one in presence_on(settings, shard)]


def presence_on(settings: ReplaySettings, shard: int) -> list[Presence]:
    """Asks one shard for its writers and readers. Raises Unreachable."""
    names = _names_key(settings)
    with reaching(settings, shard), closing(connect(settings, shard)) as client:
        members = sorted(member.decode() for member in client.execute_command("SMEMBERS", names))
        pipeline = client.pipeline(transaction=False)
        for member in members:
            pipeline.execute_command("GETRANGE", f"{names}:{member}", 0, MAX_BYTES - 1)
            pipeline.execute_command("PTTL", f"{names}:{member}")
        answers = pipeline.execute()
        gone = [member for member, text in zip(members, answers[::2], strict=True) if not text]
        if gone:
            client.execute_command("SREM", names, *gone)
    found = zip(members, answers[::2], answers[1::2], strict=True)
    parsed = [_parse(member, shard, text, left_ms) for member, text, left_ms in found if text]
    return [one for one in parsed if one is not None]


def _names_key(settings: ReplaySettings) -> str:
    """Names the set of `kind:name` of every presence."""
    return f"{settings.prefix}:presence"


def _parse(member: str, shard: int, text: bytes, left_ms: int) -> Presence | None:
    kind, _, name = member.partition(":")
    try:
        told = json.loads(text)
        numbers = {key: value for key, value in told.items() if key not in ("t", "host", "pid")}
        return Presence(
            kind=kind,
            name=name,
            shard=shard,
            age_s=max(0.0, LIFETIME_S - left_ms / 1000),
            host=str(told["host"]),
            pid=int(told["pid"]),
            stats={key: math.nan if value is None else float(value) for key, value in numbers.items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("presence of %s %r on shard %d cannot be read: %s", kind, name, shard, error)
        return None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


class Rate:
    """A rate is the mean per second over the last ten seconds, or since the start if shorter. Thread-safe."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._events: deque[tuple[float, float]] = deque()
        self._sum = 0.0
        self._mutex = threading.Lock()

    def add(self, amount: float) -> None:
        with self._mutex:
            now = time.monotonic()
            self._events.append((now, amount))
            self._sum += amount
            self._forget(now)

    def per_second(self) -> float:
        with self._mutex:
            now = time.monotonic()
            self._forget(now)
            return self._sum / min(max(now - self._start_s, 1.0), RATE_WINDOW_S)

    def _forget(self, now: float) -> None:
        while self._events and self._events[0][0] < now - RATE_WINDOW_S:
            self._sum -= self._events.popleft()[1]
