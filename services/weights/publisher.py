"""The learner's side: numbers versions, takes a snapshot of each, sends the newest from a thread of its own.

    publish() ── snapshot ──► pending ──► thread: encode ──► Status? ──► Publish (parts the server lacks) ──► accepted
                                 ▲                             ▲            │
              replaced by the next publish()                   └── every 2 s, and after every failure with backoff

A version replaced before the thread came to it is skipped, and at most two snapshots exist: the pending one and the one
being encoded. The thread looks at the server every 2 s: one that came back with an older version (another disk, a
damaged file) gets the newest again.
"""

import json
import logging
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any

import grpc
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError, Unreachable
from protos.weights_pb2_grpc import WeightsStub
from services.net import LOOPBACK, Backoff, Credentials, describe, open_channel, unreachable
from services.weights.bf16 import Bf16
from services.weights.memory import MemoryPool
from services.weights.outgoing import Outgoing, VersionSnapshot
from services.weights.snapshot import PartPlan, PartSnapshot
from services.weights.tensors import WireDtype

log = logging.getLogger(__name__)
CONNECT_DEADLINE_S = 15.0
STATUS_DEADLINE_S = 5.0
CHECK_EVERY_S = 2.0
_SLOWEST_BYTES_PER_S = 1e6
"""A version may take a minute, and a second more per this many bytes."""
_PERMANENT = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)


