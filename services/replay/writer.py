"""The actors' end of the replay.

    add ──encode──► spool (disk) ◄──read── background thread ──commit──► replay
    wait_for_allowance ◄── how many transitions the buffer has, and may have ──┘

`add` never touches the network: an arm goes on recording while the replay is away, and what it recorded is sent later.
"""

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from protos.codec import check_name, encode_segment, read_header
from protos.errors import InputError, Unreachable
from protos.schema import Buffer, Schema, Segment
from services.replay.connection import Keys, ReplaySettings, connect, reaching
from services.replay.sender import Sender
from services.replay.spool import Spool

log = logging.getLogger(__name__)

IDLE_S = 0.05
RETRY_S = (0.05, 1.0)
"""First and longest pause after a failure; it doubles in between."""
ALLOWANCE_POLL_S = 0.02
CLOSE_TIMEOUT_S = 5.0


class ReplayWriter:
    """Writes segments to any number of buffers, each exactly once. One per actor process; thread-safe."""

    def __init__(
        self,
        settings: ReplaySettings,
        schema: Schema,
        *,
        actor: str,
        incarnation: str | None = None,
        spool: Path | None,
        codec: str = "zstd",
    ) -> None:
        """`incarnation` tells this life of the actor from its earlier ones; by default a new random name.

        `spool` is a folder of this actor's own: what an earlier incarnation left there is sent first. None: a
        temporary folder, which survives the server but not this process.
        """
        check_name("actor", actor)
        self.actor, self.incarnation = actor, incarnation or uuid4().hex[:12]
        check_name("incarnation", self.incarnation)
        self.settings, self.schema, self.codec = settings, schema, codec
        self._temporary = tempfile.TemporaryDirectory(prefix="twinrl-spool-") if spool is None else None
        folder = Path(self._temporary.name) if self._temporary else spool
        assert folder is not None
        self._spool = Spool(folder, actor=actor, incarnation=self.incarnation, limit_bytes=settings.spool_bytes)
        self._sender = Sender(settings, self._spool)
        self._client = connect(settings)
        self._counts = dict.fromkeys(("segments", "transitions", "dropped", "failures"), 0)
        self._full = False
        self._add_lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"replay-writer-{actor}", daemon=True)
        self._thread.start()

    def add(self, segment: Segment, buffers: Sequence[Buffer]) -> None:
        """Spools the segment for `buffers`; when the spool is full, drops and counts it and logs the first in a row."""
        if not buffers:
            raise InputError(f"segment of {segment.episode}: name the buffers it goes to")
        for buffer in buffers:
            Keys(self.settings.prefix, buffer)
        with self._add_lock:
            blob = encode_segment(
                segment,
                self.schema,
                actor=self.actor,
                incarnation=self.incarnation,
                seq=self._spool.next_seq,
                codec=self.codec,
            )
            if not self._spool.append(blob, read_header(blob), buffers):
                self._refuse()
                return
            self._full = False
        self._counts["segments"] += 1
        self._counts["transitions"] += segment.steps
        self._wake.set()

    def unsent(self) -> int:
        """Segments that the replay has not acknowledged."""
        return self._spool.end - self._sender.acknowledged

    def flush(self, timeout_s: float) -> int:
        """Waits until all is sent or the time is over; returns the number of unsent segments."""
        give_up = time.monotonic() + timeout_s
        while self.unsent() and time.monotonic() < give_up:
            self._wake.set()
            time.sleep(0.005)
        return self.unsent()

    def wait_for_allowance(self, buffer: Buffer, stop: Callable[[], bool]) -> None:
        """Returns once the learner lets the buffer have more transitions, or `stop()` is true.

        Transitions that are spooled but not yet sent count as if they were there.
        """
        if not self._may_be_full(buffer):
            return
        while not stop() and self._is_full(buffer):
            time.sleep(ALLOWANCE_POLL_S)

    def stats(self) -> dict[str, float]:
        """Counts since the start, and what waits now."""
        sender = self._sender.counts
        waiting = {"unsent": self.unsent(), "spool_bytes": self._spool.bytes}
        return {name: float(value) for name, value in (self._counts | sender | waiting).items()}

    def close(self) -> None:
        """Sends what it can within five seconds. With a spool of its own, the next incarnation sends the rest."""
        if self._stop.is_set():
            return
        left = self.flush(CLOSE_TIMEOUT_S)
        if left:
            log.warning("%s: %d segments unsent%s", self.actor, left, " and lost" if self._temporary else ", spooled")
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._client.close()
        self._spool.close()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> "ReplayWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse(self) -> None:
        self._counts["dropped"] += 1
        if not self._full:
            log.error("spool of %s is full (%d bytes): dropping segments", self.actor, self._spool.bytes)
        self._full = True

    def _may_be_full(self, buffer: Buffer) -> bool:
        """Judged by the latest commit's answer; allowances only grow, so a "no" needs no question to the server."""
        unsent = self._unsent_steps(buffer)
        reply = self._sender.replies.get(buffer)
        if reply is None:
            return True
        return reply.allowance is not None and reply.transitions + unsent >= reply.allowance

    def _is_full(self, buffer: Buffer) -> bool:
        keys = Keys(self.settings.prefix, buffer)
        unsent = self._unsent_steps(buffer)  # before the question: a commit in between then counts twice, not never
        try:
            with reaching(self.settings):
                allowance = self._client.execute_command("GET", keys.allowance)
                transitions = self._client.execute_command("HGET", keys.counters, "transitions") or 0
        except Unreachable:
            return self._may_be_full(buffer) and buffer in self._sender.replies
        return allowance is not None and int(transitions) + unsent >= int(allowance)

    def _unsent_steps(self, buffer: Buffer) -> int:
        waiting = self._spool.records(self._sender.acknowledged, self._spool.end)
        return sum(record.steps for record in waiting if buffer in record.buffers)

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.is_set():
            self._wake.clear()
            try:
                more = self._sender.step()
            except (Unreachable, InputError) as error:
                if not pause_s:
                    log.warning("%s keeps its segments on disk: %s", self.actor, error)
                self._counts["failures"] += 1
                pause_s = min(max(2 * pause_s, RETRY_S[0]), RETRY_S[1])
                self._stop.wait(pause_s)
                continue
            if pause_s:
                log.info("%s sends again", self.actor)
                pause_s = 0.0
            if not more:
                self._wake.wait(IDLE_S)
        self._sender.close()
