"""A folder of photos, or a video, turned into the upright pictures of one size that reconstruction needs.

photos ─► upright, at most `longest_side_px` ─────────────────┐
video ──► every n-th frame ─► sharpest of each window ─► moved? ─┴─► working folder, one file per picture
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from protos.errors import SceneError

U8 = NDArray[np.uint8]

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
FEWEST = 8
"""Photos below which a table cannot be covered from enough sides."""
_HINT = "film the table slowly from several sides (30 s), or take 20 to 60 overlapping photos"


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """How pictures are chosen."""

    longest_side_px: int = 960
    """Larger pictures are shrunk to this."""
    most: int = 60
    """At most so many frames are taken from a video."""
    moved_px: float = 6.0
    """A video frame must have moved this far (median of tracked corners, at 960 px) since the frame kept before it."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Pictures on disk, in the order they were taken."""

    folder: Path
    names: tuple[str, ...]
    width: int
    height: int
    shrink: float
    """Working pixels per pixel of the source."""
    dropped: int
    """Video frames left out because they were blurred or showed what the frame before showed."""

    def read(self, name: str) -> U8:
        """One picture (height, width, 3) RGB."""
        return _read(self.folder / name)


def collect(source: Path, folder: Path, settings: FrameSettings) -> Frames:
    """Writes the chosen pictures of `source` (a folder or a video file) into `folder`. Raises `SceneError`."""
    if not source.exists():
        raise SceneError(f"{source}: no such file or folder; give a folder of photos or a video file")
    folder.mkdir(parents=True, exist_ok=True)
    pictures, dropped = (_photos(source), 0) if source.is_dir() else _video(source, settings)
    names: list[str] = []
    size, shrink = (0, 0), 1.0
    for name, picture in pictures:
        if names and picture.shape[:2] != size:
            raise SceneError(
                f"{source / name} has {picture.shape[1]} x {picture.shape[0]} px, the photos before it "
                f"{size[1]} x {size[0]}; "
                "use one camera, one zoom and one orientation for the whole capture"
            )
        size = (picture.shape[0], picture.shape[1])
        shrink = min(1.0, settings.longest_side_px / max(size))
        names.append(name)
        _write(folder / name, picture, shrink)
    if len(names) < FEWEST:
        raise SceneError(f"{source} holds {len(names)} usable pictures; a scan needs at least {FEWEST}: {_HINT}")
    height, width = _read(folder / names[0]).shape[:2]
    return Frames(folder=folder, names=tuple(names), width=width, height=height, shrink=shrink, dropped=dropped)


def _photos(source: Path) -> Iterator[tuple[str, U8]]:
    paths = sorted(p for p in source.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES)
    if not paths:
        raise SceneError(f"{source} holds no photos ({', '.join(PHOTO_SUFFIXES)}); {_HINT}")
    return ((path.name, _read(path)) for path in paths)


def _read(path: Path) -> U8:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)  # turned upright by its EXIF orientation
    if picture is None:
        raise SceneError(f"{path} cannot be read as a picture; remove it or export it again as JPEG or PNG")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _write(path: Path, picture: U8, shrink: float) -> None:
    if shrink < 1:
        picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in {".jpg", ".jpeg"} else []
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)


def _video(source: Path, settings: FrameSettings) -> tuple[Iterator[tuple[str, U8]], int]:
    """The sharpest frame of each of `most` windows, less those that hardly moved."""
    capture = cv2.VideoCapture(str(source))
    if not capture.isOpened():
        raise SceneError(
            f"{source} cannot be read as a video ({', '.join(VIDEO_SUFFIXES)}) and is no folder of photos; "
            "export it as MP4 (H.264), or its frames as JPEG"
        )
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    window = max(1, total // settings.most)
    kept: list[U8] = []
    for picture in _sharpest(capture, window):
        if not kept or _motion(kept[-1], picture) >= settings.moved_px:
            kept.append(picture)
    capture.release()
    names = (f"{index:04d}.jpg" for index in range(len(kept)))
    return zip(names, kept, strict=False), max(0, total - len(kept))


def _sharpest(capture: cv2.VideoCapture, window: int) -> Iterator[U8]:
    """The sharpest of every `window` frames, less those much softer than most: the camera moved too fast."""
    best: list[tuple[float, U8]] = []
    while True:
        frames = []
        for _ in range(window):
            ok, picture = capture.read()
            if not ok:
                break
            frames.append((sharpness(picture), picture))
        if not frames:
            break
        best.append(max(frames, key=lambda pair: pair[0]))
    if best:
        limit = 0.4 * float(np.median([score for score, _ in best]))
        yield from (cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) for score, picture in best if score >= limit)


def sharpness(picture: U8) -> float:
    """Variance of the Laplacian, the usual focus measure; larger is sharper."""
    return float(cv2.Laplacian(_small_grey(picture), cv2.CV_64F).var())


def _motion(before: U8, after: U8) -> float:
    """Median displacement of tracked corners, in pixels of a picture 960 px wide."""
    first, second = _small_grey(before), _small_grey(after)
    corners = cv2.goodFeaturesToTrack(first, 200, 0.01, 8)
    if corners is None:
        return float("inf")
    moved, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None)
    steps = np.linalg.norm((moved - corners)[found.ravel() == 1], axis=-1)
    return float(np.median(steps)) * 960 / first.shape[1] if len(steps) else float("inf")


def _small_grey(picture: U8) -> U8:
    shrink = min(1.0, 480 / picture.shape[1])
    return cv2.resize(
        cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA
    )