class WeightPublisher:
    """Publishes versions to the weights server at `address`.

    Numbers continue above the highest that the server ever took, so a resumed learner never reuses one. Parts named in
    `exact` travel as float32 whatever `wire_dtype` says: the frozen backbone is sent once, and its id, a hash of its
    bytes, must be the same on both sides. Raises Unreachable when the server does not answer within
    `connect_deadline_s`, InputError when it refuses the token.
    """

    def __init__(
        self,
        address: str,
        *,
        wire_dtype: WireDtype = "bf16",
        exact: Collection[str] = ("backbone",),
        credentials: Credentials = LOOPBACK,
        connect_deadline_s: float = CONNECT_DEADLINE_S,
    ) -> None:
        self.address = address
        self._wire, self._exact = wire_dtype, frozenset(exact)
        self._channel = open_channel(address, credentials)
        self._stub = WeightsStub(self._channel)  # type: ignore[no-untyped-call]
        try:
            status = self._stub.Status(pb.WeightsStatusRequest(), timeout=connect_deadline_s, wait_for_ready=True)
        except grpc.RpcError as error:
            self._channel.close()
            raise unreachable("weights", address, error, connect_deadline_s) from error
        self._changed = threading.Condition()
        self._snapshots, self._encoded = MemoryPool(), MemoryPool()
        self._number = status.highest  # no number up to here may be given out
        self._published = self._settled = status.highest  # given out last; accepted or refused up to here
        self._parts: dict[str, PartSnapshot] = {}  # of the version published last
        self._pending: VersionSnapshot | None = None
        self._sending: Outgoing | None = None  # the thread's own: encoded last, not refused
        self._accepted: Outgoing | None = None  # the thread's own: what a server that lost its disk gets again
        self._refusal: str | None = None
        self._problem = ""
        self._counts = dict.fromkeys(("accepted", "skipped", "refused", "failures", "sent_bytes"), 0)
        self._snapshot_s = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weight-publisher", daemon=True)
        self._thread.start()

    def publish(
        self,
        parts: Mapping[str, Mapping[str, NDArray[Any] | Bf16]],
        *,
        settings: Mapping[str, Any],
        unchanged: Collection[str] = (),
        schema_hash: str = "",
    ) -> int:
        """Takes a snapshot of the parts and returns this version's number; the rest is done in the background.

        Parts named in `unchanged` are those of the version that this publisher published before, if it did: their
        tensors are not looked at and may be left out of `parts`. Subscribers for another `schema_hash` keep the version
        they have. Raises InputError for settings that are not JSON, a dtype that cannot travel, an unchanged part that
        there is not. A NaN is found later: that version is never sent, `stats` counts it as refused, and `wait` says
        why. For one thread at a time.
        """
        started_s = time.perf_counter()
        try:
            settings_json = json.dumps(dict(settings), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"settings of the weights are not JSON: {error}") from error
        unknown = sorted(set(unchanged) - set(self._parts) - set(parts))
        if unknown:
            raise InputError(f"unchanged={unknown}: the version before has the parts {sorted(self._parts)}")
        kept = {name: self._parts[name] for name in unchanged if name in self._parts}
        plans = [
            PartPlan(name, tensors, "f32" if name in self._exact else self._wire)
            for name, tensors in parts.items()
            if name not in kept
        ]
        with self._changed:  # the memory of a version that this one replaces is used for this one
            self._pending, self._parts = None, kept
        taken = {plan.name: PartSnapshot(plan, self._snapshots) for plan in plans}
        version = pb.WeightVersion(published_unix_s=time.time(), settings_json=settings_json, schema_hash=schema_hash)
        with self._changed:
            self._number += 1
            self._published = version.number = self._number
            self._parts = kept | taken
            self._pending = VersionSnapshot(version=version, parts=self._parts)
            self._snapshot_s = time.perf_counter() - started_s
            self._changed.notify_all()
            return self._published

    def wait(self, timeout_s: float = 60.0) -> int:
        """Blocks until the server has the newest published version on disk; returns its number.

        Raises Unreachable when that takes longer, InputError when it was refused: by the server, or for a NaN.
        """
        with self._changed:
            number = self._published
            if not self._changed.wait_for(lambda: self._settled >= number, timeout_s):
                raise Unreachable(
                    f"weights service at {self.address}: version {number} was not taken within {timeout_s:g} s"
                    + (f" ({self._problem})" if self._problem else "")
                )
            if self._refusal is not None:
                raise InputError(self._refusal)
            return number

    def stats(self) -> dict[str, float]:
        """Counts since the start, newest version number given out and settled, seconds the last publish() took."""
        with self._changed:
            return {
                **self._counts,
                "version": float(self._number),
                "settled": float(self._settled),
                "snapshot_s": self._snapshot_s,
            }

    def close(self, flush_s: float = 5.0) -> None:
        """Gives the newest version `flush_s` to reach the server, then ends; what did not get there is lost."""
        with self._changed:
            number = self._published
            if not self._changed.wait_for(lambda: self._settled >= number, flush_s):
                log.warning("closed before version %d reached %s: %s", number, self.address, self._problem)
            self._closed.set()
            self._changed.notify_all()
        self._channel.close()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        backoff = Backoff()
        while not self._closed.is_set():
            try:
                self._encode_pending()
                self._bring_up_to_date()
                backoff.reset()
                with self._changed:
                    self._changed.wait_for(lambda: self._closed.is_set() or self._pending is not None, CHECK_EVERY_S)
            except grpc.RpcError as error:
                self._note_failure(describe(error))
                self._closed.wait(backoff.next_s())
            except ValueError:
                if not self._closed.is_set():  # else the channel was closed under a new call
                    raise

    def _encode_pending(self) -> None:
        with self._changed:
            snapshot, self._pending = self._pending, None
        if snapshot is None:
            return
        try:
            self._sending = snapshot.encode(self._encoded)
        except (InputError, CorruptData) as error:
            self._refuse(snapshot.version.number, f"version {snapshot.version.number} is refused: {error}")

    def _bring_up_to_date(self) -> None:
        """One look at the server; sends the newest version if the server has an older one."""
        outgoing = self._sending
        if outgoing is None:
            return
        status = self._stub.Status(pb.WeightsStatusRequest(), timeout=STATUS_DEADLINE_S)
        number = outgoing.version.number
        if status.newest.number < number or (status.newest == outgoing.version and number > self._settled):
            self._send(outgoing, status.held)
        elif status.newest != outgoing.version and number > self._settled:
            self._refuse(number, f"version {number} comes after {status.newest.number} of another publisher")
        with self._changed:
            self._number = max(self._number, status.highest)

    def _send(self, outgoing: Outgoing, held: Collection[str]) -> None:
        """Publish answers when the version is on disk; a server that has all of it gets the table only."""
        size, number = outgoing.missing_bytes(held), outgoing.version.number
        try:
            self._stub.Publish(outgoing.requests(held), timeout=60 + size / _SLOWEST_BYTES_PER_S)
        except grpc.RpcError as error:
            if error.code() not in _PERMANENT:
                raise
            reason = f"weights service at {self.address} refused version {number}: {describe(error)}"
            self._refuse(number, reason)
            return
        self._accepted = outgoing
        with self._changed:
            self._counts["accepted"] += 1
            self._counts["sent_bytes"] += size
            self._counts["skipped"] += max(0, number - self._settled - 1)
            if number > self._settled:
                self._settled, self._refusal = number, None
            self._problem = ""
            self._changed.notify_all()

    def _refuse(self, number: int, reason: str) -> None:
        log.error("%s", reason)
        if self._sending is not None and self._sending.version.number == number:
            self._sending = self._accepted
        with self._changed:
            self._settled = max(self._settled, number)
            self._refusal = reason
            self._counts["refused"] += 1
            self._changed.notify_all()

    def _note_failure(self, problem: str) -> None:
        with self._changed:
            self._counts["failures"] += 1
            repeated, self._problem = problem == self._problem, problem
        if not (repeated or self._closed.is_set()):
            log.warning("weights service at %s: %s; trying again", self.address, problem)
