"""This module follows the newest weights and shows a version only when every byte of it is there and checked.

    Watch thread ── newest announced ──► Pull thread ── parts not held yet, 1 MiB chunks ──► check ──► latest()
    waits for the server                 waits for a newer announcement, or a large          │
                                         part that another on this host is pulling           │
                                         Report thread ◄── each swap, every 5 s ─────────────┘

All threads reconnect for ever, with backoff. A stream that breaks is taken up at the byte where it broke; a chunk that
fails its checksum is dropped, counted and pulled again. Of several versions announced while a pull is under way only
the newest is pulled next.
"""

import logging
import math
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError, SchemaMismatch, Unreachable
from protos.weights_pb2_grpc import WeightsStub
from services.net import LOOPBACK, Backoff, Credentials, Role, describe, open_channel
from services.weights.shared import SHARED_MEMORY, SharedParts
from services.weights.wire import (
    DEFAULT_LIMITS,
    Limits,
    MemoryPool,
    PartAssembly,
    Tensors,
    check_version,
    decode_part,
    read_settings,
)

log = logging.getLogger(__name__)
PULL_DEADLINE_S = 60.0
"""Deadline of one Pull stream; a part that takes longer resumes where it was."""
REPORT_EVERY_S = 5.0
REPORT_DEADLINE_S = 5.0
_SWAPS_REMEMBERED = 256
_COUNTS = ("swaps", "skipped", "corrupt", "refused", "resumed", "failures", "pulled_bytes", "shared_bytes")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One complete version. Its arrays are shared, with later versions or all of the host: treat them as read-only.

    They stay as they are while anything refers to them, an array or a view; after that their memory is used again.
    """

    version: int
    parts: dict[str, Tensors]
    sha256: dict[str, str]
    """The name of each part, which its bytes have passed (`protos.tensors`)."""
    settings: dict[str, Any]
    published_unix_s: float


class WeightSubscriber:
    """Follows the weights server at `address`; `name` is how the server lists it. Connects in the background.

    With `schema_hash` versions that were published for another one are refused; `limits` says how much is taken at all.
    Who has a role takes only what the learner's role published.
    Subscribers of one user with the same folder `shared_memory` pull a large part once between them; None: alone.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str,
        credentials: Credentials = LOOPBACK,
        limits: Limits = DEFAULT_LIMITS,
        schema_hash: str = "",
        shared_memory: Path | None = SHARED_MEMORY,
    ) -> None:
        self.address, self.name = address, name
        self._id = secrets.token_hex(8)
        self._limits, self._schema_hash = limits, schema_hash
        self._publisher = "" if credentials.role() is None else Role.LEARNER.value
        self._channel = open_channel(address, credentials)
        self._stub = WeightsStub(self._channel)  # type: ignore[no-untyped-call]
        self._changed = threading.Condition()
        self._announced: pb.WeightVersion | None = None  # the newest that is not refused
        self._newest_number = 0  # of all announced
        self._latest: Weights | None = None
        self._reported: Weights | None = None
        self._swapped_s = 0.0  # monotonic
        self._problem = "not connected yet"
        self._created_unix_s, self._silent_since_s = time.time(), time.monotonic()
        self._watching = False
        self._counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        self._swap_s: deque[float] = deque(maxlen=_SWAPS_REMEMBERED)
        self._closed = threading.Event()
        shared = None if shared_memory is None else SharedParts(shared_memory, self._closed.is_set)
        self._puller = _Puller(self._stub, self._counts, shared)
        loops = (("watch", self._watch), ("pull", self._pull_newest), ("report", self._report))
        self._threads = [
            threading.Thread(target=self._run, args=(follow,), name=f"weights-{kind}", daemon=True)
            for kind, follow in loops
        ]
        for thread in self._threads:
            thread.start()

    def latest(self) -> Weights | None:
        """Returns the newest complete version, None before the first. Never blocks."""
        return self._latest

    def wait(self, version: int, timeout_s: float) -> Weights:
        """Waits for `version` or a newer one and returns it. Raises Unreachable when that takes longer."""
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None and self._latest.version >= version, timeout_s)
            if self._latest is None or self._latest.version < version:
                held = "none" if self._latest is None else f"version {self._latest.version}"
                raise Unreachable(
                    f"weights service at {self.address}: version {version} did not come within {timeout_s:g} s, "
                    f"{self.name} holds {held}" + (f" ({self._problem})" if self._problem else "")
                )
            return self._latest

    def staleness(self) -> tuple[int, float]:
        """Returns the versions behind the newest announced, and the seconds since the one in use was published.

        Infinite seconds before the first version. The seconds compare two hosts' clocks.
        """
        with self._changed:
            if self._latest is None:
                return self._newest_number, math.inf
            behind = max(0, self._newest_number - self._latest.version)
            return behind, max(0.0, time.time() - self._latest.published_unix_s)

    def silent_s(self) -> float:
        """Returns the seconds since the stream of versions broke or the subscriber started; 0 while it stands.

        The age of weights says little when nothing new is published; a broken stream means that it cannot be known.
        """
        with self._changed:
            return 0.0 if self._watching else time.monotonic() - self._silent_since_s

    def stats(self) -> dict[str, float]:
        """Returns counts since the start, the version in use (0 before the first), its staleness, the connection."""
        behind, age_s = self.staleness()
        silent_s = self.silent_s()
        with self._changed:
            return {
                **self._counts,
                "version": 0.0 if self._latest is None else float(self._latest.version),
                "announced": float(self._newest_number),
                "versions_behind": float(behind),
                "age_s": age_s,
                "silent_s": silent_s,
                "swap_s_p95": _p95(self._swap_s),
                "connected": float(self._watching),
            }

    def close(self) -> None:
        """Ends all threads; `latest` keeps its answer."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._channel.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _run(self, follow: Callable[[Backoff], None]) -> None:
        """Calls `follow`, which ends when something breaks, again and again until closed."""
        backoff = Backoff()
        while not self._closed.is_set():
            try:
                follow(backoff)
            except grpc.RpcError as error:
                self._note("failures", describe(error))
            except CorruptData as error:
                self._note("corrupt", str(error))
            except ValueError:
                if not self._closed.is_set():  # else the channel was closed under a new call
                    raise
            self._closed.wait(backoff.next_s())

    def _watch(self, backoff: Backoff) -> None:
        """Follows one Watch stream until it breaks; keepalive breaks it when the server is gone."""
        stream = self._stub.Watch(pb.WatchRequest(name=self.name, id=self._id))
        try:
            stream.initial_metadata()
            self._set_watching(stream.is_active())
            for version in stream:
                backoff.reset()
                self._announce(version)
        finally:
            self._set_watching(False)

    def _set_watching(self, watching: bool) -> None:
        with self._changed:
            if self._watching and not watching:
                self._silent_since_s = time.monotonic()
            self._watching = watching
            self._changed.notify_all()

    def _announce(self, version: pb.WeightVersion) -> None:
        try:
            check_version(version, self._limits)
            self._check_publisher(version)
            self._check_schema(version)
        except InputError as error:
            with self._changed:
                self._newest_number = version.number
            self._note("refused", f"version {version.number} not pulled: {error}")
            return
        with self._changed:
            self._announced, self._newest_number, self._problem = version, version.number, ""
            self._changed.notify_all()

    def _check_publisher(self, version: pb.WeightVersion) -> None:
        if self._publisher and version.publisher != self._publisher:
            who = f"the role {version.publisher[:80]}" if version.publisher else "a publisher without a role"
            raise InputError(f"it was published by {who}; a lab takes weights from the role {self._publisher} alone")

    def _check_schema(self, version: pb.WeightVersion) -> None:
        if self._schema_hash and version.schema_hash and version.schema_hash != self._schema_hash:
            raise SchemaMismatch(
                f"it was published for schema {version.schema_hash[:80]!r}, this process has {self._schema_hash!r}"
            )

    def _wanted(self) -> pb.WeightVersion | None:
        """Returns the announced version if it is newer than the one in use.

        A lower number that was published later is newer too: a new run on a new store counts from 1 again.
        """
        version, held = self._announced, self._latest
        if version is None:
            return None
        if held is None or version.number > held.version or version.published_unix_s > held.published_unix_s:
            return version
        return None

    def _pull_newest(self, backoff: Backoff) -> None:
        """Waits for a newer version, pulls it, swaps it in; again and again."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed.is_set() or self._wanted() is not None)
                version = self._wanted()
            if self._closed.is_set() or version is None:
                return
            self._swap(version, self._puller.parts(version))
            backoff.reset()

    def _swap(self, version: pb.WeightVersion, parts: dict[str, Tensors]) -> None:
        weights = Weights(
            version=version.number,
            parts=parts,
            sha256={part.name: part.sha256 for part in version.parts},
            settings=read_settings(version),
            published_unix_s=version.published_unix_s,
        )
        with self._changed:
            if self._latest is not None:
                self._counts["skipped"] += max(0, weights.version - self._latest.version - 1)
            self._latest, self._swapped_s = weights, time.monotonic()
            self._counts["swaps"] += 1
            if weights.published_unix_s >= self._created_unix_s:  # the first may have waited for a subscriber
                self._swap_s.append(max(0.0, time.time() - weights.published_unix_s))
            self._changed.notify_all()
        log.info("%s uses version %d", self.name, weights.version)

    def _report(self, backoff: Backoff) -> None:
        """Tells the server what is in use, after each swap and every 5 s while connected; a lost report is no loss."""
        while not self._closed.is_set():
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed.is_set() or (self._watching and self._latest is not self._reported),
                    REPORT_EVERY_S,
                )
                if self._closed.is_set() or not self._watching or self._latest is None:
                    continue
                self._reported = self._latest
                in_use_s = time.monotonic() - self._swapped_s
            report = pb.WeightsReport(id=self._id, version=self._reported.version, in_use_s=in_use_s)
            with suppress(grpc.RpcError):
                self._stub.Report(report, timeout=REPORT_DEADLINE_S)

    def _note(self, count: str, problem: str) -> None:
        with self._changed:
            self._counts[count] += 1
            repeated, self._problem = problem == self._problem, problem
        if not (repeated or self._closed.is_set()):
            log.warning("weights service at %s: %s", self.address, problem)


