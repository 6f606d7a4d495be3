"""This module keeps the images of one buffer's observations: as many as memory allows, the others on their servers.

    stage(segments) ─┬─ images ─► decoded into the ring of the newest observations (mirrored), in memory or in a file
                     └─ heads ──► where each observation lies on its server ──► add(rows)
    locate(rows) ──► places ──► take ─┬─ copied from the ring
                                      └─ read from the server, and checked       (direct)

Locking: `add` and `locate` are quick and belong under the lock that guards the caller's index, so that a row means the
same observation to both; `stage` and `take` are slow, need no lock and may run in several threads at once.
"""

import mmap
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protos.problems import doing
from protos.schema import U8, Bools, Schema
from services.replay.read.fetching import (
    PLACE,
    DirectReader,
    Job,
    Places,
    Record,
    Wanted,
    check_images,
    decode_some,
    image_bytes,
    pixels,
    places_of,
)
from services.replay.read.log import StoredSegment
from services.replay.read.sampling import Rows
from services.replay.read.settings import Camera
from services.replay.read.wire import SlotReader

SPARE = 8
"""One in so many observations more than the capacity, so that decoding a new one does not cost the oldest its place."""


class ImageRing:
    """A ring keeps the newest observations decoded, in memory or a file that is allocated once. Thread-safe.

    The numbers of the observations are handed out first and their places overwritten after that, by whoever decodes,
    so what has been handed out is what must no longer be read:

                ┌── oldest                   newest ──┐
        … 37 38 │ 39 40 41 42 43 44 45 46 47 48 49 50 │ 51 …       number n lies at n modulo the ring's rows
    """

    def __init__(self, schema: Schema, *, cameras: Sequence[Camera], rows: int, folder: Path | None = None) -> None:
        """Memory lies in a file of `folder` where that is given. Raises OSError when it has no room for it."""
        self.rows = rows
        self.bytes = rows * sum(image_bytes(schema, camera) for camera in cameras)
        self.memory_bytes = self.bytes if folder is None else 0
        self._images: dict[Camera, U8] = {}
        for camera in cameras:
            room = _room(rows * image_bytes(schema, camera), folder)
            self._images[camera] = room.reshape(rows, pixels(schema, camera), pixels(schema, camera), 3)
        self.taken = 0
        """Observations copied so far."""
        self._next = 0
        self._mutex = threading.Lock()

    def reserve(self, count: int) -> int:
        """Returns the number of the first of `count` new observations, whose places are to be filled next."""
        with self._mutex:
            first = self._next
            self._next += count
            return first

    def place(self, camera: Camera, number: int) -> U8:
        """Returns the place of an observation's image, (px, px, 3)."""
        return self._images[camera][number % self.rows]

    def holds(self, numbers: NDArray[np.int64]) -> Bools:
        """Tells which of the observations are still here."""
        return numbers >= self._next - self.rows

    def take(self, numbers: NDArray[np.int64], out: Mapping[Camera, U8]) -> Bools:
        """Copies the images of numbers (m,) to arrays (m, px, px, 3); (m,) False, with any contents, where not here.

        Any number of threads copy at once, without a lock. As numbers are handed out before their places are written,
        a number that is still here after the copy was not overwritten during it.
        """
        if self.holds(numbers).any():
            index = numbers % self.rows
            for camera, images in self._images.items():
                # in its default mode numpy fills a buffer first, to leave `out` alone after a wrong index
                np.take(images, index, axis=0, out=out[camera], mode="clip")
        here = self.holds(numbers)
        with self._mutex:
            self.taken += int(np.count_nonzero(here))
        return here


