"""This module reads images from the slots of the servers that hold them, and decodes them where they belong.

    wanted ──► each once, in order ──► runs of neighbours ──► requests: a run's images per camera, the checksums
                                                                │
    raw    straight into the arrays of the batch  ◄─────────────┤
    jpeg   into a block, decoded in other threads while the next answers arrive
    zstd   the same, with all images of the segment

Every image is read once, from all shards at the same time. A slot is taken for what it was only if its blob still has
the checksums that were known. They are read after the images: a slot is emptied when the ring has turned, and a server
that lost its latest data fills it with another segment, but it never gets its old contents back.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
import zstandard
from numpy.typing import NDArray

from protos.codec import CHECKSUMS
from protos.errors import CorruptData, Unreachable
from protos.images import CODECS, decode_images
from protos.schema import SEGMENT_STEPS, U8, Bools, Schema
from services.replay.read.log import StoredSegment
from services.replay.read.sampling import Rows
from services.replay.read.settings import CAMERAS, Camera
from services.replay.read.wire import Request, SlotReader

log = logging.getLogger(__name__)

AVOID_S = 2.0
"""Time for which a shard counts as unreadable after it did not answer."""
CHUNK_BYTES = 16 << 20
"""Encoded images on their way; as much again may wait for a decoder. A larger segment is a chunk of its own."""

Places = NDArray[Any]  # of PLACE
Record = Any  # one of them

PLACE = np.dtype(
    [
        ("number", np.int64),  # counted up as observations arrive; neighbours of an episode have neighbouring ones
        ("offset", np.uint8),  # which of the segment's observations it is
        ("shard", np.uint16),
        ("slot", np.int64),
        ("checksums", np.uint64),  # of the blob, from its prefix
        ("codec", np.uint8),  # index in CODECS
        ("steps", np.uint8),
        ("start", np.uint32),  # of the images in the blob
        ("stop", np.uint32),
        ("ends", np.uint32, (2 * (SEGMENT_STEPS + 1),)),  # jpeg: of each image, counted from `start`
    ]
)
"""The place of an observation: in memory by its number, on its server by its segment and the offset in that."""


def places_of(segments: Sequence[StoredSegment], schema: Schema, *, shard: int, first_number: int) -> Places:
    """Returns the places of the T + 1 observations of an episode, (T + 1,), by its segments in order.

    An observation that two segments share counts as the first of the later one. Raises CorruptData where sizes of
    images do not add up.
    """
    records = np.array([_describe(segment, schema, shard=shard) for segment in segments], PLACE)
    steps = [segment.header.steps for segment in segments]
    counts = [*steps[:-1], steps[-1] + 1]
    places = np.repeat(records, counts)
    places["offset"] = np.concatenate([np.arange(count) for count in counts])
    places["number"] = first_number + np.arange(sum(counts))
    return places


def _describe(segment: StoredSegment, schema: Schema, *, shard: int) -> Record:
    """Describes a segment by its head."""
    prefix, header = segment.prefix, segment.header
    total, images, rows = prefix.frames, list(header.image_bytes), header.steps + 1
    record = np.zeros((), PLACE)
    record["shard"], record["slot"], record["checksums"] = shard, segment.slot, prefix.checksums
    record["codec"], record["steps"] = CODECS.index(header.codec), header.steps
    record["start"], record["stop"] = prefix.head, prefix.total
    if header.codec == "jpeg":
        if len(images) != 2 * rows or sum(images) != total:
            raise CorruptData(f"{len(images)} images of {sum(images)} bytes, there are {2 * rows} in {total} bytes")
        record["ends"][: 2 * rows] = np.cumsum(images)
    elif header.codec == "raw" and total != rows * sum(image_bytes(schema, camera) for camera in CAMERAS):
        raise CorruptData(f"{total} bytes of raw images are not {rows} observations")
    return record


def image_bytes(schema: Schema, camera: Camera) -> int:
    """Returns the bytes of one decoded image."""
    return 3 * pixels(schema, camera) ** 2


def pixels(schema: Schema, camera: Camera) -> int:
    """Returns height and width of a camera's images."""
    return schema.side_px if camera == "side" else schema.wrist_px


def image_ends(record: Record, schema: Schema, camera: Camera, offset: int, count: int) -> list[int]:
    """Returns the start of a camera's image number `offset`, and the ends of `count` images from that one on.

    In bytes behind the blob's head.

    For "jpeg" and "raw"; the images of a "zstd" block have no place of their own.
    """
    rows = int(record["steps"]) + 1
    first = offset + rows * CAMERAS.index(camera)
    if CODECS[record["codec"]] == "jpeg":
        ends = [0, *record["ends"].tolist()]
        return ends[first : first + count + 1]
    size = image_bytes(schema, camera)
    begin = offset * size + (rows * image_bytes(schema, "side") if camera == "wrist" else 0)
    return [begin + k * size for k in range(count + 1)]


