"""This module holds the writer, the actors' end of the replay.

    add ──encode──► spool (disk) ◄──read── background thread ──commit──► replay, the shard of this actor
    wait_for_allowance ◄── how many transitions the buffer has, and may have ──┘

`add` never touches the network: an arm goes on recording while the replay is away, and what it recorded is sent later.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

from protos.codec import EncodedSegment, encode_unnamed
from protos.episode import Segment
from protos.errors import InputError, SchemaMismatch, Unreachable
from protos.folders import check_key
from protos.process import Closing
from protos.schema import Buffer, Schema
from services.replay.connection import connect, reaching
from services.replay.presence import Beacon, Rate
from services.replay.settings import Keys, ReplaySettings, check_buffer, shard_of
from services.replay.write.neighbours import HOLD_S, Neighbours
from services.replay.write.sender import PROBE_INTERVAL_S, Sender
from services.replay.write.spool import Spool

log = logging.getLogger(__name__)

RETRY_S = (0.05, 1.0)
"""First and longest pause after a failure; it doubles in between."""
ALLOWANCE_POLL_S = 0.02
CLOSE_TIMEOUT_S = 5.0


class ReplayWriter(Closing):
    """A writer commits segments to any number of buffers, each exactly once. One per actor process; thread-safe.

    A replay that does not answer, is full or refuses the password is waited for. One that holds data of another schema
    is not: the next call of `add`, `flush` or `wait_for_allowance` raises SchemaMismatch.
    """

    def __init__(
        self,
        settings: ReplaySettings,
        schema: Schema,
        *,
        actor: str,
        incarnation: str | None = None,
        spool: Path | None,
        codec: str = "zstd",
        neighbours: str | None = None,
    ) -> None:
        """Opens the spool and starts the thread that sends.

        `incarnation` tells this process of the actor from its earlier ones; by default a new random name. `spool` is a
        folder of this actor's own: segments that an earlier incarnation left there are sent first. None: a temporary
        folder, which survives the server but not this process. `neighbours` is a pattern of the names of spools beside
        this one: what actors that are gone left there is sent too (`services.replay.write.neighbours`).
        """
        check_key("actor", actor)
        self.actor, self.incarnation = actor, incarnation or uuid4().hex[:12]
        check_key("incarnation", self.incarnation)
        self.settings, self.schema, self.codec = settings, schema, codec
        self.shard = shard_of(actor, settings.shards)
        self._temporary = tempfile.TemporaryDirectory(prefix="twinrl-spool-") if spool is None else None
        folder = Path(self._temporary.name) if self._temporary else spool
        assert folder is not None
        limit = settings.spool_bytes
        wait_s = 0.0 if neighbours is None else 3 * HOLD_S  # one of them may be sending what is in it
        self._spool = Spool(folder, schema, actor=actor, incarnation=self.incarnation, limit_bytes=limit, wait_s=wait_s)
        beacon = Beacon(settings, "writer", actor)
        self._sender = Sender(settings, schema, self._spool, shard=self.shard, beacon=beacon, stats=self.stats)
        self._neighbours = None if neighbours is None else Neighbours(settings, schema, folder, neighbours)
        self._client = connect(settings, self.shard)
        self._counts = dict.fromkeys(("segments", "transitions", "dropped", "failures"), 0)
        self._rate = Rate()
        self._full = False
        self._waiting_for = ""
        self._failure: BaseException | None = None
        self._add_lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"replay-writer-{actor}", daemon=True)
        self._thread.start()

    def encode(self, segment: Segment) -> EncodedSegment:
        """Does the costly part of `add`, for callers that encode ahead or in a thread of their own."""
        return encode_unnamed(segment, self.schema, codec=self.codec)

    def add(self, segment: Segment, buffers: Sequence[Buffer]) -> None:
        """Spools the segment for `buffers`; when the spool is full, drops and counts it and logs the first in a row."""
        self.add_encoded(self.encode(segment), buffers)

    def add_encoded(self, encoded: EncodedSegment, buffers: Sequence[Buffer]) -> None:
        """Adds like `add`. The segment gets this writer's name and next number here, so it may be added again."""
        self._check_thread()
        header = encoded.header
        if header.schema_hash != self.schema.hash:
            raise SchemaMismatch(f"segment of schema {header.schema_hash}: this writer has {self.schema.hash}")
        if not buffers:
            raise InputError(f"segment of {header.episode}: name the buffers it goes to")
        for buffer in buffers:
            check_buffer(buffer)
        with self._add_lock:
            seq = self._spool.next_seq
            header, blob = encoded.named(actor=self.actor, incarnation=self.incarnation, seq=seq)
            if not self._spool.append(blob, header, buffers):
                self._refuse()
                return
            self._full = False
        self._counts["segments"] += 1
        self._counts["transitions"] += header.steps
        self._rate.add(header.steps)
        self._wake.set()

    def unsent(self) -> int:
        """Returns the number of segments that the replay has not acknowledged."""
        return self._spool.end - self._sender.acknowledged

    def flush(self, timeout_s: float) -> int:
        """Waits until all is sent or the time is over; returns the number of unsent segments."""
        give_up = time.monotonic() + timeout_s
        while self.unsent() and time.monotonic() < give_up:
            self._check_thread()
            self._wake.set()
            time.sleep(0.005)
        return self.unsent()

    def wait_for_allowance(self, buffer: Buffer, stop: Callable[[], bool]) -> None:
        """Returns once the spool has room and the learner lets the buffer have more transitions, or `stop()` is true.

        Transitions that are spooled but not yet sent count as if they were there. `waiting_for` says what it is.
        """
        self._check_thread()
        try:
            while self._spool.nearly_full and not stop():
                self._wait(f"room in its spool: {self._spool.bytes} of {self._spool.limit_bytes} bytes")
            if not self._may_be_full(buffer):
                return
            while not stop() and self._is_full(buffer):
                self._wait(f"the learner: buffer {buffer} has all the transitions that it may have now")
        finally:
            self._waiting_for = ""

    def waiting_for(self) -> str:
        """Returns the reason for which `wait_for_allowance` waits now; empty when it does not."""
        return self._waiting_for

    def stats(self) -> dict[str, float]:
        """Returns counts since the start and the state of the spool, named in docs/metrics.md."""
        oldest = self._spool.records(self._sender.acknowledged, self._sender.acknowledged + 1)
        now = {
            "transitions_per_s": self._rate.per_second(),
            "unsent": self.unsent() + (0 if self._neighbours is None else self._neighbours.unsent()),
            "oldest_unsent_s": max(0.0, time.monotonic() - oldest[0].added_s) if oldest else 0.0,
            "spool_bytes": self._spool.bytes,
            "spool_limit_bytes": self._spool.limit_bytes,
            "shard": self.shard,
            "connected": self._sender.connected,
            "waiting": bool(self._waiting_for),
        }
        return {name: float(value) for name, value in (self._counts | self._sender.counts | now).items()}

    def close(self) -> None:
        """Flushes for five seconds at most. With a spool of its own, the next incarnation sends the rest."""
        if self._stop.is_set():
            return
        left = self.unsent() if self._failure else self.flush(CLOSE_TIMEOUT_S)
        if left:
            log.warning("%s: %d segments unsent%s", self.actor, left, " and lost" if self._temporary else ", spooled")
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._client.close()
        self._spool.close()
        if self._temporary:
            self._temporary.cleanup()

    def _refuse(self) -> None:
        self._counts["dropped"] += 1
        if not self._full:
            log.error("spool of %s is full (%d bytes): dropping segments", self.actor, self._spool.bytes)
        self._full = True

    def _wait(self, reason: str) -> None:
        self._check_thread()
        self._waiting_for = reason
        time.sleep(ALLOWANCE_POLL_S)

    def _may_be_full(self, buffer: Buffer) -> bool:
        """Judges by the latest commit's answer; allowances only grow, so False needs no question to the server."""
        reply = self._sender.replies.get(buffer)
        if reply is None:
            return True
        if reply.allowance is None:
            return False
        unsent = self._unsent_steps(buffer)
        reply = self._sender.replies[buffer]  # a commit in between counts twice then, not never
        return reply.allowance is not None and reply.transitions + unsent >= reply.allowance

    def _is_full(self, buffer: Buffer) -> bool:
        keys = Keys(self.settings.prefix, buffer)
        unsent = self._unsent_steps(buffer)  # before the question, for the same reason
        try:
            with reaching(self.settings, self.shard):
                allowance = self._client.execute_command("GET", keys.allowance)
                transitions = self._client.execute_command("HGET", keys.counters, "transitions") or 0
        except (Unreachable, InputError):  # the background thread says so, and tries again
            return self._may_be_full(buffer) and buffer in self._sender.replies
        return allowance is not None and int(transitions) + unsent >= int(allowance)

    def _unsent_steps(self, buffer: Buffer) -> int:
        waiting = self._spool.records(self._sender.acknowledged, self._spool.end)
        return sum(record.steps for record in waiting if buffer in record.buffers)

    def _check_thread(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._send()
            self._sender.leave()
        except SchemaMismatch as error:
            log.error("%s stops sending: %s", self.actor, error)
            self._failure = error
        except Exception as error:  # root of the thread: raised again in the caller's next call
            log.exception("the replay writer of %s stopped", self.actor)
            self._failure = error
        finally:
            if self._neighbours is not None:
                self._neighbours.close()

    def _send(self) -> None:
        """Sends until stopped. A failure is over once the spool is sent, so a server at its limit is logged once."""
        pause_s = 0.0
        while not self._stop.is_set():
            self._wake.clear()
            try:
                more = self._sender.step()
            except SchemaMismatch:
                raise
            except (Unreachable, InputError) as error:
                if not pause_s:
                    log.warning("%s keeps its segments on disk: %s", self.actor, error)
                self._counts["failures"] += 1
                pause_s = min(max(2 * pause_s, RETRY_S[0]), RETRY_S[1])
                self._stop.wait(pause_s)
                continue
            if not more:
                busy = self._neighbours is not None and self._neighbours.step()
                if pause_s:
                    log.info("%s has sent what it kept on disk", self.actor)
                pause_s = 0.0
                self._wake.wait(min(self._sender.rest_s(), PROBE_INTERVAL_S) if busy else self._sender.rest_s())
