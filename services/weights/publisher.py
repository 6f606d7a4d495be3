"""The learner's side: numbers versions, copies them, sends the newest from a thread of its own.

    publish() ── copy ──► newest ──► thread: Status? ──► Publish (parts the server does not hold) ──► accepted
                                       ▲                    │
                                       └── every 2 s, and after every failure with backoff

A version replaced before it was sent is skipped. The thread looks at the server every 2 s: one that came back with an
older version (another disk, a damaged file) gets the newest again.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import InputError, Unreachable
from protos.weights_pb2_grpc import WeightsStub
from services.credentials import LOOPBACK, Credentials
from services.transport import Backoff, describe, open_channel, unreachable
from services.weights.chunks import split
from services.weights.tensors import WireDtype, encode_part

log = logging.getLogger(__name__)
CONNECT_DEADLINE_S = 15.0
STATUS_DEADLINE_S = 5.0
CHECK_EVERY_S = 2.0
_SLOWEST_BYTES_PER_S = 1e6
"""A version may take a minute, and a second more per this many bytes."""
_PERMANENT = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)


@dataclass
class _Outgoing:
    """A version in wire form; the hashes are filled in by the sending thread."""

    version: pb.WeightVersion
    data: list[bytes]  # one per part
    refused: bool = False

    def hash_parts(self) -> None:
        for part, data in zip(self.version.parts, self.data, strict=True):
            part.sha256 = part.sha256 or hashlib.sha256(data).hexdigest()

    def missing(self, held: Collection[str]) -> dict[str, bytes]:
        """Bytes by sha256 of the parts that the server needs, each once."""
        return {
            part.sha256: data
            for part, data in zip(self.version.parts, self.data, strict=True)
            if part.sha256 not in held
        }


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
        self._number = status.highest
        self._newest: _Outgoing | None = None
        self._settled = self._number  # accepted or refused up to here
        self._refusal: str | None = None
        self._problem = ""
        self._counts = dict.fromkeys(("accepted", "skipped", "refused", "failures", "sent_bytes"), 0)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weight-publisher", daemon=True)
        self._thread.start()

    def publish(self, parts: Mapping[str, Mapping[str, NDArray[Any]]], *, settings: Mapping[str, Any]) -> int:
        """Copies the parts and returns the number that this version has; sending happens in the background.

        Raises InputError for NaN or infinity in a tensor, and for settings that are not JSON.
        """
        try:
            settings_json = json.dumps(settings, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"settings of the weights are not JSON: {error}") from error
        encoded = [
            encode_part(name, tensors, "f32" if name in self._exact else self._wire) for name, tensors in parts.items()
        ]
        version = pb.WeightVersion(
            published_unix_s=time.time(), settings_json=settings_json, parts=[part for part, _ in encoded]
        )
        with self._changed:
            self._number += 1
            version.number = self._number
            self._newest = _Outgoing(version, [data for _, data in encoded])
            self._changed.notify_all()
            return self._number

    def wait(self, timeout_s: float = 60.0) -> int:
        """Blocks until the server has the newest published version on disk; returns its number.

        Raises Unreachable when that takes longer, InputError when the server refused it.
        """
        with self._changed:
            number = self._newest_number()
            if not self._changed.wait_for(lambda: self._settled >= number, timeout_s):
                raise Unreachable(
                    f"weights service at {self.address}: version {number} was not taken within {timeout_s:g} s"
                    + (f" ({self._problem})" if self._problem else "")
                )
            if self._refusal is not None:
                raise InputError(self._refusal)
            return number

    def stats(self) -> dict[str, float]:
        """Counts since the start, and the newest version number given out and settled."""
        with self._changed:
            return {**self._counts, "version": float(self._number), "settled": float(self._settled)}

    def close(self, flush_s: float = 5.0) -> None:
        """Gives the newest version `flush_s` to reach the server, then ends; what did not get there is lost."""
        with self._changed:
            number = self._newest_number()
            if not self._changed.wait_for(lambda: self._settled >= number, flush_s):
                log.warning("closed before version %d reached %s: %s", number, self.address, self._problem)
            self._closed.set()
            self._changed.notify_all()
        self._channel.close()
        self._thread.join(timeout=5)

    def _newest_number(self) -> int:
        return self._settled if self._newest is None else self._newest.version.number

    def _run(self) -> None:
        backoff = Backoff()
        while not self._closed.is_set():
            try:
                self._bring_up_to_date()
                backoff.reset()
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._closed.is_set() or self._settled < self._newest_number(), CHECK_EVERY_S
                    )
            except grpc.RpcError as error:
                self._note_failure(describe(error))
                self._closed.wait(backoff.next_s())
            except ValueError:
                if not self._closed.is_set():  # else the channel was closed under a new call
                    raise

    def _bring_up_to_date(self) -> None:
        """One look at the server; sends the newest version if the server has an older one."""
        with self._changed:
            outgoing = self._newest
        if outgoing is None or outgoing.refused:
            return
        outgoing.hash_parts()
        status = self._stub.Status(pb.WeightsStatusRequest(), timeout=STATUS_DEADLINE_S)
        number = outgoing.version.number
        if status.newest == outgoing.version:
            self._settle(number)
        elif status.newest.number < number:
            self._send(outgoing, status.held)
        elif number > self._settled:
            self._refuse(outgoing, f"version {number} comes after {status.newest.number} of another publisher")
        with self._changed:
            self._number = max(self._number, status.highest)

    def _send(self, outgoing: _Outgoing, held: Collection[str]) -> None:
        missing = outgoing.missing(held)
        size = sum(map(len, missing.values()))
        number = outgoing.version.number
        try:
            self._stub.Publish(_requests(outgoing.version, missing), timeout=60 + size / _SLOWEST_BYTES_PER_S)
        except grpc.RpcError as error:
            if error.code() not in _PERMANENT:
                raise
            self._refuse(outgoing, f"weights service at {self.address} refused version {number}: {describe(error)}")
            return
        with self._changed:
            self._counts["accepted"] += 1
            self._counts["sent_bytes"] += size
        self._settle(number)

    def _settle(self, number: int) -> None:
        with self._changed:
            self._counts["skipped"] += max(0, number - self._settled - 1)
            self._settled = max(self._settled, number)
            self._refusal, self._problem = None, ""
            self._changed.notify_all()

    def _refuse(self, outgoing: _Outgoing, reason: str) -> None:
        log.error("%s", reason)
        outgoing.refused = True
        with self._changed:
            self._settled = max(self._settled, outgoing.version.number)
            self._refusal = reason
            self._counts["refused"] += 1
            self._changed.notify_all()

    def _note_failure(self, problem: str) -> None:
        with self._changed:
            self._counts["failures"] += 1
            repeated, self._problem = problem == self._problem, problem
        if not (repeated or self._closed.is_set()):
            log.warning("weights service at %s: %s; trying again", self.address, problem)


def _requests(version: pb.WeightVersion, parts: Mapping[str, bytes]) -> Iterator[pb.PublishRequest]:
    yield pb.PublishRequest(version=version)
    for sha256, data in parts.items():
        for chunk in split(data):
            yield pb.PublishRequest(part_chunk=pb.PublishRequest.PartChunk(sha256=sha256, chunk=chunk))
