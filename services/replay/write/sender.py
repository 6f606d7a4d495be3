"""This module moves records from the spool into the replay, each exactly once per buffer.

    open: ask the server for each incarnation's last number ─► go back to the oldest record of the spool
    send: records above that number, in order, many per round trip; each commit names the number before it
    broken connection, restarted server, refused commit ─► open again

The server may have lost its latest seconds in a crash. The spool still has them, because it is trimmed only behind what
is durable, and the server's own number says where to go on.
"""

import logging
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import hiredis
import redis

from protos.errors import InputError, Unreachable
from protos.schema import Buffer, Schema
from services.replay.connection import Client, connect, greet, reaching
from services.replay.presence import Beacon
from services.replay.scripts import COMMIT_SHA, STAGE_TTL_MS, CommitReply, Verdict, load, shrink
from services.replay.settings import Keys, ReplaySettings, masked
from services.replay.write.spool import Record, Spool

log = logging.getLogger(__name__)

BATCH_RECORDS = 32
BATCH_BYTES = 8 << 20
PROBE_INTERVAL_S = 0.25
FSYNC_STARTS_S = 1.2
"""Time after which a server has started the next fsync: `everysec` does so a second after the one before."""

Lane = tuple[str, Buffer]
"""Writer (actor/incarnation) and buffer: the unit in which numbers rise."""


@dataclass
class _Session:
    client: Client
    probe: "DurabilityProbe"
    last: dict[Lane, int]


