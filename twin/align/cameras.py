"""The cameras of a capture, as the scan's report.json has them, and pictures freed of the lens's distortion."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from protos.errors import SceneError
from protos.schema import F64
from twin.camera import Camera

FILE = "report.json"
LARGEST = 1e5
"""Bound on every number of a lens [px]."""


@dataclass(frozen=True, kw_only=True)
class CaptureCameras:
    """Poses and the one lens of a capture."""

    cameras: dict[str, Camera]
    """By file name of the photo, in the scene's frame; pinhole."""
    distortion: tuple[float, float, float, float]
    """k1, k2, p1, p2 of the photos."""

    def undistorted(self, picture: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """A picture (H, W) of the photo's shape, as the pinhole camera would have taken it."""
        if not any(self.distortion):
            return picture
        height, width = picture.shape[:2]
        K = self.cameras[name].resized(width, height).intrinsics
        K[:2, 2] -= 0.5  # OpenCV counts from the middle of the first pixel
        return np.asarray(cv2.undistort(picture, K, np.array(self.distortion)))


def read_cameras(folder: Path) -> CaptureCameras:
    """The cameras of a scene folder. Raises `SceneError` in one line."""
    path = folder / FILE
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror}); `twinrl scan` writes it") from error
    except ValueError as error:
        raise SceneError(f"{path}: not valid JSON: {error}") from error
    try:
        lens = report["lens"]
        numbers = {name: _number(lens[name]) for name in ("fx", "fy", "cx", "cy")}
        width, height = (int(_number(lens[name])) for name in ("width", "height"))
        k1, k2, p1, p2 = (_number(value) for value in lens["distortion"])
        cameras = {
            str(name): Camera(base_from_camera=_pose(pose), width=width, height=height, **numbers)
            for name, pose in report["cameras"].items()
        }
    except KeyError as error:
        raise SceneError(f"{path}: no entry {error.args[0]!r}; scan again to write it") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise SceneError(f"{path}: {error}") from error
    return CaptureCameras(cameras=cameras, distortion=(k1, k2, p1, p2))


def _number(value: Any) -> float:
    number = float(value)
    if not abs(number) < LARGEST:
        raise ValueError(f"lens value {value}: at most {LARGEST:g}")
    return number


def _pose(rows: Any) -> F64:
    pose = np.array(rows, float)
    if pose.shape != (4, 4) or not np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-4):
        raise ValueError(f"a camera pose of shape {pose.shape} that is not a rotation and a translation")
    return pose
