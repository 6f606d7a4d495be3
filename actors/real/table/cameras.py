"""This module reads the cameras of an arm: a side and a wrist image, square, of the schema's size.

    LabCameras   the stand-in's cameras
    UsbCameras   two OpenCV cameras, each read by a thread that keeps the newest good image

An image that is too old stops the arm: a frozen camera looks like a world in which nothing moves. An image that was
there before, or that shows nothing, counts as none. The stand-in's images are exempt: they are drawn when asked for,
without noise in some domains, so a world that stands still repeats itself to the bit.
"""

import threading
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from actors.lab import LabClient
from actors.real.table.checks import Freshness, Views
from protos.errors import ArmStopped, InputError, SchemaMismatch
from protos.schema import U8, Schema


class Cameras(Protocol):
    """Both cameras of one arm."""

    def read(self) -> tuple[U8, U8]:
        """Returns the side (side_px, side_px, 3) and wrist (wrist_px, wrist_px, 3) image, RGB."""
        ...

    def close(self) -> None: ...


class LabCameras:
    """Reads the stand-in's cameras through the lab protocol."""

    def __init__(self, lab: LabClient, schema: Schema) -> None:
        self._lab, self._schema = lab, schema

    def read(self) -> tuple[U8, U8]:
        side, wrist, _ = self._lab.images()
        if (side.shape[0], wrist.shape[0]) != (self._schema.side_px, self._schema.wrist_px):
            raise SchemaMismatch(
                f"the stand-in's cameras have {side.shape[0]} and {wrist.shape[0]} pixels, "
                f"the schema {self._schema.side_px} and {self._schema.wrist_px}"
            )
        return side, wrist

    def close(self) -> None:
        """Closes nothing: the client belongs to its creator."""


@dataclass(frozen=True, kw_only=True)
class UsbCameraSettings:
    """One camera that OpenCV can open."""

    device: str
    """Number of the device, or a path or URL."""
    crop: tuple[int, int, int] | None = None
    """Left, top and size of the square that is kept; the largest centred square by default."""
    max_age_s: float = 0.2
    """Age of an image beyond which the arm is stopped; images that repeat or show nothing do not count. A compression
    that removes the noise of a still scene (H.264) repeats images and needs more."""
    first_frame_timeout_s: float = 5.0


class UsbCamera:
    """Opens, reads and releases one camera in a thread: OpenCV may wait long for each, and a person may not want to."""

    def __init__(self, settings: UsbCameraSettings, px: int) -> None:
        """Raises InputError for a camera that cannot be opened within the time that the first image may take."""
        import cv2

        self._settings, self._px, self._cv2 = settings, px, cv2
        self._newest: tuple[float, Any] | None = None
        self._fault = ""
        """What is wrong with the images that arrive now; empty when they are good or none arrives."""
        self._arrived = threading.Event()
        self._tried, self._closing = threading.Event(), threading.Event()
        self._is_open = False
        self._thread = threading.Thread(target=self._run, name=f"camera {settings.device}", daemon=True)
        self._thread.start()
        self._tried.wait(settings.first_frame_timeout_s)
        if not self._is_open:
            self._closing.set()
            raise InputError(f"camera {settings.device!r} cannot be opened: check the cable and the device number")

    def read(self) -> U8:
        """Returns the newest good image (px, px, 3) RGB. Raises ArmStopped when it is too old, with the reason."""
        settings = self._settings
        self._arrived.wait(settings.first_frame_timeout_s)
        fault = self._fault or "no image: check the cable"
        if self._newest is None:
            raise ArmStopped(f"camera {settings.device}, first {settings.first_frame_timeout_s:g} s: {fault}")
        taken_at, image = self._newest
        if (age_s := time.monotonic() - taken_at) > settings.max_age_s:
            raise ArmStopped(
                f"camera {settings.device}: the newest image is {age_s:.2f} s old "
                f"(limit {settings.max_age_s:g} s): {fault}"
            )
        square = self._square(image)
        small = self._cv2.resize(square, (self._px, self._px), interpolation=self._cv2.INTER_AREA)
        return np.asarray(self._cv2.cvtColor(small, self._cv2.COLOR_BGR2RGB), np.uint8)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        device = self._settings.device
        capture = self._cv2.VideoCapture(int(device) if device.isdigit() else device)
        self._is_open = capture.isOpened()
        self._tried.set()
        try:
            self._keep_reading(capture)
        finally:
            capture.release()

    def _keep_reading(self, capture: Any) -> None:
        freshness = Freshness()
        while self._is_open and not self._closing.is_set():
            is_new, image = capture.read()
            if not is_new:
                self._fault = ""
                self._closing.wait(0.05)
                continue
            self._fault = freshness.fault(image)
            if not self._fault:
                self._newest = (time.monotonic(), image)
                self._arrived.set()

    def _square(self, image: U8) -> U8:
        height, width = image.shape[:2]
        size = min(height, width)
        left, top, size = self._settings.crop or ((width - size) // 2, (height - size) // 2, size)
        if left < 0 or top < 0 or size < 1 or left + size > width or top + size > height:
            raise InputError(f"crop {self._settings.crop}: outside the camera's {width} x {height} pixels")
        return image[top : top + size, left : left + size]


class UsbCameras:
    """Reads two cameras on this computer, and knows them by their references."""

    def __init__(self, side: UsbCameraSettings, wrist: UsbCameraSettings, schema: Schema, references: Path) -> None:
        """Opens both. Raises InputError where there are no references yet; see `look`."""
        self._views = Views.load(references)
        with ExitStack() as opened:
            self._side = opened.enter_context(closing(UsbCamera(side, schema.side_px)))
            self._wrist = opened.enter_context(closing(UsbCamera(wrist, schema.wrist_px)))
            self._opened = opened.pop_all()

    def read(self) -> tuple[U8, U8]:
        side, wrist = self._side.read(), self._wrist.read()
        self._views.check(side, wrist)
        return side, wrist

    def close(self) -> None:
        self._opened.close()


def look(side: UsbCameraSettings, wrist: UsbCameraSettings, schema: Schema) -> Views:
    """Returns what both cameras show now, for a person to confirm and to `save` as references."""
    with closing(UsbCamera(side, schema.side_px)) as first, closing(UsbCamera(wrist, schema.wrist_px)) as second:
        views = Views(first.read(), second.read())
    views.check(views.side, views.wrist)
    return views