class _Puller:
    """Pulls the parts of versions, one version at a time; what arrived of a part stays when a stream breaks.

    `counts` is added to: resumed, pulled_bytes, shared_bytes. gRPC's errors and CorruptData pass through; the next call
    goes on where they left.
    """

    def __init__(self, stub: WeightsStub, counts: Counter[str], shared: SharedParts | None) -> None:
        self._stub, self._counts, self._shared = stub, counts, shared
        self._wire, self._decoded = MemoryPool(), MemoryPool()
        self._held: dict[str, Tensors] = {}  # by sha256, as the transfers are
        self._transfers: dict[str, PartAssembly] = {}
        self._complete: set[str] = set()  # of the newest complete version

    def parts(self, version: pb.WeightVersion) -> dict[str, Tensors]:
        """Returns the tensors of every part by name; those that did not change are the same arrays as before."""
        wanted = {part.sha256 for part in version.parts}
        self._transfers = {sha256: transfer for sha256, transfer in self._transfers.items() if sha256 in wanted}
        self._held = {sha256: held for sha256, held in self._held.items() if sha256 in wanted | self._complete}
        for part in version.parts:
            if part.sha256 not in self._held:
                self._held[part.sha256] = self._get(part)
        self._complete = wanted
        self._held = {sha256: self._held[sha256] for sha256 in wanted}
        return {part.name: self._held[part.sha256] for part in version.parts}

    def _get(self, part: pb.WeightPart) -> Tensors:
        """Finds a part on this host, or pulls it: for all there if that is possible."""
        pulled_before = self._counts["pulled_bytes"]
        tensors = None if self._shared is None else self._shared.tensors(part, partial(self._pull, part))
        if tensors is None:
            return decode_part(part, self._pull(part), self._decoded)
        if self._counts["pulled_bytes"] == pulled_before:
            self._counts["shared_bytes"] += part.size
        return tensors

    def _pull(self, part: pb.WeightPart, progress: Callable[[], None] | None = None) -> NDArray[np.uint8]:
        """Returns the checked bytes of a part; `progress` is called after each chunk."""
        transfer = self._transfers.get(part.sha256)
        if transfer is None:
            transfer = self._transfers[part.sha256] = PartAssembly(part, self._wire)
        elif not transfer.complete:
            self._counts["resumed"] += 1
        if not transfer.complete:
            self._add_chunks(transfer, progress)
        del self._transfers[part.sha256]  # complete: what fails now is pulled anew
        return transfer.data()

    def _add_chunks(self, transfer: PartAssembly, progress: Callable[[], None] | None) -> None:
        """Adds chunks until the part is complete."""
        request = pb.PullRequest(sha256=transfer.part.sha256, offset=transfer.received)
        stream = self._stub.Pull(request, timeout=PULL_DEADLINE_S)
        try:
            for chunk in stream:
                self._counts["pulled_bytes"] += transfer.add(chunk)
                if progress is not None:
                    progress()
        finally:
            stream.cancel()
        if not transfer.complete:
            raise CorruptData(f"part {transfer.part.name!r}: the stream ended at byte {transfer.received}")


def _p95(values: deque[float]) -> float:
    """Returns the 95th percentile, NaN without any values."""
    ordered = sorted(values)
    return ordered[math.ceil(0.95 * len(ordered)) - 1] if ordered else math.nan
