"""Moves records from the spool into the replay, each exactly once per buffer.

    open: ask the server for each incarnation's last number ─► go back to the oldest record of the spool
    send: records above that number, in order, many per round trip; each commit names the number before it
    broken connection, restarted server, refused commit ─► open again

The server may have lost its latest seconds in a crash. The spool still has them, because it is trimmed only behind what
is durable, and the server's own number says where to go on.
"""

import logging
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from protos.errors import Unreachable
from protos.schema import BUFFERS, Buffer
from services.replay.connection import Client, Commands, Keys, Pipeline, ReplaySettings, connect, masked, reaching
from services.replay.durability import DurabilityProbe
from services.replay.scripts import CommitReply, Verdict, load_commit, parse_commit, queue_commit
from services.replay.spool import Record, Spool

log = logging.getLogger(__name__)

BATCH_RECORDS = 32
BATCH_BYTES = 8 << 20

Lane = tuple[str, Buffer]
"""Writer (actor/incarnation) and buffer: the unit in which numbers rise."""


@dataclass
class _Session:
    client: Client
    probe: DurabilityProbe
    last: dict[Lane, int]


class Sender:
    """One connection's worth of work at a time; belongs to one thread."""

    def __init__(self, settings: ReplaySettings, spool: Spool) -> None:
        self.settings, self.spool = settings, spool
        self.acknowledged = spool.first
        """Every record before this number is committed."""
        self.replies: dict[Buffer, CommitReply] = {}
        """The latest answer of each buffer."""
        self.counts = dict.fromkeys(("sent", "repeated", "resyncs", "bytes_sent"), 0)
        self._durable: dict[Lane, int] = {}
        self._session: _Session | None = None

    def step(self) -> bool:
        """Sends one batch; True if there may be more. Raises Unreachable; the next call starts anew."""
        try:
            with reaching(self.settings):
                session = self._session or self._open()
                more = self._send_batch(session)
                self._trim(session.probe.update(self.acknowledged))
                return more
        except Unreachable:
            self.close()
            raise

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.probe.close()
            session.client.close()

    def _keys(self, buffer: Buffer) -> Keys:
        return Keys(self.settings.prefix, buffer)

    def _open(self) -> _Session:
        client = connect(self.settings)
        load_commit(client)
        self.acknowledged = self.spool.first
        records = self.spool.records(self.spool.first, self.spool.end)
        lanes = {(record.writer, buffer) for record in records for buffer in record.buffers}
        last = {lane: self._ask_last(client, lane) for lane in lanes | self._durable.keys()}
        self.counts["resyncs"] += 1
        self._session = _Session(client, DurabilityProbe(self.settings, self._keys(BUFFERS[0])), last)
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
        pipeline = session.client.pipeline(transaction=False)
        last = dict(session.last)
        commits: list[tuple[Lane, Record]] = []
        for record in records:
            lanes = [(record.writer, buffer) for buffer in record.buffers]
            new = [lane for lane in lanes if last.get(lane, -1) < record.seq]
            data = self.spool.read(record) if new else b""
            for lane in new:
                self._queue(pipeline, lane, last.get(lane, -1), record, data)
                last[lane] = record.seq
                commits.append((lane, record))
        for (lane, record), reply in zip(commits, _answers(pipeline), strict=True):
            self._accept(session, lane, record, reply)
        self.acknowledged += len(records)
        return self.acknowledged < self.spool.end

    def _next_records(self) -> list[Record]:
        records = self.spool.records(self.acknowledged, self.acknowledged + BATCH_RECORDS)
        sizes = list(accumulate(record.size for record in records))
        return records[: max(1, bisect_right(sizes, BATCH_BYTES))]

    def _queue(self, pipeline: Commands, lane: Lane, previous: int, record: Record, data: bytes) -> None:
        writer, buffer = lane
        names = ("actor", "incarnation", "episode", "first_step", "outcome", "source", "cell")
        queue_commit(
            pipeline,
            self._keys(buffer),
            writer=writer,
            previous=previous,
            seq=record.seq,
            steps=record.steps,
            capacity_bytes=self.settings.capacity_bytes,
            entry=[text for name in names for text in (name, getattr(record, name))],
            data=data,
        )

    def _accept(self, session: _Session, lane: Lane, record: Record, reply: CommitReply) -> None:
        self.replies[lane[1]] = reply
        if reply.verdict in (Verdict.GAP, Verdict.STAGE_MISSING):
            raise Unreachable(
                f"replay at {masked(self.settings.urls[0])} has {lane[0]} up to segment {reply.last}, not "
                f"{session.last.get(lane, -1)}: sending again from there"
            )
        session.last[lane] = record.seq
        committed = reply.verdict is Verdict.COMMITTED
        self.counts["sent" if committed else "repeated"] += 1
        self.counts["bytes_sent"] += record.size

    def _trim(self, durable: int) -> None:
        for record in self.spool.trim(durable):
            self._durable.update({(record.writer, buffer): record.seq for buffer in record.buffers})


def _answers(pipeline: Pipeline) -> list[CommitReply]:
    """The commits' answers; raises the first error among all answers."""
    answers = pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return [parse_commit(answer) for answer in answers[1::2]]
