"""This module reads the views of a capture: cameras from the scan's report.json, and masks of robot or object.

folder of masks ─► one per view, lens undone, cleaned ─┐
points (splats, sparse points) ─► seen in which views ─┴─► share of them in which the point is on the mask
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from protos.errors import SceneError
from protos.pointers import refuse_pointer
from protos.schema import F32, F64, Bools
from twin.camera import Camera

FILE = "report.json"
LARGEST = 1e5
"""Bound on every number of a lens [px]."""


@dataclass(frozen=True, kw_only=True)
class CaptureCameras:
    """The poses and the one lens of a capture."""

    cameras: dict[str, Camera]
    """Pinhole cameras in the scene's frame, by file name of the photo."""
    distortion: tuple[float, float, float, float]
    """Coefficients k1, k2, p1, p2 of the photos."""

    def undistorted(self, image: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Returns an image (H, W) of the photo's shape, as the pinhole camera would have taken it."""
        if not any(self.distortion):
            return image
        height, width = image.shape[:2]
        K = self.cameras[name].resized(width, height).intrinsics
        K[:2, 2] -= 0.5  # OpenCV counts from the middle of the first pixel
        return np.asarray(cv2.undistort(image, K, np.array(self.distortion)))


def read_cameras(folder: Path) -> CaptureCameras:
    """Reads the cameras of a scene folder. Raises `SceneError` in one line."""
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


SUFFIXES = (".png", ".jpg", ".jpeg")
LARGEST_PX = 16384
SPECK = 0.05
"""Size, as a share of the mask, below which patches and holes are mistakes of the segmentation."""


def read_masks(folder: Path, capture: CaptureCameras, longest_px: int) -> dict[str, tuple[Camera, F32]]:
    """Reads the masks of the views that have one, 0..1, at most `longest_px` wide and high, with cameras of that size.

    A mask is named like its photo (07.png or 07.jpg.png for 07.jpg) and of its shape; views whose mask is black are
    left out. The lens's distortion is taken out. Raises `SceneError` naming the file.
    """
    if not folder.is_dir():
        raise SceneError(f"{folder}: no such folder; give one with a mask per photo, white where robot or object is")
    found = {}
    for name, camera in capture.cameras.items():
        path = _mask_file(folder, name)
        if path is None:
            continue
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            refuse_pointer(path)
        if mask is None or max(mask.shape) > LARGEST_PX:
            raise SceneError(f"{path}: cannot be read as an image of at most {LARGEST_PX} x {LARGEST_PX} px")
        height, width = mask.shape
        if abs(width * camera.height - height * camera.width) > max(width, height) * 2:
            raise SceneError(
                f"{path} has {width} x {height} px, its photo {camera.width} x {camera.height}; masks keep the shape"
            )
        if (mask > 127).any():
            found[name] = _at_most(longest_px, camera, cleaned(capture.undistorted(mask, name) > 127))
    if not found:
        names = ", ".join(list(capture.cameras)[:3])
        raise SceneError(f"{folder}: no mask is white anywhere in any of {len(capture.cameras)} views ({names}, …)")
    return found


def cleaned(mask: Bools) -> Bools:
    """Removes specks and fills small holes."""
    area = int(np.count_nonzero(mask))
    return ~_without_specks(~_without_specks(mask, area), area)


def on_masks(points: F64, views: Sequence[tuple[Camera, F32]]) -> tuple[F64, NDArray[np.intp]]:
    """Returns the share of the views that see a point (n,) in which it lies on the mask, and their number (n,).

    A point is seen when it falls into the image; what stands before it plays no part, so a point behind the robot
    counts as on it in some views, but not in most.
    """
    hits, seen = np.zeros(len(points)), np.zeros(len(points), np.intp)
    for camera, mask in views:
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v, z = camera.project(points).T
        inside = (z > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        seen += inside
        rows, columns = v[inside].astype(int), u[inside].astype(int)
        hits[inside] += mask[rows, columns]
    return hits / np.maximum(seen, 1), seen


def _mask_file(folder: Path, name: str) -> Path | None:
    choices = [folder / f"{stem}{suffix}" for suffix in SUFFIXES for stem in (Path(name).stem, name)]
    return next((path for path in choices if path.is_file()), None)


def _at_most(longest_px: int, camera: Camera, mask: Bools) -> tuple[Camera, F32]:
    height, width = mask.shape
    shrink = min(1.0, longest_px / max(width, height))
    size = round(width * shrink), round(height * shrink)
    return camera.resized(*size), cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _without_specks(mask: Bools, area: int) -> Bools:
    """Removes patches smaller than `SPECK` of `area`."""
    patches, count = ndimage.label(mask)
    sizes = np.bincount(patches.ravel(), minlength=count + 1)
    keep = sizes >= SPECK * area
    keep[0] = False
    return np.asarray(keep[patches])
