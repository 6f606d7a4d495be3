"""This module holds the processes of the benchmark of joins: those that join and those that are there already.

Moments are `time.monotonic()`, which all processes of a Linux machine share.
"""

import threading
import time
from collections.abc import Sequence

import grpc
import numpy as np

from protos import weights_pb2 as pb
from protos.episode import Segment
from protos.errors import Unreachable
from protos.schema import PROPRIO_DIM, SEGMENT_STEPS, Configuration, Observation, Outcome, Schema, Source
from protos.weights_pb2_grpc import WeightsStub
from services.net import CLIENT_OPTIONS, open_channel
from services.replay import ReaderSettings, ReplayReader, ReplaySettings, ReplayWriter
from services.weights import WeightSubscriber

SCHEMA = Schema()
TIMEOUT_S = 60.0
POLL_S = 0.002


def segment_of(actor: str, number: int) -> Segment:
    """A whole episode of 16 steps with images of 64 pixels."""
    rng, rows = np.random.default_rng(number), SEGMENT_STEPS + 1
    return Segment(
        task="pick_and_place",
        scene="bench",
        instruction="Put the cube on the disc.",
        configuration=Configuration(region="A"),
        episode=f"{actor}/life/{number}",
        first_step=0,
        outcome=Outcome.TIMEOUT,
        source=Source.TWIN,
        policy_versions=(1, 1),
        backbone_id="",
        observation=Observation(
            side=np.full((rows, SCHEMA.side_px, SCHEMA.side_px, 3), number % 256, np.uint8),
            wrist=np.full((rows, SCHEMA.wrist_px, SCHEMA.wrist_px, 3), number % 256, np.uint8),
            proprio=rng.standard_normal((rows, PROPRIO_DIM), np.float32),
        ),
        action=np.zeros((SEGMENT_STEPS, 7), np.float32),
        reward=np.zeros(SEGMENT_STEPS, np.float32),
        human=np.zeros(SEGMENT_STEPS, bool),
    )


def replay_at(url: str) -> ReplaySettings:
    return ReplaySettings(urls=(url,), prefix="bench")


class Crowd:
    """Actors that are there already: each writes a segment every `every_s` and watches for weights.

    They hold no weights, so that a hundred of them fit one machine: in a steady state a watcher only waits.
    """

    def __init__(self, *, names: Sequence[str], replay: str, weights: str, every_s: float) -> None:
        CLIENT_OPTIONS.append(("grpc.use_local_subchannel_pool", 1))  # a connection each
        self._every_s = every_s
        self._writers = [ReplayWriter(replay_at(replay), SCHEMA, actor=name, spool=None) for name in names]
        self._channels = [open_channel(weights) for _ in names]
        self._told: dict[str, int] = {}
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._write, name="crowd-writes", daemon=True)]
        for name, channel in zip(names, self._channels, strict=True):
            watch = threading.Thread(target=self._watch, args=(name, channel), name=f"watch-{name}", daemon=True)
            self._threads.append(watch)
        for thread in self._threads:
            thread.start()

    def ready(self, timeout_s: float = TIMEOUT_S) -> int:
        """Waits until all have written and were told a version; how many they are. Raises Unreachable."""
        give_up = time.monotonic() + timeout_s
        while len(self._told) < len(self._writers) or not all(_has_written(writer) for writer in self._writers):
            if time.monotonic() > give_up:
                raise Unreachable(f"{len(self._told)} of {len(self._writers)} watch after {timeout_s:g} s")
            time.sleep(POLL_S)
        return len(self._writers)

    def close(self) -> None:
        self._closed.set()
        for channel in self._channels:
            channel.close()
        for thread in self._threads:
            thread.join(timeout=5)
        for writer in self._writers:
            writer.close()

    def _write(self) -> None:
        number = 0
        while not self._closed.is_set():
            for writer in self._writers:
                writer.add(segment_of(writer.actor, number), ["twin"])
                self._closed.wait(self._every_s / len(self._writers))
            number += 1

    def _watch(self, name: str, channel: grpc.Channel) -> None:
        stub = WeightsStub(channel)  # type: ignore[no-untyped-call]
        while not self._closed.is_set():
            try:
                for version in stub.Watch(pb.WatchRequest(name=name)):
                    self._told[name] = version.number
            except (grpc.RpcError, ValueError):  # the channel was closed, or the server is not there yet
                self._closed.wait(0.2)


def _has_written(writer: ReplayWriter) -> bool:
    stats = writer.stats()
    return stats["segments"] > stats["unsent"]


class Newcomer:
    """An actor that joins; it stays until it is closed."""

    def __init__(self, *, name: str) -> None:
        self._name = name
        self._writer: ReplayWriter | None = None
        self._subscriber: WeightSubscriber | None = None

    def join_replay(self, url: str) -> dict[str, float]:
        """Returns the seconds from making a writer to the acknowledgement of its first segment."""
        segment = segment_of(self._name, 0)
        began = time.monotonic()
        self._writer = ReplayWriter(replay_at(url), SCHEMA, actor=self._name, spool=None)
        self._writer.add(segment, ["twin"])
        if self._writer.flush(TIMEOUT_S):
            raise Unreachable(f"{self._name}: the first segment was not acknowledged within {TIMEOUT_S:g} s")
        return {"began": began, "joined": time.monotonic()}

    def write(self, segments: int) -> int:
        """Writes after `join_replay`; transitions that were acknowledged since it joined."""
        assert self._writer is not None
        for number in range(1, segments + 1):
            self._writer.add(segment_of(self._name, number), ["twin"])
        if self._writer.flush(TIMEOUT_S):
            raise Unreachable(f"{self._name}: {segments} segments were not acknowledged within {TIMEOUT_S:g} s")
        return int(self._writer.stats()["transitions"])

    def join_weights(self, address: str, version: int) -> dict[str, float]:
        """Returns the seconds from making a subscriber to having the newest version."""
        began = time.monotonic()
        self._subscriber = WeightSubscriber(address, name=self._name)
        self._subscriber.wait(version, TIMEOUT_S)
        return {"began": began, "joined": time.monotonic()}

    def close(self) -> None:
        for member in (self._writer, self._subscriber):
            if member is not None:
                member.close()


class Learner:
    """A reader of the replay, as a restarted learner has one."""

    def __init__(self, *, capacity: int) -> None:
        self._capacity = capacity
        self._reader: ReplayReader | None = None

    def read(self, url: str, transitions: int) -> dict[str, float]:
        """Returns the seconds from making a reader to having read all `transitions`, and how many it received.

        The reader goes on following.
        """
        began = time.monotonic()
        reader = self._reader = ReplayReader(
            replay_at(url), SCHEMA, ReaderSettings(capacity={"twin": self._capacity}, gamma=0.97, n_step=1)
        )
        reader.start()
        while (received := reader.received()["twin"]) < transitions and time.monotonic() < began + TIMEOUT_S:
            time.sleep(POLL_S)
        return {"began": began, "joined": time.monotonic(), "received": received}

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
