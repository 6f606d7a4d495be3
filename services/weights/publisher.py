"""This module publishes the learner's weights: it numbers versions, copies them, and sends the newest from a thread.

    publish() ── copy ──► _Version, pending ──► thread: bytes, sha256 ──► Status? ──► Publish (parts the server lacks)
                                 ▲                                          ▲            │
              replaced by the next publish()                                └── every 2 s, and after every failure

The learner waits for the copy alone. A version replaced before the thread came to it is skipped, and at most two copies
exist: the pending one and the one that is being encoded. The thread looks at the server every 2 s: one that came back
with an older version (another disk, a damaged file) gets the newest again.
"""

import json
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError, LeaseLost, Unreachable
from protos.tensors import WIRE_DTYPES, Bf16, TensorsLike, WireDtype, aligned, part_table, write_part
from protos.weights_pb2_grpc import WeightsStub
from services.net import LOOPBACK, Backoff, Credentials, describe, open_channel, unreachable
from services.weights.wire import CHUNK_BYTES, Limits, MemoryPool, check_version, fill_chunk

log = logging.getLogger(__name__)
CONNECT_DEADLINE_S = 15.0
STATUS_DEADLINE_S = 5.0
CHECK_EVERY_S = 2.0
_SLOWEST_BYTES_PER_S = 1e6
"""A version may take a minute, and a second more per this many bytes."""
_PERMANENT = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
)


_NO_LIMITS = Limits(max_part_bytes=1 << 62, max_version_bytes=1 << 62)
"""The server's own limits decide."""


class _Part:
    """One part of a version: a copy of its tensors first, later its bytes.

    A version that keeps the part of the version before it shares it. The copy has floats as float32 and the rest as it
    travels; `Bf16` tensors are kept as given.
    """

    def __init__(self, name: str, tensors: TensorsLike, wire: WireDtype) -> None:
        """Raises InputError for a dtype that cannot travel."""
        self.table = part_table(name, tensors, wire)
        self.data: NDArray[np.uint8] | None = None
        self._tensors, self._refusal = tensors, ""

    def copy(self, memory: MemoryPool) -> None:
        """Copies the tensors into memory that is used again."""
        arrays = {name: np.asarray(value) for name, value in self._tensors.items() if not isinstance(value, Bf16)}
        names = {name: "float32" if array.dtype.kind == "f" else array.dtype.name for name, array in arrays.items()}
        size = sum(aligned(array.size * WIRE_DTYPES[names[name]].itemsize) for name, array in arrays.items())
        room, offset, copies = memory.take(self.table.name, size), 0, dict(self._tensors)
        for name, array in arrays.items():
            copies[name] = copy = np.ndarray(array.shape, WIRE_DTYPES[names[name]], room, offset=offset)
            np.copyto(copy, array, casting="same_kind")
            offset += aligned(copy.nbytes)
        self._tensors = copies

    def encode(self, memory: MemoryPool) -> NDArray[np.uint8]:
        """Returns the part's bytes, made once, and completes its table; the copy is let go.

        Raises InputError for a NaN or an infinity: such weights must not reach an arm.
        """
        if self.data is None and not self._refusal:
            data = memory.take(self.table.name, self.table.size)
            if unfit := write_part(self.table, self._tensors, data):
                self._refusal = f"{self.table.name}/{unfit} holds NaN or infinity, or more than its wire dtype can"
            else:
                self.data = data
            self._tensors = {}
        if self._refusal:
            raise InputError(f"{self._refusal}: these weights are not published")
        assert self.data is not None
        return self.data


class _Version:
    """One version on its way: its message, and its parts as copies or as bytes."""

    def __init__(self, message: pb.WeightVersion, parts: Collection[_Part]) -> None:
        self.message, self._parts = message, parts

    def encode(self, memory: MemoryPool) -> None:
        """Raises InputError when a tensor holds NaN or infinity, CorruptData for a table that no server would take."""
        for part in self._parts:
            part.encode(memory)
        self.message.parts.extend(part.table for part in self._parts)
        check_version(self.message, _NO_LIMITS)

    def missing_bytes(self, held: Collection[str]) -> int:
        """Returns the bytes that a server holding `held` lacks."""
        return sum(part.table.size for part in self._missing(held))

    def requests(self, held: Collection[str]) -> Iterator[pb.PublishRequest]:
        """Yields the stream of Publish: the version, then the chunks of the parts that are not in `held`."""
        yield pb.PublishRequest(version=self.message)
        for part in self._missing(held):
            assert part.data is not None
            for offset in range(0, part.table.size, CHUNK_BYTES):
                request = pb.PublishRequest()
                request.part_chunk.sha256 = part.table.sha256
                fill_chunk(request.part_chunk.chunk, part.data.data, offset)
                yield request

    def _missing(self, held: Collection[str]) -> Collection[_Part]:
        """Returns the parts that the server lacks, those of equal bytes once."""
        return {part.table.sha256: part for part in self._parts if part.table.sha256 not in held}.values()


