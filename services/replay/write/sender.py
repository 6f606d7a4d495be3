"""Moves records from the spool into the replay, each exactly once per buffer.

    open: ask the server for each incarnation's last number ─► go back to the oldest record of the spool
    send: records above that number, in order, many per round trip; each commit names the number before it
    broken connection, restarted server, refused commit ─► open again

The server may have lost its latest seconds in a crash. The spool still has them, because it is trimmed only behind what
is durable, and the server's own number says where to go on.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate

import redis

from protos.errors import InputError, Unreachable
from protos.schema import BUFFERS, Buffer, Schema
from services.replay.connection import Client, Keys, ReplaySettings, connect, masked, reaching
from services.replay.handshake import greet
from services.replay.presence import Beacon
from services.replay.scripts import CommitReply, Verdict, load_commit, shrink
from services.replay.write.commits import Commits
from services.replay.write.durability import PROBE_POLL_S, DurabilityProbe
from services.replay.write.spool import Spool
from services.replay.write.spool_file import Record

log = logging.getLogger(__name__)

BATCH_RECORDS = 32
BATCH_BYTES = 8 << 20

TAGS = (
    *("head", "actor", "incarnation", "episode", "first_step", "outcome"),
    *("source", "cell", "human", "oldest_version", "newest_version"),
)
"""Fields of a record that its index entry carries, beside the script's own: ring, seq, steps, transitions, bytes."""

Lane = tuple[str, Buffer]
"""Writer (actor/incarnation) and buffer: the unit in which numbers rise."""


@dataclass
class _Session:
    client: Client
    probe: DurabilityProbe
    last: dict[Lane, int]


class Sender:
    """One connection's worth of work at a time, with one shard; belongs to one thread."""

    def __init__(
        self,
        settings: ReplaySettings,
        schema: Schema,
        spool: Spool,
        *,
        shard: int,
        beacon: Beacon,
        stats: Callable[[], Mapping[str, float]],
    ) -> None:
        """`stats` is what the beacon tells of this writer."""
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
        """Sends one batch; True if there may be more.

        Raises Unreachable or InputError, after which the next call starts anew, and SchemaMismatch for good.
        """
        try:
            with reaching(self.settings, self.shard):
                session = self._session or self._open()
                more = self._send_batch(session)
                self._trim(session.probe.update(self.acknowledged))
                self._beacon.send(session.client, self._stats)
                return more
        except (Unreachable, InputError):
            self.close()
            raise

    def rest_s(self) -> float:
        """How long there is nothing to do after a step that sent all, unless a record comes."""
        due_s = self._beacon.due_s()
        return due_s if self.spool.first == self.acknowledged else min(due_s, PROBE_POLL_S)

    def leave(self) -> None:
        """Ends the connection, and tells the server so if it still answers."""
        try:
            with reaching(self.settings, self.shard):
                if self._session is not None:
                    self._beacon.leave(self._session.client)
        except (Unreachable, InputError) as error:
            log.debug("left without a word: %s", error)
        self.close()

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.probe.close()
            session.client.close()

    def _keys(self, buffer: Buffer) -> Keys:
        return Keys(self.settings.prefix, buffer)

    def _open(self) -> _Session:
        client = connect(self.settings, self.shard)
        greet(client, self.settings, self.schema, shard=self.shard, claim=True)
        load_commit(client)
        self.acknowledged = self.spool.first
        records = self.spool.records(self.spool.first, self.spool.end)
        lanes = {(record.writer, buffer) for record in records for buffer in record.buffers}
        for buffer in {buffer for _, buffer in lanes}:
            shrink(client, self._keys(buffer), self.settings.capacity(buffer))
        last = {lane: self._ask_last(client, lane) for lane in lanes | self._durable.keys()}
        self.counts["resyncs"] += 1
        probe = DurabilityProbe(self.settings, self.shard, self._keys(BUFFERS[0]))
        self._session = _Session(client, probe, last)
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
                self._queue(batch, lane, last.get(lane, -1), record, data)
                last[lane] = record.seq
                commits.append((lane, record))
        try:
            for (lane, record), reply in zip(commits, batch.answers(), strict=True):
                self._accept(session, lane, record, reply)
        except redis.exceptions.NoScriptError:
            load_commit(session.client)  # its cache of scripts was flushed; what was accepted is not sent again
            return True
        self.acknowledged += len(records)
        return self.acknowledged < self.spool.end

    def _next_records(self) -> list[Record]:
        records = self.spool.records(self.acknowledged, self.acknowledged + BATCH_RECORDS)
        sizes = list(accumulate(record.size for record in records))
        return records[: max(1, bisect_right(sizes, BATCH_BYTES))]

    def _queue(self, batch: Commits, lane: Lane, previous: int, record: Record, data: bytes) -> None:
        writer, buffer = lane
        batch.add(
            self._keys(buffer),
            writer=writer,
            previous=previous,
            seq=record.seq,
            steps=record.steps,
            capacity_bytes=self.settings.capacity(buffer),
            tags=[text for name in TAGS for text in (name, getattr(record, name))],
            data=data,
        )

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
