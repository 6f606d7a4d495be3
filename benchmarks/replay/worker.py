"""TwinRL's own replay as a worker of the replay benchmark, speaking the same protocol as its peers'.

    writers (processes) ── ReplayWriter ──► EmbeddedServer (process) ──► ReplayReader ──► batch

Options: `codec`, `images` (decoded ones are kept in "memory" or in a "file"; "server": they are read there when drawn),
`prefetch` (batches drawn ahead by `threads` threads; 0: drawn when asked for).
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.protocol import SEGMENT_STEPS, Data, Job, serve
from benchmarks.peers.protocol import Batch as Arrays
from benchmarks.peers.writers import Put, Writers
from protos.codec import encode_segment
from protos.episode import Segment
from protos.errors import Unreachable
from protos.schema import U8, Buffer, Configuration, Observation, Outcome, Schema, Source
from services.replay import (
    Batch,
    EmbeddedServer,
    Prefetcher,
    ReaderSettings,
    ReplayReader,
    ReplaySettings,
    ReplayWriter,
    totals,
)

BUFFER: Buffer = "twin"
FILL_TIMEOUT_S = 120.0
BATCH_TIMEOUT_S = 30.0
MIRROR_BYTES = 64 << 30
"""More than any capacity measured here needs; the mirror takes only what the capacity needs."""
JPEG_ERROR = 6.0
"""Mean difference per pixel [grey levels] that JPEG 95, 4:2:0 stays below on the benchmark's images."""
SERVER_SHARE = 1.5
"""Bytes that the server keeps, relative to what the reader draws from."""
SPOOL_BYTES = 8 << 30
"""Size of the spool, for seconds of ingest at full speed that the server has not yet written to its disk."""
MOST_UNSENT = 64
"""Segments that a writer at full speed lets wait in its spool."""


class TwinRL:
    """Server, writers and reader."""

    def __init__(self, job: Job) -> None:
        options, data = job.options, Data(job.data)
        self.tolerance = JPEG_ERROR if options["codec"] == "jpeg" else 0.0
        self._server = EmbeddedServer(Path(job.folder) / "server")
        segments = job.capacity // SEGMENT_STEPS
        # the server keeps more than the reader draws from, so that what is drawn is still there when it is read
        capacity_bytes = int(SERVER_SHARE * segments * segment_bytes(data, options["codec"]))
        self._job = replace(job, options={**options, "url": self._server.start(), "capacity_bytes": capacity_bytes})
        self._settings = replay_settings(self._job)
        _fill(self._job, data, segments)
        self._reader = ReplayReader(
            self._settings,
            schema_of(data),
            ReaderSettings(
                capacity={BUFFER: segments * (SEGMENT_STEPS + 1)},
                gamma=0.99,
                n_step=1,
                fields=("side", "wrist"),
                image_memory_bytes=0 if options["images"] == "server" else MIRROR_BYTES,
                image_folder=Path(job.folder) if options["images"] == "file" else None,
            ),
        )
        self._reader.start()
        self._await_transitions(segments * SEGMENT_STEPS)
        self._rng, self._size = np.random.default_rng(0), job.batch
        self._latest: Batch | None = None
        depth = options["prefetch"]
        self._prefetcher = Prefetcher(self._draw, depth=depth, threads=options["threads"]) if depth else None
        self._writers = Writers(self._job, connect)

    def batch(self) -> Arrays:
        if self._prefetcher is not None:
            return as_arrays(self._prefetcher.next(BATCH_TIMEOUT_S))
        self._latest = self._draw(self._latest)
        return as_arrays(self._latest)

    def write(self, rate: float) -> None:
        self._writers.write(rate)

    def written(self) -> int:
        return totals(self._settings)[BUFFER]

    def writer_pids(self) -> list[int]:
        return self._writers.pids()

    def close(self) -> None:
        self._writers.close()
        if self._prefetcher is not None:
            self._prefetcher.close()
        self._reader.close()
        self._server.stop()

    def _draw(self, old: Batch | None) -> Batch:
        return self._reader.sample(self._rng, {BUFFER: self._size}, out=old)

    def _await_transitions(self, count: int) -> None:
        give_up = time.monotonic() + FILL_TIMEOUT_S
        while (ready := self._reader.counts()[BUFFER]) < count:
            if time.monotonic() > give_up:
                raise Unreachable(f"the reader has {ready} of {count} transitions after {FILL_TIMEOUT_S:g} s")
            time.sleep(0.05)


