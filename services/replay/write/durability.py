"""How far the server's own log has reached its disk: only what is behind that point may leave the spool.

A server that fsyncs its log each second can acknowledge a commit and lose it in a crash. `WAITAOF` (Valkey, Redis from
7.2 on) tells when all earlier writes are on disk. It blocks its connection, so it runs on one of its own and is asked
for its answer now and then. Elsewhere a commit counts as durable after five seconds.
"""

import time
from collections import deque
from typing import Any

import redis

from services.replay.connection import Keys, ReplaySettings, connect

PROBE_INTERVAL_S = 0.5
PROBE_POLL_S = 0.25
"""Between two looks for its answer: hundreds of writers look for theirs."""
ASSUMED_DURABLE_S = 5.0
_WAIT_MS = 4000


class DurabilityProbe:
    """Turns "acknowledged up to record n" into "durable up to record m". Not thread-safe; raises redis errors."""

    def __init__(self, settings: ReplaySettings, shard: int, keys: Keys) -> None:
        self._client = connect(settings, shard)
        self._connection: Any = self._client.connection_pool.get_connection()
        self._keys = keys
        self._asked_for = -1
        self._next_s = 0.0
        self._durable = 0
        self._supported = True
        self._history: deque[tuple[float, int]] = deque()

    def update(self, acknowledged: int) -> int:
        """All records before `acknowledged` are committed; returns the number before which all are durable."""
        if not self._supported:
            self._age(acknowledged)
        elif self._asked_for >= 0:
            self._collect()
        elif acknowledged > self._durable and time.monotonic() >= self._next_s:
            self._ask(acknowledged)
        return self._durable

    def close(self) -> None:
        self._connection.disconnect()
        self._client.close()

    def _ask(self, acknowledged: int) -> None:
        """A write that comes after every acknowledged commit, and the question when it is on disk."""
        self._next_s = time.monotonic() + PROBE_INTERVAL_S
        self._connection.send_command("SET", self._keys.tick, acknowledged)
        try:
            self._connection.read_response()
        except redis.exceptions.OutOfMemoryError:
            return  # a full server takes no write; nothing is trimmed until it does
        self._connection.send_command("WAITAOF", 1, 0, _WAIT_MS)
        self._asked_for = acknowledged

    def _collect(self) -> None:
        if not self._connection.can_read(0):
            return
        asked_for, self._asked_for = self._asked_for, -1
        try:
            synced, _ = self._connection.read_response()
        except redis.ResponseError:
            self._supported = False  # an older server, or one without a log
            return
        if synced:
            self._durable = asked_for

    def _age(self, acknowledged: int) -> None:
        now = time.monotonic()
        if not self._history or self._history[-1][1] != acknowledged:
            self._history.append((now, acknowledged))
        while self._history and self._history[0][0] < now - ASSUMED_DURABLE_S:
            self._durable = self._history.popleft()[1]