class Job(NamedTuple):
    """A job is one image of a segment and the array it belongs in."""

    camera: Camera
    offset: int
    out: U8  # (px, px, 3)


def decode_jpeg(file: memoryview, out: U8) -> None:
    """Decodes into `out`, (px, px, 3). Other threads run meanwhile. Raises CorruptData."""
    check_jpeg(file, out.shape[0])
    try:
        simplejpeg.decode_jpeg(file, colorspace="RGB", buffer=out)
    except ValueError as error:
        raise CorruptData(f"an image that does not decode: {error}") from error


def check_jpeg(file: memoryview, px: int) -> None:
    """Raises CorruptData unless the file begins like an image of px x px."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(file)
    except ValueError as error:
        raise CorruptData(f"an image that does not decode: {error}") from error
    if (height, width) != (px, px):
        raise CorruptData(f"an image of {width}x{height}, its camera has {px}x{px}")


def decode_some(images: memoryview, record: Record, schema: Schema, jobs: Iterable[Job]) -> None:
    """Decodes some of a segment's images, which are encoded in `images`, where they belong. Raises CorruptData."""
    codec = CODECS[record["codec"]]
    if codec == "jpeg":
        for camera, offset, out in jobs:
            begin, end = image_ends(record, schema, camera, offset, 1)
            decode_jpeg(images[begin:end], out)
        return
    decoded = dict(zip(CAMERAS, decode_images(images, codec, (), int(record["steps"]) + 1, schema), strict=True))
    for camera, offset, out in jobs:
        out[...] = decoded[camera][offset]


def check_images(images: memoryview, record: Record, schema: Schema, cameras: Sequence[Camera]) -> None:
    """Checks what can be checked of a segment's images without decoding them. Raises CorruptData."""
    rows = int(record["steps"]) + 1
    codec = CODECS[record["codec"]]
    if codec == "jpeg":
        for camera in cameras:
            ends = image_ends(record, schema, camera, 0, rows)
            for begin, end in pairwise(ends):
                check_jpeg(images[begin:end], pixels(schema, camera))
    elif codec == "zstd":
        _check_zstd(images, rows * sum(image_bytes(schema, camera) for camera in CAMERAS))


