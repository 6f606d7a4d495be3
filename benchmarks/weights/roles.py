"""This module holds the publisher and the subscribers of the benchmark, each in a process of its own.

Moments are `time.monotonic()`, which all processes of a Linux machine share.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.weights.model import checksums, digest, mark, train, transformer
from protos.errors import Unreachable
from services.net import CLIENT_OPTIONS, Credentials
from services.weights import WeightPublisher, WeightSubscriber, WireDtype

PART = "policy"
POLL_S = 0.002


class Publisher:
    """A learner that does nothing but publish."""

    def __init__(
        self, address: str, *, parameters: int, wire: WireDtype = "bf16", credentials: Mapping[str, str] | None = None
    ) -> None:
        self._rng = np.random.default_rng(0)
        self._tensors = transformer(parameters, self._rng)
        self._publisher = WeightPublisher(address, wire_dtype=wire, credentials=credentials_of(credentials))
        self._marks = 0
        self._checksums: dict[str, str] = {}  # of the tensors as they were last marked

    def train(self, step: float) -> None:
        """The step between two versions."""
        train(self._tensors, step, self._rng)
        self._checksums = {}

    def publish(self, *, marked: bool = False) -> dict[str, Any]:
        """Version, the moment before the call, how long it took, and a digest of what was published if `marked`."""
        checked = self._mark() if marked else ""
        began = time.monotonic()
        version = self._publisher.publish({PART: self._tensors}, settings={})
        blocked_s = time.monotonic() - began
        return {"version": version, "began": began, "blocked_s": blocked_s, "digest": checked}

    def burst(self, count: int, every_s: float) -> list[dict[str, Any]]:
        """Publishes marked versions at a fixed rate, whether or not anyone keeps up."""
        start, sent = time.monotonic(), []
        for number in range(count):
            time.sleep(max(0.0, start + number * every_s - time.monotonic()))
            sent.append(self.publish(marked=True))
        return sent

    def settle(self, timeout_s: float = 60.0) -> int:
        """Waits until the server has the newest version."""
        return self._publisher.wait(timeout_s)

    def stats(self) -> dict[str, float]:
        return self._publisher.stats()

    def close(self) -> None:
        self._publisher.close(flush_s=1.0)

    def _mark(self) -> str:
        self._checksums = self._checksums or checksums(self._tensors)
        self._marks += 1
        changed = mark(self._tensors, self._marks)
        self._checksums |= checksums({changed: self._tensors[changed]})
        return digest(self._checksums)


class Subscribers:
    """`names` follow the server, as the policy servers of as many nodes would."""

    def __init__(
        self,
        address: str,
        *,
        names: Sequence[str],
        credentials: Mapping[str, str] | None = None,
        digests: bool = False,
    ) -> None:
        # by default all channels of a process to one address are streams of one connection
        CLIENT_OPTIONS.append(("grpc.use_local_subchannel_pool", 1))
        given = credentials_of(credentials)
        self._closed = threading.Event()
        self._followers = [
            Follower(WeightSubscriber(address, name=name, credentials=given), self._closed, digests=digests)
            for name in names
        ]

    def holds(self, version: int, timeout_s: float = 60.0) -> list[float]:
        """The moment from which each had `version` or a newer one. Raises Unreachable after `timeout_s`."""
        return [follower.moment_of(version, timeout_s) for follower in self._followers]

    def swaps(self) -> list[list[tuple[int, str]]]:
        """Versions that each has had, in order, with their digests."""
        return [[(swap.version, swap.digest) for swap in follower.swaps] for follower in self._followers]

    def stats(self) -> list[dict[str, float]]:
        return [follower.subscriber.stats() for follower in self._followers]

    def pulled(self) -> int:
        """Bytes of weights that came, all subscribers together."""
        return sum(int(stats["pulled_bytes"]) for stats in self.stats())

    def close(self) -> None:
        self._closed.set()
        for follower in self._followers:
            follower.close()


@dataclass(frozen=True, kw_only=True)
class Swap:
    """A version that was swapped in."""

    moment: float
    version: int
    digest: str


class Follower:
    """Notes when its subscriber swaps."""

    def __init__(self, subscriber: WeightSubscriber, closed: threading.Event, *, digests: bool) -> None:
        self.subscriber, self._closed, self._digests = subscriber, closed, digests
        self.swaps: list[Swap] = []
        self._thread = threading.Thread(target=self._follow, name=f"follow-{subscriber.name}", daemon=True)
        self._thread.start()

    def moment_of(self, version: int, timeout_s: float) -> float:
        give_up = time.monotonic() + timeout_s
        while not (moments := [swap.moment for swap in tuple(self.swaps) if swap.version >= version]):
            if time.monotonic() > give_up:
                self.subscriber.wait(version, 0.0)  # raises and says why
            time.sleep(POLL_S)
        return moments[0]

    def close(self) -> None:
        self.subscriber.close()
        self._thread.join()

    def _follow(self) -> None:
        version = 0
        while not self._closed.is_set():
            with suppress(Unreachable):
                weights = self.subscriber.wait(version + 1, 0.5)
                moment, version = time.monotonic(), weights.version
                checked = digest(checksums(weights.parts[PART])) if self._digests else ""
                self.swaps.append(Swap(moment=moment, version=version, digest=checked))


def credentials_of(paths: Mapping[str, str] | None) -> Credentials:
    """Credentials from their paths by name."""
    return Credentials(**{name: Path(path) for name, path in (paths or {}).items()})
