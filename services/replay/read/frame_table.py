"""Where every observation of a buffer lies: in memory by its number, on its server by slot and offset.

    row of the caller ─┬─► number: counted up as observations arrive; neighbours of an episode have neighbouring ones
                       ├─► segment: its slot, its checksums, where its frames begin, the sizes of its images
                       └─► offset: which of the segment's observations it is

An observation that two segments share counts as the first of the later one. A segment takes about 160 bytes, and is
forgotten with the last of its rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from protos.errors import CorruptData
from protos.images import CODECS
from protos.schema import SEGMENT_STEPS, Schema
from services.replay.read.episodes import Piece

Camera = Literal["side", "wrist"]
CAMERAS: tuple[Camera, ...] = ("side", "wrist")
Records = NDArray[Any]  # of SEGMENT
Rows = NDArray[np.intp]

SEGMENT = np.dtype(
    [
        ("shard", np.uint16),
        ("slot", np.int64),
        ("checksums", np.uint64),  # of the blob, from its prefix
        ("codec", np.uint8),  # index in CODECS
        ("steps", np.uint8),
        ("start", np.uint32),  # of the frames in the blob
        ("stop", np.uint32),
        ("ends", np.uint32, (2 * (SEGMENT_STEPS + 1),)),  # jpeg: of each image, counted from `start`
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the pictures of rows (n, W) were when they were looked up."""

    number: NDArray[np.int64]  # (n, W)
    segment: Records  # (n, W)
    offset: NDArray[np.uint8]  # (n, W)

    def pick(self, index: Rows) -> "Places":
        """Some of the flattened places."""
        return Places(
            number=self.number.ravel()[index], segment=self.segment.ravel()[index], offset=self.offset.ravel()[index]
        )

    @classmethod
    def join(cls, parts: "Sequence[Places]") -> "Places":
        """Flat places one after the other."""
        return cls(
            number=np.concatenate([part.number for part in parts]),
            segment=np.concatenate([part.segment for part in parts]),
            offset=np.concatenate([part.offset for part in parts]),
        )


def describe(piece: Piece, schema: Schema, *, shard: int, slot: int) -> Records:
    """One entry of the table, (), known from the head. Raises CorruptData where sizes of images do not add up."""
    prefix, frames = piece.prefix, piece.prefix.frames
    images = list(piece.header.image_bytes)
    rows = piece.header.steps + 1
    record = np.zeros((), SEGMENT)
    record["shard"], record["slot"], record["checksums"] = shard, slot, prefix.checksums
    record["codec"], record["steps"] = CODECS.index(piece.header.codec), piece.header.steps
    record["start"], record["stop"] = prefix.head, prefix.total
    if piece.header.codec == "jpeg":
        if len(images) != 2 * rows or sum(images) != frames:
            raise CorruptData(f"{len(images)} images of {sum(images)} bytes, there are {2 * rows} in {frames} bytes")
        record["ends"][: 2 * rows] = np.cumsum(images)
    elif piece.header.codec == "raw" and frames != rows * sum(image_bytes(schema, camera) for camera in CAMERAS):
        raise CorruptData(f"{frames} bytes of raw frames are not {rows} observations")
    return record


def image_bytes(schema: Schema, camera: Camera) -> int:
    """Of one decoded picture."""
    return 3 * pixels(schema, camera) ** 2


def pixels(schema: Schema, camera: Camera) -> int:
    """Height and width of a camera's pictures."""
    return schema.side_px if camera == "side" else schema.wrist_px


def image_ends(record: Records, schema: Schema, camera: Camera, offset: int, count: int) -> list[int]:
    """Where in the frames `count` images of a camera lie, from `offset` on: the first one's start, then each one's end.

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


class FrameTable:
    """Places by row. Not thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._number = np.full(capacity, -1, np.int64)
        self._entry = np.full(capacity, -1, np.int64)
        self._offset = np.zeros(capacity, np.uint8)
        self._segments = np.zeros(0, SEGMENT)
        self._uses = np.zeros(0, np.int64)
        self._free: list[int] = []

    def add(self, rows: Rows, places: Places) -> None:
        """Gives the last len(rows) of an episode's places, (T + 1,), to `rows`, which no other observation has then."""
        self._release(self._entry[rows])
        latest = places.pick(np.arange(len(places.number) - len(rows), len(places.number)))
        begins = np.flatnonzero(np.concatenate([[True], latest.offset[1:] == 0]))
        counts = np.diff([*begins, len(rows)])
        entries = self._allocate(len(begins))
        self._segments[entries], self._uses[entries] = latest.segment[begins], counts
        self._number[rows], self._offset[rows] = latest.number, latest.offset
        self._entry[rows] = np.repeat(entries, counts)

    def locate(self, rows: Rows) -> Places:
        """The places of rows that have been added."""
        number = self._number[rows]
        assert (number >= 0).all(), "a row without an observation"
        return Places(number=number, segment=self._segments[self._entry[rows]], offset=self._offset[rows])

    def __len__(self) -> int:
        """Segments that some row refers to."""
        return len(self._segments) - len(self._free)

    def _release(self, entries: NDArray[np.int64]) -> None:
        used, counts = np.unique(entries[entries >= 0], return_counts=True)
        self._uses[used] -= counts
        self._free += used[self._uses[used] == 0].tolist()

    def _allocate(self, count: int) -> NDArray[np.int64]:
        if len(self._free) < count:
            old = len(self._segments)
            new = max(old, count, 64)
            self._segments = np.concatenate([self._segments, np.zeros(new, SEGMENT)])
            self._uses = np.concatenate([self._uses, np.zeros(new, np.int64)])
            self._free += range(old, old + new)
        return np.array([self._free.pop() for _ in range(count)], np.int64)


def places_of(records: Sequence[Records], first_number: int) -> Places:
    """Of the T + 1 observations of an episode, (T + 1,), by its segments in order."""
    steps = [int(record["steps"]) for record in records]
    offsets = [np.arange(count + (k == len(steps) - 1), dtype=np.uint8) for k, count in enumerate(steps)]
    return Places(
        number=first_number + np.arange(sum(steps) + 1, dtype=np.int64),
        segment=np.repeat(np.array(records, SEGMENT), [len(each) for each in offsets]),
        offset=np.concatenate(offsets),
    )
