"""The pictures of one buffer's observations: as many as memory allows, the others from their servers when drawn.

    stage(pieces) ─┬─ frames ─► decoded into the ring of the newest observations (mirror)
                   └─ heads ──► where each observation lies on its server ──► add(rows)
    locate(rows) ──► places ──► take ─┬─ copied from the ring
                                      └─ read from the server, and checked       (direct)

Locking: `add` and `locate` are quick and belong under the lock that guards the caller's index, so that a row means the
same observation to both; `stage` and `take` are slow, need no lock and may run in several threads at once.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from protos.errors import InputError
from protos.schema import U8, Bools, Schema
from services.replay.read.episodes import Piece
from services.replay.read.frame_codec import Job, check_segment, decode_segment
from services.replay.read.frame_direct import DirectReader
from services.replay.read.frame_plan import Wanted
from services.replay.read.frame_ring import FrameRing
from services.replay.read.frame_table import (
    CAMERAS,
    Camera,
    FrameTable,
    Places,
    Records,
    Rows,
    describe,
    image_bytes,
    pixels,
    places_of,
)
from services.replay.read.wire import SlotReader

__all__ = ["Camera", "FrameStore", "Places", "Staged", "View"]

SPARE = 8
"""One in so many observations more than the capacity, so that decoding a new one does not cost the oldest its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Pictures wanted and where they go."""

    places: Places  # (n, W)
    out: Mapping[Camera, U8]  # (n, W, px, px, 3) of each camera of the store, C-contiguous


@dataclass(frozen=True, kw_only=True, slots=True)
class Staged:
    """An episode that is ready to be added."""

    places: Places  # (T + 1,)


class FrameStore:
    """Rows are the caller's: any numbers below `capacity`; a row is overwritten when it is added again."""

    def __init__(
        self,
        schema: Schema,
        *,
        cameras: Sequence[Camera],
        capacity: int,
        memory_bytes: int,
        fetchers: Sequence[SlotReader],
        decode_threads: int = 0,
    ) -> None:
        """Keeps the newest observations that fit `memory_bytes` decoded; 0: none.

        `fetchers`: one per shard; they belong to the store from now on. `decode_threads`: 0 for one per core.
        """
        if not cameras or not set(cameras) <= set(CAMERAS):
            raise InputError(f"cameras={list(cameras)}: choose from {', '.join(CAMERAS)}")
        if memory_bytes < 0:
            raise InputError(f"memory_bytes={memory_bytes}: 0 or more")
        self.schema, self.cameras = schema, tuple(cameras)
        row_bytes = sum(image_bytes(schema, camera) for camera in cameras)
        rows = min(memory_bytes // row_bytes, capacity + capacity // SPARE)
        self._ring = FrameRing(schema, cameras=self.cameras, rows=rows)
        self._table = FrameTable(capacity)
        self._decoders = ThreadPoolExecutor(decode_threads or os.cpu_count() or 1, "replay-frames")
        self._direct = DirectReader(schema, fetchers, self._decoders)
        self._staging = threading.Lock()

    @property
    def mirrors(self) -> bool:
        """Whether it keeps pictures in memory, so that it is to be given frames."""
        return self._ring.bytes > 0

    def stage(self, pieces: Sequence[Piece], *, shard: int, slots: Sequence[int]) -> Staged:
        """Decodes an episode of T + 1 observations whose segments lie in `slots`. Slow; any thread, no lock.

        A store that keeps nothing in memory needs the pieces' heads alone, and finds out what is wrong with their
        frames when they are drawn.

        Raises CorruptData. Then, and when what is staged is never added, all that has happened is that some older
        observations are no longer in memory.
        """
        records = [describe(piece, self.schema, shard=shard, slot=n) for piece, n in zip(pieces, slots, strict=True)]
        steps = [piece.header.steps for piece in pieces]
        begins = np.cumsum([0, *steps[:-1]]).tolist()
        with self._staging:  # two episodes at once could be decoded into the same part of a small ring
            places = places_of(records, self._ring.reserve(sum(steps) + 1))
            if not self.mirrors:
                return Staged(places=places)
            jobs = [
                self._decoders.submit(self._stage_segment, piece, record, places.number[begin:end])
                for piece, record, begin, end in zip(pieces, records, begins, [*begins[1:], None], strict=True)
            ]
            wait(jobs)
        for job in jobs:
            job.result()
        return Staged(places=places)

    def add(self, rows: Rows, staged: Staged) -> None:
        """Gives the episode's last len(rows) observations these rows, in order. Quick; under the caller's lock."""
        self._table.add(rows, staged.places)

    def locate(self, rows: Rows) -> Places:
        """Where the pictures of rows (n, W) are now. Quick; under the caller's lock, together with drawing the rows."""
        return self._table.locate(rows)

    def take(self, *views: View) -> Bools:
        """Fills the views' arrays; (n,) False where a picture of any view is no longer on its server: draw again.

        Give all views of a batch together: neighbours, as an observation and the next, are then read with one request.
        The arrays' contents are undefined where it is False. Raises Unreachable when a shard does not answer that has
        some of the pictures; it is among `unreadable` then. Any thread, no lock.
        """
        there = [self._copy(view) for view in views]
        absent = [np.flatnonzero(~each.ravel()) for each in there]
        if any(map(len, absent)):
            found = self._direct.fill(self._wanted(views, absent))
            ends = np.cumsum([len(index) for index in absent])
            for each, index, part in zip(there, absent, np.split(found, ends[:-1]), strict=True):
                each.ravel()[index] = part
        return np.logical_and.reduce([each.all(axis=1) for each in there])

    def unreadable(self) -> frozenset[int]:
        """Shards that did not answer a moment ago, so that drawing their older rows is of no use yet."""
        return self._direct.unreadable()

    def stats(self) -> dict[str, float]:
        """Observations delivered from memory and from servers, and those gone, since the start; what is held now."""
        counts = {name: self._direct.counts[name] for name in ("direct", "gone", "corrupt")}
        held = {"segments": len(self._table), "memory_bytes": self._ring.bytes}
        return {name: float(value) for name, value in ({"mirrored": self._ring.taken} | counts | held).items()}

    def close(self) -> None:
        """Closes the connections and ends the threads."""
        self._direct.close()
        self._decoders.shutdown()

    def _stage_segment(self, piece: Piece, record: Records, numbers: Rows) -> None:
        """Checks all of a segment's images and decodes those of its observations that have a place in memory."""
        frames = piece.frames
        assert frames is not None, "a segment for the mirror without its frames"
        check_segment(frames, record, self.schema, self.cameras)
        kept = np.flatnonzero(self._ring.holds(numbers)).tolist()
        jobs = [Job(camera, k, self._ring.place(camera, int(numbers[k]))) for camera in self.cameras for k in kept]
        if jobs:
            decode_segment(frames, record, self.schema, jobs)

    def _copy(self, view: View) -> Bools:
        """What memory has; (n, W)."""
        shape = view.places.number.shape
        flat = {camera: _flat(view.out[camera], pixels(self.schema, camera), shape) for camera in self.cameras}
        return self._ring.take(view.places.number.ravel(), flat).reshape(shape)

    def _wanted(self, views: Sequence[View], absent: Sequence[Rows]) -> Wanted:
        places = [view.places.pick(index) for view, index in zip(views, absent, strict=True)]
        out: dict[Camera, list[U8]] = {camera: [] for camera in self.cameras}
        for view, index in zip(views, absent, strict=True):
            for camera, images in out.items():
                flat = view.out[camera].reshape(-1, *view.out[camera].shape[2:])
                images += [flat[k] for k in index.tolist()]
        return Wanted(places=Places.join(places), out=out)


def _flat(out: U8, px: int, shape: tuple[int, ...]) -> U8:
    """As (n · W, px, px, 3), a view."""
    assert out.shape == (*shape, px, px, 3), f"pictures {out.shape} for rows {shape} of {px} px"
    assert out.flags.c_contiguous, "pictures that are not in order in memory"
    return out.reshape(-1, px, px, 3)
