"""This module reads the cameras of an arm: a side and a wrist image, square, of the schema's size.

    LabCameras   the stand-in's cameras
    UsbCameras     two OpenCV cameras, each read by a thread that keeps the newest image

An image that is too old stops the arm: a frozen camera looks like a world in which nothing moves.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from actors.lab import LabClient
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
    """Age of an image beyond which the arm is stopped."""
    first_frame_timeout_s: float = 5.0


class UsbCamera:
    """Reads one camera in a thread."""

    def __init__(self, settings: UsbCameraSettings, px: int) -> None:
        import cv2

        self._settings, self._px, self._cv2 = settings, px, cv2
        self._capture: Any = cv2.VideoCapture(int(settings.device) if settings.device.isdigit() else settings.device)
        if not self._capture.isOpened():
            raise InputError(f"camera {settings.device!r} cannot be opened: check the cable and the device number")
        self._newest: tuple[float, Any] | None = None
        self._arrived = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_reading, name=f"camera {settings.device}", daemon=True)
        self._thread.start()

    def read(self) -> U8:
        """Returns the newest image (px, px, 3) RGB. Raises ArmStopped when it is too old."""
        settings = self._settings
        self._arrived.wait(settings.first_frame_timeout_s)
        if self._newest is None:
            raise ArmStopped(
                f"camera {settings.device}: no image (deadline {settings.first_frame_timeout_s:g} s): check the cable"
            )
        taken_at, image = self._newest
        if (age_s := time.monotonic() - taken_at) > settings.max_age_s:
            raise ArmStopped(
                f"camera {settings.device}: the newest image is {age_s:.2f} s old (limit {settings.max_age_s:g} s): "
                "check the cable"
            )
        square = self._square(image)
        small = self._cv2.resize(square, (self._px, self._px), interpolation=self._cv2.INTER_AREA)
        return np.asarray(self._cv2.cvtColor(small, self._cv2.COLOR_BGR2RGB), np.uint8)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(1.0)
        self._capture.release()

    def _keep_reading(self) -> None:
        while not self._closing.is_set():
            is_new, image = self._capture.read()
            if not is_new:
                self._closing.wait(0.05)
                continue
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
    """Reads two cameras on this computer."""

    def __init__(self, side: UsbCameraSettings, wrist: UsbCameraSettings, schema: Schema) -> None:
        self._side, self._wrist = UsbCamera(side, schema.side_px), UsbCamera(wrist, schema.wrist_px)

    def read(self) -> tuple[U8, U8]:
        return self._side.read(), self._wrist.read()

    def close(self) -> None:
        self._side.close()
        self._wrist.close()
