"""The acting side: follows the newest version and shows it only when every byte of it is there and checked.

    Watch thread ── newest announced ──► Pull thread ── parts that changed, 1 MiB chunks ──► check ──► latest()
    waits for the server                 waits for a newer announcement

Both threads reconnect for ever, with backoff. A stream that breaks is taken up at the byte where it broke; a chunk that
fails its checksum is dropped, counted and pulled again. Of several
versions announced while a pull is under way only the newest is pulled next.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError, Unreachable
from protos.weights_pb2_grpc import WeightsStub
from services.credentials import LOOPBACK, Credentials
from services.transport import Backoff, describe, open_channel
from services.weights.chunks import PartAssembly
from services.weights.tensors import DEFAULT_MAX_PART_BYTES, Tensors, check_version, decode_part

log = logging.getLogger(__name__)
PULL_DEADLINE_S = 60.0
"""Of one Pull stream; a part that takes longer resumes where it was."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One complete version. Its arrays are shared with later versions: treat them as read-only."""

    version: int
    parts: dict[str, Tensors]
    settings: dict[str, Any]
    published_unix_s: float


class WeightSubscriber:
    """Follows the weights server at `address`; `name` is how the server lists it. Connects in the background."""

    def __init__(
        self,
        address: str,
        *,
        name: str,
        credentials: Credentials = LOOPBACK,
        max_part_bytes: int = DEFAULT_MAX_PART_BYTES,
    ) -> None:
        self.address, self.name = address, name
        self._max_part_bytes = max_part_bytes
        self._channel = open_channel(address, credentials)
        self._stub = WeightsStub(self._channel)  # type: ignore[no-untyped-call]
        self._changed = threading.Condition()
        self._announced: pb.WeightVersion | None = None
        self._latest: Weights | None = None
        self._decoded: dict[str, Tensors] = {}  # parts of the latest version by sha256
        self._assemblies: dict[str, PartAssembly] = {}  # parts on their way by sha256
        self._problem = "not connected yet"
        self._watching = False
        names = ("swaps", "skipped", "corrupt", "refused", "resumed", "failures", "pulled_bytes")
        self._counts = dict.fromkeys(names, 0)
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(follow,), name=f"weights-{kind}", daemon=True)
            for kind, follow in (("watch", self._watch), ("pull", self._pull_newest))
        ]
        for thread in self._threads:
            thread.start()

    def latest(self) -> Weights | None:
        """The newest complete version, None before the first. Never blocks."""
        return self._latest

    def wait(self, version: int, timeout_s: float) -> Weights:
        """Blocks until `version` or a newer one is complete. Raises Unreachable when that takes longer."""
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
        """Versions behind the newest announced, and seconds since the one in use was published.

        Infinite seconds before the first version. The seconds compare two hosts' clocks.
        """
        with self._changed:
            announced = 0 if self._announced is None else self._announced.number
            if self._latest is None:
                return announced, math.inf
            return max(0, announced - self._latest.version), max(0.0, time.time() - self._latest.published_unix_s)

    def stats(self) -> dict[str, float]:
        """Counts since the start, the version in use (0 before the first), its staleness, whether there is a server."""
        behind, age_s = self.staleness()
        with self._changed:
            return {
                **self._counts,
                "version": 0.0 if self._latest is None else float(self._latest.version),
                "announced": 0.0 if self._announced is None else float(self._announced.number),
                "versions_behind": float(behind),
                "age_s": age_s,
                "connected": float(self._watching),
            }

    def close(self) -> None:
        """Ends both threads; `latest` keeps its answer."""
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
        """One Watch stream until it breaks; keepalive breaks it when the server is gone."""
        stream = self._stub.Watch(pb.WatchRequest(name=self.name))
        try:
            stream.initial_metadata()
            self._watching = stream.is_active()
            for version in stream:
                backoff.reset()
                self._announce(version)
        finally:
            self._watching = False

    def _announce(self, version: pb.WeightVersion) -> None:
        try:
            check_version(version, self._max_part_bytes)
        except InputError as error:
            self._note("refused", f"version {version.number} not pulled: {error}")
            return
        with self._changed:
            self._announced, self._problem = version, ""
            self._changed.notify_all()

    def _wanted(self) -> pb.WeightVersion | None:
        """The announced version if it is newer than the one in use.

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
            wanted = {part.sha256 for part in version.parts}
            self._assemblies = {sha256: part for sha256, part in self._assemblies.items() if sha256 in wanted}
            self._swap(version, {part.sha256: self._part(part) for part in version.parts})
            backoff.reset()

    def _swap(self, version: pb.WeightVersion, decoded: dict[str, Tensors]) -> None:
        weights = Weights(
            version=version.number,
            parts={part.name: decoded[part.sha256] for part in version.parts},
            settings=json.loads(version.settings_json),
            published_unix_s=version.published_unix_s,
        )
        with self._changed:
            if self._latest is not None:
                self._counts["skipped"] += max(0, weights.version - self._latest.version - 1)
            self._latest, self._decoded, self._assemblies = weights, decoded, {}
            self._counts["swaps"] += 1
            self._changed.notify_all()
        log.info("%s uses version %d", self.name, weights.version)

    def _part(self, part: pb.WeightPart) -> Tensors:
        """The tensors of a part: those in use when its bytes did not change, else pulled."""
        if part.sha256 in self._decoded:
            return self._decoded[part.sha256]
        assembly = self._assemblies.get(part.sha256)
        if assembly is None:
            assembly = self._assemblies[part.sha256] = PartAssembly(part)
        elif not assembly.complete:
            self._counts["resumed"] += 1
        if not assembly.complete:
            self._pull(assembly)
        try:
            return decode_part(part, assembly.finish())
        except CorruptData:
            del self._assemblies[part.sha256]
            raise

    def _pull(self, assembly: PartAssembly) -> None:
        """Adds chunks until the part is complete. What arrived stays when the stream breaks."""
        request = pb.PullRequest(sha256=assembly.part.sha256, offset=assembly.received)
        stream = self._stub.Pull(request, timeout=PULL_DEADLINE_S)
        try:
            for chunk in stream:
                assembly.add(chunk)
                self._counts["pulled_bytes"] += len(chunk.data)
        finally:
            stream.cancel()
        if not assembly.complete:
            raise CorruptData(f"part {assembly.part.name!r}: the stream ended at byte {assembly.received}")

    def _note(self, count: str, problem: str) -> None:
        with self._changed:
            self._counts[count] += 1
            repeated, self._problem = problem == self._problem, problem
        if not (repeated or self._closed.is_set()):
            log.warning("weights service at %s: %s", self.address, problem)
