"""Direct mode: the pictures of a batch from the slots that hold them.

    wanted ──► each once, in order ──► runs of neighbours ──► requests: a run's pictures per camera, the checksums
                                                                │
    raw    straight into the arrays of the batch  ◄─────────────┤
    jpeg   into a block, decoded in other threads while the next answers arrive
    zstd   the same, with all frames of the segment

A slot is taken for what it was only if its blob still has the checksums that were known. They are read after the
pictures: a slot is emptied when the ring has turned, and a server that lost its latest data fills it with another
segment, but it never gets its old contents back.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from itertools import pairwise

import numpy as np

from protos.codec import CHECKSUMS
from protos.errors import CorruptData
from protos.images import CODECS
from protos.schema import U8, Schema
from services.replay.read.frame_codec import Job, decode_jpeg, decode_segment
from services.replay.read.frame_plan import Run, Slot, Wanted
from services.replay.read.frame_table import Camera, image_ends
from services.replay.read.wire import Request, SlotReader

log = logging.getLogger(__name__)

CHUNK_BYTES = 16 << 20
"""Encoded pictures on their way; as much again may wait for a decoder. A larger segment is a chunk of its own."""


class Fetch:
    """Reads wanted pictures from one shard. Belongs to one thread."""

    def __init__(self, schema: Schema, wanted: Wanted, executor: Executor) -> None:
        self._schema, self._wanted, self._executor = schema, wanted, executor
        self.missing: dict[int, int] = {}
        """Indices of pictures that are no longer there -> the slot where they were looked for."""
        self.corrupt = 0
        """Segments with images that do not decode, though they are what was written."""

    def read(self, fetcher: SlotReader, slots: Sequence[Slot]) -> None:
        """Fills the arrays. Raises Unreachable, and does not write to them any more when it does."""
        waiting: deque[list[tuple[Slot, Future[None]]]] = deque()
        try:
            for chunk in self._chunks(slots):
                decoding: list[tuple[Slot, Future[None]]] = []
                waiting.append(decoding)
                self._read_chunk(fetcher, chunk, decoding)
                if len(waiting) > 1:
                    self._finish(waiting.popleft())
        finally:
            for decoding in waiting:
                self._finish(decoding)

    def _chunks(self, slots: Sequence[Slot]) -> Iterator[list[Slot]]:
        chunk, size = [], 0
        for slot in slots:
            self._prepare(slot)
            chunk.append(slot)
            size += slot.block_bytes
            if size > CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _read_chunk(
        self, fetcher: SlotReader, chunk: Sequence[Slot], decoding: list[tuple[Slot, Future[None]]]
    ) -> None:
        owners = [slot for slot in chunk for _ in slot.requests]

        def done(i: int, ok: bool) -> None:
            slot = owners[i]
            slot.whole &= ok
            if i + 1 < len(owners) and owners[i + 1] is slot:
                return
            if not slot.valid():
                self._miss(slot)
            elif slot.decode is not None:
                decoding.append((slot, self._executor.submit(slot.decode)))

        fetcher.read([request for slot in chunk for request in slot.requests], done)

    def _finish(self, decoding: Sequence[tuple[Slot, Future[None]]]) -> None:
        for slot, future in decoding:
            try:
                future.result()
            except CorruptData as error:
                log.warning("slot %d of shard %d: %s", slot.number, slot.shard, error)
                self.corrupt += 1
                self._miss(slot)

    def _miss(self, slot: Slot) -> None:
        self.missing |= dict.fromkeys(slot.picks, slot.number)

    def _prepare(self, slot: Slot) -> None:
        codec = CODECS[slot.record["codec"]]
        if codec == "zstd":
            self._request_all(slot)
        else:
            for run in slot.runs:
                for camera in self._wanted.out:
                    self._request_run(slot, run, camera, raw=codec == "raw")
        slot.requests.append(Request(slot.number, CHECKSUMS.start, CHECKSUMS.stop, [memoryview(slot.checksums)]))

    def _request_all(self, slot: Slot) -> None:
        """All frames of the segment as one block, as none can be decoded alone."""
        start, stop = int(slot.record["start"]), int(slot.record["stop"])
        block = self._block(slot, stop - start)
        jobs = [
            Job(camera, run.offset + k, out[pick])
            for camera, out in self._wanted.out.items()
            for run in slot.runs
            for k, pick in enumerate(run.picks)
        ]
        slot.requests.append(Request(slot.number, start, stop, [block]))
        slot.decode = partial(decode_segment, block, slot.record, self._schema, jobs)

    def _request_run(self, slot: Slot, run: Run, camera: Camera, *, raw: bool) -> None:
        ends = image_ends(slot.record, self._schema, camera, run.offset, len(run.picks))
        images = [self._wanted.out[camera][pick] for pick in run.picks]
        start = int(slot.record["start"])
        if raw:
            parts = [image.data.cast("B") for image in images]
        else:
            parts = [self._block(slot, ends[-1] - ends[0])]
            files = [parts[0][begin - ends[0] : end - ends[0]] for begin, end in pairwise(ends)]
            slot.decode = partial(_decode, slot.decode, list(zip(files, images, strict=True)))
        slot.requests.append(Request(slot.number, start + ends[0], start + ends[-1], parts))

    def _block(self, slot: Slot, size: int) -> memoryview:
        slot.block_bytes += size
        return np.empty(size, np.uint8).data


def _decode(before: Callable[[], None] | None, files: Sequence[tuple[memoryview, U8]]) -> None:
    if before is not None:
        before()
    for file, image in files:
        decode_jpeg(file, image)