class Sender:
    """A sender commits the records of a spool to one shard, a batch per step. It belongs to one thread."""

    def __init__(
        self,
        settings: ReplaySettings,
        schema: Schema,
        spool: Spool,
        *,
        shard: int,
        beacon: Beacon | None = None,
        stats: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """Takes the records of `spool` from its first; `stats` returns what the beacon tells of this writer, if any."""
        self.settings, self.schema, self.spool, self.shard = settings, schema, spool, shard
        self.acknowledged = spool.first
        """Every record before this number is committed."""
        self.replies: dict[Buffer, CommitReply] = {}
        """The latest answer of each buffer."""
        self.counts = dict.fromkeys(("sent", "repeated", "resyncs", "bytes_sent"), 0)
        self._beacon, self._stats = beacon, stats
        self._durable: dict[Lane, int] = {}
        self._session: _Session | None = None

    @property
    def connected(self) -> bool:
        return self._session is not None

    def step(self) -> bool:
        """Sends one batch; returns True if there may be more.

        Raises Unreachable or InputError, after which the next call starts anew, and SchemaMismatch for good.
        """
        try:
            with reaching(self.settings, self.shard):
                session = self._session or self._open()
                more = self._send_batch(session)
                self._trim(session.probe.update(self.acknowledged))
                if self._beacon is not None:
                    self._beacon.send(session.client, self._stats)
                return more
        except (Unreachable, InputError):
            self.close()
            raise

    def rest_s(self) -> float:
        """Returns the seconds without work after a step that sent all, unless a record comes."""
        due_s = PROBE_INTERVAL_S if self._beacon is None else self._beacon.due_s()
        return due_s if self.spool.first == self.acknowledged else min(due_s, PROBE_INTERVAL_S)

    def leave(self) -> None:
        """Takes the writer's presence back, if the server still answers, and closes the connection."""
        try:
            with reaching(self.settings, self.shard):
                if self._session is not None and self._beacon is not None:
                    self._beacon.leave(self._session.client)
        except (Unreachable, InputError) as error:
            log.debug("presence not taken back: %s", error)
        self.close()

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.client.close()

    def _keys(self, buffer: Buffer) -> Keys:
        return Keys(self.settings.prefix, buffer)

    def _open(self) -> _Session:
        client = connect(self.settings, self.shard, single=True)
        greet(client, self.settings, self.schema, shard=self.shard, claim=True)
        self.acknowledged = self.spool.first
        records = self.spool.records(self.spool.first, self.spool.end)
        lanes = {(record.writer, buffer) for record in records for buffer in record.buffers}
        for buffer in {buffer for _, buffer in lanes}:
            shrink(client, self._keys(buffer), self.settings.capacity(buffer))
        last = {lane: self._ask_last(client, lane) for lane in lanes | self._durable.keys()}
        self.counts["resyncs"] += 1
        self._session = _Session(client, DurabilityProbe(client), last)
        return self._session

    def _ask_last(self, client: Client, lane: Lane) -> int:
        writer, buffer = lane
        found = client.execute_command("HGET", self._keys(buffer).seen, writer)
        last = -1 if found is None else int(found)
        if last < self._durable.get(lane, -1):
            log.error("replay lost segments %d to %d of %s in %s", last + 1, self._durable.pop(lane), *lane)
        return last

    def _send_batch(self, session: _Session) -> bool:
        records = self._next_records()
        batch = Commits(session.client)
        last = dict(session.last)
        commits: list[tuple[Lane, Record]] = []
        for record in records:
            lanes = [(record.writer, buffer) for buffer in record.buffers]
            new = [lane for lane in lanes if last.get(lane, -1) < record.seq]
            data = self.spool.read(record) if new else b""
            for lane in new:
                capacity = self.settings.capacity(lane[1])
                batch.add(self._keys(lane[1]), record, last.get(lane, -1), data, capacity_bytes=capacity)
                last[lane] = record.seq
                commits.append((lane, record))
        try:
            for (lane, record), reply in zip(commits, batch.answers(), strict=True):
                self._accept(session, lane, record, reply)
        except redis.exceptions.NoScriptError:
            load(session.client)  # a server without ours, or one that forgot; what was accepted is not sent again
            return True
        self.acknowledged += len(records)
        return self.acknowledged < self.spool.end

    def _next_records(self) -> list[Record]:
        records = self.spool.records(self.acknowledged, self.acknowledged + BATCH_RECORDS)
        sizes = list(accumulate(record.size for record in records))
        return records[: max(1, bisect_right(sizes, BATCH_BYTES))]

    def _accept(self, session: _Session, lane: Lane, record: Record, reply: CommitReply) -> None:
        self.replies[lane[1]] = reply
        if reply.verdict in (Verdict.GAP, Verdict.STAGE_MISSING):
            raise Unreachable(
                f"replay at {masked(self.settings.urls[self.shard])} has {lane[0]} up to segment {reply.last}, not "
                f"{session.last.get(lane, -1)}: sending again from there"
            )
        session.last[lane] = record.seq
        committed = reply.verdict is Verdict.COMMITTED
        self.counts["sent" if committed else "repeated"] += 1
        self.counts["bytes_sent"] += record.size

    def _trim(self, durable: int) -> None:
        for record in self.spool.trim(durable):
            self._durable.update({(record.writer, buffer): record.seq for buffer in record.buffers})


class Commits:
    """Commits share a round trip: `add` any number, then iterate over `answers` once. Raises redis errors.

    The segments go to the socket without a copy. redis-py's pipeline copies them: it takes 231 µs instead of 153 for a
    segment of 100 kB and 412 instead of 266 for one of 250 kB, all of it CPU time of the actor.
    """

    def __init__(self, client: Client) -> None:
        """Takes a `single` client."""
        self._connection = client.connection
        self._chunks: list[bytes] = []
        self._small: list[bytes] = []
        """Pieces that are joined before they are sent."""
        self._count = 0

    def add(self, keys: Keys, record: Record, previous: int, data: bytes, *, capacity_bytes: int) -> None:
        """Stages a segment and commits it; `previous` is the number before it."""
        stage = keys.stage(record.writer, record.seq)
        names = (stage, keys.slots, keys.index, keys.seen, keys.counters, keys.allowance)
        arguments = (record.writer, previous, record.seq, record.steps, capacity_bytes, *record.tags)
        key = stage.encode()
        self._small.append(b"*5\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n" % (len(key), key, len(data)))
        self._chunks += [b"".join(self._small), data]
        command: tuple[Any, ...] = ("EVALSHA", COMMIT_SHA, len(names), *names, *arguments)
        commit = hiredis.pack_command(command)
        self._small = [b"\r\n$2\r\nPX\r\n$5\r\n%d\r\n" % STAGE_TTL_MS, commit]
        self._count += 1

    def answers(self) -> Iterator[CommitReply]:
        """Gives the answer to each commit; raises the first error where it stands among them."""
        for staged, committed in self._round_trip():
            for answer in (staged, committed):
                if isinstance(answer, redis.ResponseError):
                    raise answer
            verdict, ring, last, transitions, allowance = committed
            yield CommitReply(Verdict(verdict), ring, last, transitions, None if allowance < 0 else allowance)

    def _round_trip(self) -> list[tuple[Any, Any]]:
        if not self._count:
            return []
        try:
            self._connection.send_packed_command([*self._chunks, b"".join(self._small)])
            return [(self._answer(), self._answer()) for _ in range(self._count)]
        except BaseException:
            self._connection.disconnect()  # unread answers must not be taken for those of the next command
            raise

    def _answer(self) -> Any:
        try:
            return self._connection.read_response()
        except redis.ResponseError as error:
            return error


class DurabilityProbe:
    """A probe turns "acknowledged up to record n" into "on the server's disk up to record m". Not thread-safe.

    A server that fsyncs its log each second (`everysec`) can acknowledge a commit and lose it in a crash. It starts one
    fsync at a time, about a second after the one before. So a commit is on disk if no fsync was under way at some
    moment after it, the next one has had the time to start, and again none is under way: that one has ended.

    `WAITAOF` is no substitute. Redis 7.4 and Valkey up to 9.1 at least answer it while the fsync is still to come
    (redis pull request 13793).
    """

    def __init__(self, client: Client, *, now: Callable[[], float] = time.monotonic) -> None:
        self._client, self._now = client, now
        self._next_s = 0.0
        self._asked_s: deque[float] = deque(maxlen=3)
        """Times of the latest questions."""
        self._acknowledged, self._durable = 0, 0
        self._waiting: deque[tuple[float, int]] = deque()
        """Moments without an fsync under way, and the number before which all records had been committed by then."""
        self._log_bytes, self._delayed = 0, -1

    def update(self, acknowledged: int) -> int:
        """Takes the number before which all records are committed, returns the one before which all are durable.

        Asks the server four times a second, which costs it 20 µs each time. Raises redis errors.
        """
        if acknowledged > self._durable and self._now() >= self._next_s:
            self._next_s = self._now() + PROBE_INTERVAL_S
            self._ask(acknowledged)
        return self._durable

    def _ask(self, acknowledged: int) -> None:
        self._asked_s.append(self._now())
        if self._was_idle(self._client.execute_command("INFO", "persistence")):
            # The fsync started before the question before this one, so the idle moment since then is its end.
            while self._waiting and self._waiting[0][0] <= self._asked_s[0] - FSYNC_STARTS_S:
                self._durable = self._waiting.popleft()[1]
            if not self._waiting or self._waiting[-1][1] != self._acknowledged:
                self._waiting.append((self._now(), self._acknowledged))
        self._acknowledged = acknowledged

    def _was_idle(self, info: Mapping[str, Any]) -> bool:
        """Returns True if at some moment since the question before, all was written and no fsync was under way.

        A log that grew shows it too: while an fsync is under way a server writes only after a delay, which it counts.
        """
        log_bytes, delayed = int(info.get("aof_current_size", 0)), int(info.get("aof_delayed_fsync", 0))
        wrote = log_bytes > self._log_bytes and delayed == self._delayed
        self._log_bytes, self._delayed = log_bytes, delayed
        under_way = int(info.get("aof_pending_bio_fsync", 0)) or int(info.get("aof_buffer_length", 0))
        return info.get("aof_last_write_status", "ok") == "ok" and (wrote or not under_way)