def _room(size: int, folder: Path | None) -> U8:
    """Returns `size` bytes of memory, or of a file without a name, which the system writes and reads as it sees fit.

    Raises OSError where the folder cannot be written or is full: later that would be a signal and the process's end.
    """
    if folder is None or size == 0:
        return np.empty(size, np.uint8)
    with doing("making room for decoded images", folder), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A view says which images are wanted and where they go."""

    places: Places  # (n, W)
    out: Mapping[Camera, U8]  # (n, W, px, px, 3) of each camera of the store, C-contiguous


class ImageStore:
    """A store keeps the images of rows, numbers below `capacity` that the caller chooses and may use again."""

    def __init__(
        self,
        schema: Schema,
        *,
        cameras: Sequence[Camera],
        capacity: int,
        memory_bytes: int,
        readers: Sequence[SlotReader],
        folder: Path | None = None,
    ) -> None:
        """Keeps the newest observations that fit `memory_bytes` decoded; 0: none. In a file of `folder`, if given.

        `readers`: one per shard; they belong to the store from now on.
        """
        self.schema, self.cameras = schema, tuple(cameras)
        row_bytes = sum(image_bytes(schema, camera) for camera in cameras)
        rows = min(memory_bytes // row_bytes, capacity + capacity // SPARE)
        self._ring = ImageRing(schema, cameras=self.cameras, rows=rows, folder=folder)
        self._places = np.zeros(capacity, PLACE)
        self._decoders = ThreadPoolExecutor(os.cpu_count() or 1, "replay-images")
        self._direct = DirectReader(schema, readers, self._decoders)
        self._staging = threading.Lock()

    @property
    def mirrors(self) -> bool:
        """True when it keeps images in memory, so that it is to be given them."""
        return self._ring.bytes > 0

    def stage(self, segments: Sequence[StoredSegment], *, shard: int) -> Places:
        """Decodes an episode of T + 1 observations; returns their places, (T + 1,). Slow; any thread, no lock.

        A store that keeps nothing in memory needs the heads alone, and finds out what is wrong with images when they
        are drawn.

        Raises CorruptData. Then, and when what is staged is never added, all that has happened is that some older
        observations are no longer in memory.
        """
        steps = [segment.header.steps for segment in segments]
        begins = np.cumsum([0, *steps[:-1]]).tolist()
        with self._staging:  # two episodes at once could be decoded into the same part of a small ring
            first = self._ring.reserve(sum(steps) + 1)
            places = places_of(segments, self.schema, shard=shard, first_number=first)
            if not self.mirrors:
                return places
            jobs = [
                self._decoders.submit(self._stage_segment, segment, places[begin:end])
                for segment, begin, end in zip(segments, begins, [*begins[1:], None], strict=True)
            ]
            wait(jobs)
        for job in jobs:
            job.result()
        return places

    def add(self, rows: Rows, staged: Places) -> None:
        """Gives the episode's last len(rows) observations these rows, in order. Quick; under the caller's lock."""
        self._places[rows] = staged[len(staged) - len(rows) :]

    def locate(self, rows: Rows) -> Places:
        """Returns the places that the images of rows (n, W) have now. Quick; under the lock that draws rows."""
        places = self._places[rows]
        assert (places["steps"] > 0).all(), "a row without an observation"
        return places

    def take(self, *views: View) -> Bools:
        """Fills the views' arrays; (n,) False where an image of any view is no longer on its server: draw again.

        Give all views of a batch together: neighbours, as an observation and the next, are then read with one request.
        The arrays' contents are undefined where it is False. Raises Unreachable when a shard does not answer that has
        some of the images; it is among `unreadable` then. Any thread, no lock.
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
        """Returns the shards that did not answer a moment ago, so that drawing their older rows is of no use yet."""
        return self._direct.unreadable()

    def stats(self) -> dict[str, float]:
        """Returns counts of observations delivered from memory and from servers, and gone; and what is held now."""
        counts = {name: self._direct.counts[name] for name in ("direct", "gone", "corrupt")}
        held = {"memory_bytes": self._ring.memory_bytes + self._places.nbytes}
        return {name: float(value) for name, value in ({"mirrored": self._ring.taken} | counts | held).items()}

    def close(self) -> None:
        """Closes the connections and ends the threads."""
        self._direct.close()
        self._decoders.shutdown()

    def _stage_segment(self, segment: StoredSegment, places: Places) -> None:
        """Checks all of a segment's images and decodes those of its observations that have a place in memory."""
        images = segment.images
        assert images is not None, "a segment for memory without its images"
        record: Record = places[0]
        numbers = places["number"]
        check_images(images, record, self.schema, self.cameras)
        kept = np.flatnonzero(self._ring.holds(numbers)).tolist()
        jobs = [Job(camera, k, self._ring.place(camera, int(numbers[k]))) for camera in self.cameras for k in kept]
        if jobs:
            decode_some(images, record, self.schema, jobs)

    def _copy(self, view: View) -> Bools:
        """Copies what memory has; (n, W)."""
        shape = view.places.shape
        flat = {camera: _flat(view.out[camera], pixels(self.schema, camera), shape) for camera in self.cameras}
        return self._ring.take(view.places["number"].ravel(), flat).reshape(shape)

    def _wanted(self, views: Sequence[View], absent: Sequence[Rows]) -> Wanted:
        places = np.concatenate([view.places.ravel()[index] for view, index in zip(views, absent, strict=True)])
        out: dict[Camera, list[U8]] = {camera: [] for camera in self.cameras}
        for view, index in zip(views, absent, strict=True):
            for camera, images in out.items():
                flat = view.out[camera].reshape(-1, *view.out[camera].shape[2:])
                images += [flat[k] for k in index.tolist()]
        return Wanted(places=places, out=out)


def _flat(out: U8, px: int, shape: tuple[int, ...]) -> U8:
    """Returns the array as (n · W, px, px, 3), a view."""
    assert out.shape == (*shape, px, px, 3), f"images {out.shape} for rows {shape} of {px} px"
    assert out.flags.c_contiguous, "images that are not in order in memory"
    return out.reshape(-1, px, px, 3)