class WeightPublisher:
    """Publishes versions to the weights server at `address`.

    Numbers continue above the highest that the server ever took, so a resumed learner never reuses one. Parts named in
    `exact` travel as float32 whatever `wire_dtype` says: the frozen backbone is sent once, and its sha256 must be that
    of the backbone that the learner has. Raises Unreachable when the server does not answer within
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
        lease: int = 0,
    ) -> None:
        """`lease` is the number of the learner's lease, with which it leads (`services.weights.lead`); 0 for none."""
        self.address, self._lease = address, lease
        self._wire, self._exact = wire_dtype, frozenset(exact)
        self._channel = open_channel(address, credentials)
        self._stub = WeightsStub(self._channel)  # type: ignore[no-untyped-call]
        try:
            status = self._stub.Status(pb.WeightsStatusRequest(), timeout=connect_deadline_s, wait_for_ready=True)
        except grpc.RpcError as error:
            self._channel.close()
            raise unreachable("weights", address, error, connect_deadline_s) from error
        self._changed = threading.Condition()
        self._copies, self._encoded = MemoryPool(), MemoryPool()
        self._number = status.highest  # no number up to here may be given out
        self._published = self._settled = status.highest  # given out last; accepted or refused up to here
        self._parts: dict[str, _Part] = {}  # of the version published last
        self._pending: _Version | None = None
        self._sending: _Version | None = None  # the thread's own: encoded last, not refused
        self._accepted: _Version | None = None  # the thread's own: sent again to a server that lost its disk
        self._refusal: str | None = None
        self._lost = ""  # why the lease is over
        self._problem = ""
        self._counts = dict.fromkeys(("accepted", "skipped", "refused", "failures", "sent_bytes"), 0)
        self._snapshot_s = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weight-publisher", daemon=True)
        self._thread.start()

    def publish(
        self,
        parts: Mapping[str, TensorsLike],
        *,
        settings: Mapping[str, Any],
        unchanged: Collection[str] = (),
        schema_hash: str = "",
    ) -> int:
        """Copies the parts and returns this version's number; the rest is done in the background.

        Parts named in `unchanged` are those of the version that this publisher published before, if it did: their
        tensors are not looked at and may be left out of `parts`. Subscribers for another `schema_hash` keep the version
        they have. Raises InputError for settings that are not JSON, a dtype that cannot travel, an unchanged part that
        there is not. A NaN is found later: that version is never sent, `stats` counts it as refused, and `wait` says
        why. Raises LeaseLost once the service has refused a version because another learner leads. For one thread at a
        time.
        """
        self._check_lease()
        started_s = time.perf_counter()
        try:
            settings_json = json.dumps(dict(settings), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"settings of the weights are not JSON: {error}") from error
        unknown = sorted(set(unchanged) - set(self._parts) - set(parts))
        if unknown:
            raise InputError(f"unchanged={unknown}: the version before has the parts {sorted(self._parts)}")
        kept = {name: self._parts[name] for name in unchanged if name in self._parts}
        new = {
            name: _Part(name, tensors, "f32" if name in self._exact else self._wire)
            for name, tensors in parts.items()
            if name not in kept
        }
        with self._changed:  # the memory of a version that this one replaces is used for this one
            self._pending, self._parts = None, kept
        for part in new.values():
            part.copy(self._copies)
        message = pb.WeightVersion(
            published_unix_s=time.time(), settings_json=settings_json, schema_hash=schema_hash, lease=self._lease
        )
        with self._changed:
            self._number += 1
            self._published = message.number = self._number
            self._parts = kept | new
            self._pending = _Version(message, self._parts.values())
            self._snapshot_s = time.perf_counter() - started_s
            self._changed.notify_all()
            return self._published

    def wait(self, timeout_s: float = 60.0) -> int:
        """Waits until the server has the newest published version on disk and returns its number.

        Raises Unreachable when that takes longer, InputError when it was refused: by the server, or for a NaN;
        LeaseLost when another learner leads now.
        """
        with self._changed:
            number = self._published
            if not self._changed.wait_for(lambda: self._settled >= number, timeout_s):
                raise Unreachable(
                    f"weights service at {self.address}: version {number} was not taken within {timeout_s:g} s"
                    + (f" ({self._problem})" if self._problem else "")
                )
        self._check_lease()
        if self._refusal is not None:
            raise InputError(self._refusal)
        return number

    def stats(self) -> dict[str, float]:
        """Returns counts since the start, the newest number given out and settled, and the last publish()'s seconds."""
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

    def _check_lease(self) -> None:
        if self._lost:
            raise LeaseLost(self._lost)

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
            version, self._pending = self._pending, None
        if version is None:
            return
        try:
            version.encode(self._encoded)
            self._sending = version
        except (InputError, CorruptData) as error:
            self._refuse(version.message.number, f"version {version.message.number} is refused: {error}")

    def _bring_up_to_date(self) -> None:
        """Looks at the server once; sends the newest version if the server has an older one."""
        version = self._sending
        if version is None:
            return
        status = self._stub.Status(pb.WeightsStatusRequest(), timeout=STATUS_DEADLINE_S)
        number = version.message.number
        if status.newest.number < number or (status.newest == version.message and number > self._settled):
            self._send(version, status.held)
        elif status.newest != version.message and number > self._settled:
            self._refuse(number, f"version {number} comes after {status.newest.number} of another publisher")
        with self._changed:
            self._number = max(self._number, status.highest)

    def _send(self, version: _Version, held: Collection[str]) -> None:
        """Publishes a version, which answers when it is on disk; a server that has all of it gets the table only."""
        size, number = version.missing_bytes(held), version.message.number
        try:
            self._stub.Publish(version.requests(held), timeout=60 + size / _SLOWEST_BYTES_PER_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.ABORTED:
                self._lost = describe(error)
            elif error.code() not in _PERMANENT:
                raise
            reason = f"weights service at {self.address} refused version {number}: {describe(error)}"
            self._refuse(number, reason)
            return
        self._accepted = version
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
        if self._sending is not None and self._sending.message.number == number:
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