def _check_zstd(images: memoryview, size: int) -> None:
    try:
        promised = zstandard.get_frame_parameters(images).content_size
    except zstandard.ZstdError as error:
        raise CorruptData(f"images that do not decompress: {error}") from error
    if promised != size:
        raise CorruptData(f"images that promise {promised} bytes, the cameras give {size}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Wanted are m images per camera."""

    places: Places  # (m,)
    out: Mapping[Camera, Sequence[U8]]  # m arrays (px, px, 3)


@dataclass(kw_only=True, slots=True)
class Run:
    """A run consists of neighbouring observations of a segment."""

    offset: int
    picks: list[int]  # indices of Wanted


@dataclass(kw_only=True, slots=True)
class Slot:
    """A slot collects what is wanted of one segment, and what has come of it."""

    record: Record
    runs: list[Run] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    block_bytes: int = 0
    decode: Callable[[], None] | None = None
    checksums: bytearray = field(default_factory=lambda: bytearray(8))
    whole: bool = True

    @property
    def shard(self) -> int:
        return int(self.record["shard"])

    @property
    def number(self) -> int:
        return int(self.record["slot"])

    @property
    def picks(self) -> list[int]:
        return [pick for run in self.runs for pick in run.picks]

    def valid(self) -> bool:
        """Tells whether all answers came, from the blob that was meant."""
        return self.whole and int.from_bytes(self.checksums, "little") == int(self.record["checksums"])


def plan(places: Places, picks: Sequence[int], *, join: bool) -> list[Slot]:
    """Lists the segments to read for `picks`, which are different and in the order of their numbers.

    An observation that ends one segment and begins the next is read from the later one, or where `join` is true with
    its neighbours before it.
    """
    numbers, offsets, slots = (places[name].tolist() for name in ("number", "offset", "slot"))
    names = places[["shard", "slot", "checksums"]].tolist()
    found: dict[tuple[int, int, int], Slot] = {}  # a slot may have held several segments
    run, current, last, room = Run(offset=0, picks=[]), -1, -1, 0
    for pick in picks:
        if numbers[pick] != last + 1 or room == 0 or not (join or slots[pick] == current):
            slot = found.setdefault(names[pick], Slot(record=places[pick]))
            run = Run(offset=offsets[pick], picks=[])
            room = int(slot.record["steps"]) + 1 - run.offset
            slot.runs.append(run)
        run.picks.append(pick)
        current, last, room = slots[pick], numbers[pick], room - 1
    return list(found.values())


class Fetch:
    """A fetch reads wanted images from one shard. Belongs to one thread."""

    def __init__(self, schema: Schema, wanted: Wanted, executor: Executor) -> None:
        self._schema, self._wanted, self._executor = schema, wanted, executor
        self.missing: dict[int, int] = {}
        """Indices of images that are no longer there -> the slot where they were looked for."""
        self.corrupt = 0
        """Segments with images that do not decode, though they are what was written."""

    def read(self, reader: SlotReader, slots: Sequence[Slot]) -> None:
        """Fills the arrays. Raises Unreachable, and does not write to them any more when it does."""
        waiting: deque[list[tuple[Slot, Future[None]]]] = deque()
        try:
            for chunk in self._chunks(slots):
                decoding: list[tuple[Slot, Future[None]]] = []
                waiting.append(decoding)
                self._read_chunk(reader, chunk, decoding)
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

    def _read_chunk(self, reader: SlotReader, chunk: Sequence[Slot], decoding: list[tuple[Slot, Future[None]]]) -> None:
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

        reader.read([request for slot in chunk for request in slot.requests], done)

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
        """Asks for all images of the segment as one block, as none can be decoded alone."""
        start, stop = int(slot.record["start"]), int(slot.record["stop"])
        block = self._block(slot, stop - start)
        jobs = [
            Job(camera, run.offset + k, out[pick])
            for camera, out in self._wanted.out.items()
            for run in slot.runs
            for k, pick in enumerate(run.picks)
        ]
        slot.requests.append(Request(slot.number, start, stop, [block]))
        slot.decode = partial(decode_some, block, slot.record, self._schema, jobs)

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


class DirectReader:
    """A direct reader reads images from all shards. Thread-safe; one reading at a time."""

    def __init__(self, schema: Schema, readers: Sequence[SlotReader], decoders: Executor) -> None:
        """`readers`: one per shard; they belong to this reader from now on."""
        self.counts: Counter[str] = Counter()
        self._schema, self._readers, self._decoders = schema, list(readers), decoders
        self._threads = ThreadPoolExecutor(len(self._readers), "replay-slots")
        self._failed: dict[int, float] = {}  # shard -> when
        self._mutex = threading.Lock()

    def fill(self, wanted: Wanted) -> Bools:
        """Fills arrays; (m,) False where an image has left its server. Raises Unreachable where one does not answer."""
        _, first, where = np.unique(wanted.places["number"], return_index=True, return_inverse=True)
        with self._mutex:
            missing = self._missing(wanted, first.tolist())
        found = np.ones(len(where), np.bool_)
        found[missing] = False
        found = found[first][where]
        for out in wanted.out.values():
            _repeat(out, first[where])
        self.counts["direct"] += int(np.count_nonzero(found))
        self.counts["gone"] += int(np.count_nonzero(~found))
        return found

    def unreadable(self) -> frozenset[int]:
        """Returns the shards that did not answer a moment ago."""
        now = time.monotonic()
        return frozenset(shard for shard, when in self._failed.copy().items() if now < when + AVOID_S)

    def close(self) -> None:
        """Closes the connections, after the reading that runs."""
        with self._mutex:
            self._threads.shutdown()
            for reader in self._readers:
                reader.close()

    def _missing(self, wanted: Wanted, picks: Sequence[int]) -> list[int]:
        """Reads the picks; returns those gone both from their own segment and from the one whose end they are."""
        missing = self._read(wanted, picks, join=True)
        own = wanted.places["slot"]
        again = [pick for pick in picks if pick in missing and missing[pick] != own[pick]]
        if again:
            missing = {pick: slot for pick, slot in missing.items() if slot == own[pick]}
            missing |= self._read(wanted, again, join=False)
        return list(missing)

    def _read(self, wanted: Wanted, picks: Sequence[int], *, join: bool) -> dict[int, int]:
        """Reads each pick from its shard, all shards at once; returns picks that are not in the slot looked for."""
        by_shard: dict[int, list[Slot]] = {}
        for slot in plan(wanted.places, picks, join=join):
            by_shard.setdefault(slot.shard, []).append(slot)
        jobs = [self._threads.submit(self._read_shard, wanted, shard, slots) for shard, slots in by_shard.items()]
        wait(jobs)
        return {pick: slot for job in jobs for pick, slot in job.result().items()}

    def _read_shard(self, wanted: Wanted, shard: int, slots: Sequence[Slot]) -> dict[int, int]:
        fetch = Fetch(self._schema, wanted, self._decoders)
        try:
            fetch.read(self._readers[shard], slots)
        except Unreachable:
            self._failed[shard] = time.monotonic()
            raise
        self._failed.pop(shard, None)
        self.counts["corrupt"] += fetch.corrupt
        return fetch.missing


def _repeat(out: Sequence[U8], first: Rows) -> None:
    """Copies an image that is wanted several times from the place where it was read."""
    for k, source in enumerate(first.tolist()):
        if k != source:
            out[k][...] = out[source]
