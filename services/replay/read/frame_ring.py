"""The newest observations of a buffer, decoded, in memory that is allocated once.

The numbers of the observations are handed out first and their places overwritten after that, by whoever decodes, so
what has been handed out is what must no longer be read:

            ┌── oldest                   newest ──┐
    … 37 38 │ 39 40 41 42 43 44 45 46 47 48 49 50 │ 51 …       number n lies at n modulo the ring's rows
"""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from protos.schema import U8, Bools, Schema
from services.replay.read.frame_table import Camera, image_bytes, pixels


class FrameRing:
    """Thread-safe."""

    def __init__(self, schema: Schema, *, cameras: Sequence[Camera], rows: int) -> None:
        self.rows = rows
        self.bytes = rows * sum(image_bytes(schema, camera) for camera in cameras)
        self._images: dict[Camera, U8] = {
            camera: np.empty((rows, pixels(schema, camera), pixels(schema, camera), 3), np.uint8) for camera in cameras
        }
        self.taken = 0
        """Observations copied so far."""
        self._next = 0
        self._mutex = threading.Lock()

    def reserve(self, count: int) -> int:
        """The number of the first of `count` new observations; fill their places before anybody asks for them."""
        with self._mutex:
            first = self._next
            self._next += count
            return first

    def place(self, camera: Camera, number: int) -> U8:
        """Where the picture of an observation belongs, (px, px, 3)."""
        return self._images[camera][number % self.rows]

    def holds(self, numbers: NDArray[np.int64]) -> Bools:
        """Which of the observations are still here."""
        return numbers >= self._next - self.rows

    def take(self, numbers: NDArray[np.int64], out: Mapping[Camera, U8]) -> Bools:
        """Copies the pictures of numbers (m,) to arrays (m, px, px, 3); (m,) False, with any contents, where not here.

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