def connect(job: Job, index: int) -> Put:
    """A writer that encodes each segment, as an actor does."""
    writer = _writer(job, f"writer{index}")

    def put(steps: dict[str, Any], number: int) -> int:
        writer.add(_pack(steps, number), [BUFFER])
        return SEGMENT_STEPS

    return put


def connect_encoded(job: Job, index: int) -> Put:
    """A writer of segments that are encoded before, as fast as the server takes them."""
    data, writer = Data(job.data), _writer(job, f"writer{index}")
    encoded = [writer.encode(_pack(data.segment(number), number)) for number in range(len(data))]

    def put(steps: dict[str, Any], number: int) -> int:
        del steps
        while writer.unsent() > MOST_UNSENT:
            time.sleep(0.001)
        writer.add_encoded(encoded[number % len(encoded)], [BUFFER])
        return SEGMENT_STEPS

    return put


def replay_settings(job: Job) -> ReplaySettings:
    return ReplaySettings(
        urls=(job.options["url"],),
        prefix="bench",
        capacity_bytes=job.options["capacity_bytes"],
        spool_bytes=SPOOL_BYTES,
    )


def schema_of(data: Data) -> Schema:
    return Schema(side_px=data.side.shape[-2], wrist_px=data.wrist.shape[-2])


def segment_bytes(data: Data, codec: str) -> int:
    """Returns the mean size of a segment on the server, in bytes."""
    schema = schema_of(data)
    segments = [_pack(data.segment(number), number) for number in range(len(data))]
    blobs = [encode_segment(each, schema, actor="a", incarnation="i", seq=0, codec=codec) for each in segments]
    return sum(map(len, blobs)) // len(blobs)


def as_arrays(batch: Batch) -> Arrays:
    """The images without their window of one, and the numbers."""
    images = {name: _single(getattr(batch, name)) for name in ("side", "wrist", "next_side", "next_wrist")}
    numbers = {name: getattr(batch, name) for name in ("proprio", "next_proprio", "action")}
    return images | numbers


def _single(images: U8 | None) -> U8:
    assert images is not None, "the reader was asked for images"
    return images[:, 0]


def _writer(job: Job, actor: str) -> ReplayWriter:
    spool = Path(job.folder) / "spools" / actor
    schema = schema_of(Data(job.data))
    return ReplayWriter(replay_settings(job), schema, actor=actor, spool=spool, codec=job.options["codec"])


def _pack(steps: dict[str, Any], number: int) -> Segment:
    """A segment, an episode of its own, of the benchmark's arrays."""
    return Segment(
        task="benchmark",
        scene="images",
        instruction="Put the cube on the disc.",
        configuration=Configuration(region="A"),
        episode=str(number),
        first_step=0,
        outcome=Outcome.SUCCESS,
        source=Source.TWIN,
        policy_versions=(1, 1),
        backbone_id="",
        observation=Observation(side=steps["side"], wrist=steps["wrist"], proprio=steps["proprio"]),
        action=steps["action"],
        reward=np.zeros(SEGMENT_STEPS, np.float32),
        human=np.zeros(SEGMENT_STEPS, np.bool_),
    )


def _fill(job: Job, data: Data, segments: int) -> None:
    with _writer(job, "fill") as writer:
        for number in range(segments):
            writer.add(_pack(data.segment(number), number), [BUFFER])
        if left := writer.flush(FILL_TIMEOUT_S):
            raise Unreachable(f"{left} segments could not be sent in {FILL_TIMEOUT_S:g} s")


if __name__ == "__main__":
    serve(TwinRL)
