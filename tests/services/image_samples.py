"""This module puts episodes with recognisable images into slots, without writers and readers."""

import contextlib
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from replay_samples import cut, make_segment

from protos.codec import PREFIX_BYTES, decode_head, encode_segment, pack_prefix, read_prefix
from protos.episode import Segment
from protos.schema import Observation, Schema
from services.replay import Keys, ReplaySettings, connect
from services.replay.read.fetching import Places
from services.replay.read.images import ImageStore, View
from services.replay.read.log import StoredSegment
from services.replay.read.wire import SlotReader

SCHEMA = Schema(side_px=48, wrist_px=32)
ROW_BYTES = (48**2 + 32**2) * 3
KEYS = Keys("twinrl", "twin")
JPEG_ERROR = 8.0
"""Mean, of images like those here; that between two of them is about 80."""


def make_episode(rng: np.random.Generator, steps: int) -> Segment:
    """Smooth images with a little noise, none like another."""

    def images(px: int) -> np.ndarray:
        coarse = rng.integers(20, 236, (steps + 1, px // 16, px // 16, 3))
        return (coarse.repeat(16, axis=1).repeat(16, axis=2) + rng.integers(0, 4, (steps + 1, px, px, 3))).astype(
            np.uint8
        )

    whole = make_segment(rng, steps=steps, schema=SCHEMA, embedding_dim=0)
    seen = Observation(side=images(48), wrist=images(32), proprio=whole.observation.proprio)
    return replace(whole, observation=seen)


def encode(segment: Segment, codec: str, seq: int = 0) -> bytes:
    return encode_segment(segment, SCHEMA, actor="twin/0", incarnation="life", seq=seq, codec=codec)


def stored_of(blob: bytes, slot: int) -> StoredSegment:
    header, numbers = decode_head(blob, SCHEMA)
    prefix = read_prefix(blob)
    images = memoryview(blob)[prefix.head :]
    return StoredSegment(slot=slot, prefix=prefix, header=header, numbers=numbers, images=images)


def head_of(segment: StoredSegment) -> StoredSegment:
    """The segment as it is when only the head was fetched."""
    return replace(segment, images=None)


def damaged(blob: bytes, *, at: int, length: int) -> bytes:
    """The blob with zeros at an offset of its frames, under checksums that say it is right."""
    frames = blob[read_prefix(blob).head :]
    return with_frames(blob, frames[:at] + bytes(length) + frames[at + length :])


def with_frames(blob: bytes, frames: bytes) -> bytes:
    """The blob with other frames, under checksums that say it is right."""
    prefix = read_prefix(blob)
    numbers = PREFIX_BYTES + prefix.header
    header, packed = blob[PREFIX_BYTES:numbers], blob[numbers : prefix.head]
    return pack_prefix(header, packed, frames=len(frames), frames_crc=zlib.crc32(frames)) + header + packed + frames


@dataclass(kw_only=True)
class Shard:
    """Puts episodes into the slots of one server."""

    url: str
    head: int = 0

    def __post_init__(self) -> None:
        self.client = connect(ReplaySettings(urls=(self.url,)))
        self.client.execute_command("FLUSHALL")

    def put(self, blob: bytes, slot: int | None = None) -> StoredSegment:
        """A blob into the next slot, or into one that has been used."""
        if slot is None:
            self.head += 1
            slot = self.head
        self.client.execute_command("SET", f"{KEYS.slots}{slot}", blob)
        return stored_of(blob, slot)

    def put_episode(self, whole: Segment, codec: str, sizes: Sequence[int] = ()) -> list[StoredSegment]:
        segments = cut(whole, iter(sizes) if sizes else None)
        return [self.put(encode(segment, codec, seq)) for seq, segment in enumerate(segments)]

    def forget(self, slot: int) -> None:
        self.client.execute_command("UNLINK", f"{KEYS.slots}{slot}")


@dataclass(kw_only=True)
class Sink:
    """A store of one buffer with the true image of every row."""

    store: ImageStore
    capacity: int
    head: int = 0
    truth: dict[int, Observation] = field(default_factory=dict)

    def add(self, segments: Sequence[StoredSegment], whole: Segment, shard: int = 0) -> np.ndarray:
        """The rows that the episode got."""
        staged = self.store.stage(segments, shard=shard)
        count = min(whole.steps + 1, self.capacity)
        rows = (self.head + np.arange(count)) % self.capacity
        self.head = int(rows[-1] + 1) % self.capacity
        self.store.add(rows, staged)
        for k, row in enumerate(rows.tolist()):
            self.truth[row] = whole.observation.rows([whole.steps + 1 - count + k])
        return rows

    def take(self, *windows: np.ndarray) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
        """Takes the images of each array of rows (n, W); returns which are there, and the images."""
        places = [self.store.locate(rows) for rows in windows]
        return self.take_places(*places)

    def take_places(self, *places: Places) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
        outs = [self.empty(*each.shape) for each in places]
        there = self.store.take(*[View(places=each, out=out) for each, out in zip(places, outs, strict=True)])
        return there, outs

    def empty(self, n: int, width: int) -> dict[str, np.ndarray]:
        px = {"side": SCHEMA.side_px, "wrist": SCHEMA.wrist_px}
        return {name: np.zeros((n, width, px[name], px[name], 3), np.uint8) for name in self.store.cameras}

    def assert_true(self, rows: np.ndarray, out: dict[str, np.ndarray], codec: str) -> None:
        """Every image of (n, W) is that of its row."""
        for camera, images in out.items():
            truth = np.stack([getattr(self.truth[row], camera)[0] for row in rows.ravel().tolist()])
            error = np.abs(images.reshape(truth.shape).astype(int) - truth).mean(axis=(1, 2, 3))
            assert error.max() <= (JPEG_ERROR if codec == "jpeg" else 0), (camera, rows.ravel()[error.argmax()])


def make_sink(
    *shards: Shard, capacity: int, memory_rows: int = 0, cameras=("side", "wrist"), urls=(), folder=None, **options
) -> Sink:
    """`urls`: where the store finds the shards, if not at their own address."""
    settings = ReplaySettings(urls=tuple(urls) or tuple(shard.url for shard in shards), **options)
    store = ImageStore(
        SCHEMA,
        cameras=cameras,
        capacity=capacity,
        memory_bytes=memory_rows * ROW_BYTES,
        readers=[SlotReader(settings, k, KEYS) for k in range(settings.shards)],
        folder=folder,
    )
    return Sink(store=store, capacity=capacity)


@contextlib.contextmanager
def sink_maker() -> Iterator[Callable[..., Sink]]:
    """`make_sink`, whose stores are closed in the end."""
    with contextlib.ExitStack() as stack:

        def make(*shards: Shard, **options) -> Sink:
            sink = make_sink(*shards, **options)
            stack.callback(sink.store.close)
            return sink

        yield make


def fill(sink: Sink, shard: Shard, rng: np.random.Generator, codec: str, lengths: list[int]) -> list[np.ndarray]:
    """Episodes of these lengths, cut at random; the rows of each."""
    rows = []
    for steps in lengths:
        whole = make_episode(rng, steps)
        sizes = itertools.chain(rng.integers(1, 17, 3).tolist(), itertools.repeat(16))
        rows.append(sink.add(shard.put_episode(whole, codec, list(itertools.islice(sizes, 20))), whole))
    return rows
