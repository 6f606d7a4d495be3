"""This module turns a folder of photos, or a video, into the upright photos of one size that reconstruction needs.

photos ─► upright ───────────────────────────────┐
video ──► sharpest frame of each window ─────────┴─► shrunk ─► blurred? seen before? ─┬─► working folder
masks (optional, black = ignore) ─► of the same size? ────────────────────────────────┘
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from protos.errors import SceneError
from protos.pointers import refuse_pointer
from protos.schema import F32, U8, Bools

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
FEWEST = 8
"""Number of photos below which a table cannot be covered from enough sides."""
_HINT = "film the table slowly from several sides (30 s), or take 20 to 60 overlapping photos"
_ALIKE = 1.5
"""Mean difference (of 255) of two thumbnails that show the same."""


FOLDER = "masks"


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """Settings of the choice of photos."""

    longest_side_px: int = 960
    """Longest side to which larger photos are shrunk."""
    most: int = 60
    """Largest number of frames that are taken from a video."""
    moved_px: float = 6.0
    """Least motion (median of tracked corners, at 960 px) since the photo kept before."""
    sharp: float = 0.35
    """Least sharpness (variance of the Laplacian), as a share of the median; 0 keeps all."""
    masks: Path | None = None
    """Folder of masks, black where a photo must be ignored; default: `masks` in the folder of photos, if there."""


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A photo that was left out, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The chosen photos on disk, in the order they were taken."""

    folder: Path
    names: tuple[str, ...]
    width: int
    height: int
    shrink: float
    """Working pixels per pixel of the source."""
    dropped: tuple[Dropped, ...]
    thinned: int
    """Number of frames of a video that were not the sharpest of their window."""
    masks: Path | None
    """Folder of the masks at working size, `NAME.png` for the photo NAME, as COLMAP wants them."""

    def read(self, name: str) -> U8:
        """Reads one photo (height, width, 3) RGB."""
        return _read(self.folder / name)

    def valid(self, name: str) -> Bools:
        """Returns which pixels (height, width) of a photo no mask covers."""
        path = self.masks / f"{name}.png" if self.masks is not None else None
        if path is None or not path.exists():
            return np.ones((self.height, self.width), bool)
        return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) > 0


def collect(source: Path, folder: Path, settings: FrameSettings) -> Frames:
    """Writes the chosen photos of `source` (a folder or a video file) into `folder`. Raises `SceneError`."""
    if not source.exists():
        refuse_pointer(source)
        raise SceneError(f"{source}: no such file or folder; give a folder of photos or a video file")
    folder.mkdir(parents=True, exist_ok=True)
    masks = _masks_of(source, settings.masks)
    images, thinned = _photos(source) if source.is_dir() else _video(source, settings.most)
    small: dict[str, U8] = {}
    size, shrink = (0, 0), 1.0
    for name, image in images:
        if small and image.shape[:2] != size:
            raise SceneError(
                f"{source / name} has {image.shape[1]} x {image.shape[0]} px, the photos before it "
                f"{size[1]} x {size[0]}; "
                "use one camera, one zoom and one orientation for the whole capture"
            )
        size = (image.shape[0], image.shape[1])
        shrink = min(1.0, settings.longest_side_px / max(size))
        small[name] = _small_grey(image)
        _write(folder / name, image, shrink)
    dropped = _cull(small, settings)
    for one in dropped:
        (folder / one.name).unlink()
    names = tuple(name for name in small if name not in {one.name for one in dropped})
    if len(names) < FEWEST:
        less = f" after leaving out {len(dropped)} as blurred or repeated" if dropped else ""
        raise SceneError(f"{source} holds {len(names)} usable photos{less}; a scan needs at least {FEWEST}: {_HINT}")
    height, width = _read(folder / names[0]).shape[:2]
    return Frames(
        folder=folder,
        names=names,
        width=width,
        height=height,
        shrink=shrink,
        dropped=tuple(dropped),
        thinned=thinned,
        masks=_write_masks(masks, names, size, (height, width), folder.with_name("masks")) if masks else None,
    )


def photo_paths(source: Path) -> list[Path]:
    """Returns the photos of a folder by name, which is the order they were taken in. Raises `SceneError` for none."""
    paths = sorted(p for p in source.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES)
    if not paths:
        raise SceneError(f"{source} holds no photos ({', '.join(PHOTO_SUFFIXES)}); {_HINT}")
    return paths


def _photos(source: Path) -> tuple[Iterator[tuple[str, U8]], int]:
    return ((path.name, _read(path)) for path in photo_paths(source)), 0


def _read(path: Path) -> U8:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)  # turned upright by its EXIF orientation
    if image is None:
        refuse_pointer(path)
        raise SceneError(f"{path} cannot be read as an image; remove it or export it again as JPEG or PNG")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _write(path: Path, image: U8, shrink: float) -> None:
    if shrink < 1:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in {".jpg", ".jpeg"} else []
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)


def _video(source: Path, most: int) -> tuple[Iterator[tuple[str, U8]], int]:
    """Yields the sharpest frame of each of `most` windows by name; returns the number of the others, too."""
    capture = cv2.VideoCapture(str(source))
    if not capture.isOpened():
        refuse_pointer(source)
        raise SceneError(
            f"{source} cannot be read as a video ({', '.join(VIDEO_SUFFIXES)}) and is no folder of photos; "
            "export it as MP4 (H.264), or its frames as JPEG"
        )
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    window = max(1, total // most)
    return _sharpest(capture, window), max(0, total - -(-total // window))


def _sharpest(capture: cv2.VideoCapture, window: int) -> Iterator[tuple[str, U8]]:
    first = 0
    while True:
        frames: list[tuple[float, int, U8]] = []
        while len(frames) < window:
            ok, image = capture.read()
            if not ok:
                break
            frames.append((sharpness(_small_grey(image)), first + len(frames), image))
        if not frames:
            break
        _, number, image = max(frames, key=lambda frame: frame[0])
        yield f"frame-{number:05d}.jpg", cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        first += len(frames)
    capture.release()


def _cull(small: dict[str, U8], settings: FrameSettings) -> list[Dropped]:
    """Returns the photos that are much softer than most, or show what one kept before them shows."""
    scores = {name: sharpness(grey) for name, grey in small.items()}
    middle = float(np.median(list(scores.values())))
    dropped, kept, thumbnails = [], "", dict[str, F32]()
    for name, grey in small.items():
        if scores[name] < settings.sharp * middle:
            share = 100 * scores[name] / middle
            dropped.append(Dropped(name=name, reason=f"blurred ({share:.0f} % of the usual sharpness)"))
            continue
        thumbnail = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
        same = next((other for other, seen in thumbnails.items() if np.abs(seen - thumbnail).mean() < _ALIKE), None)
        if same is None and kept and _motion(small[kept], grey) < settings.moved_px:
            same = kept
        if same is not None:
            dropped.append(Dropped(name=name, reason=f"shows what {same} shows"))
            continue
        kept, thumbnails[name] = name, thumbnail
    return dropped


def sharpness(grey: U8) -> float:
    """Returns the variance of the Laplacian, the usual focus measure; larger is sharper."""
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _motion(first: U8, second: U8) -> float:
    """Returns the median displacement of tracked corners, in pixels of a photo 960 px wide."""
    corners = cv2.goodFeaturesToTrack(first, 200, 0.01, 8)
    if corners is None:
        return float("inf")
    moved, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None)
    steps = np.linalg.norm((moved - corners)[found.ravel() == 1], axis=-1)
    return float(np.median(steps)) * 960 / first.shape[1] if len(steps) else float("inf")


def _small_grey(image: U8) -> U8:
    shrink = min(1.0, 480 / image.shape[1])
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)


def _masks_of(source: Path, given: Path | None) -> Path | None:
    """Returns the folder of masks given, or the one beside the photos. Raises `SceneError` when it does not fit.

    The convention is that of COLMAP and nerfstudio: a mask has the photo's size, black (0) = ignore, all else = use,
    and its name: `masks/07.png` or `masks/07.jpg.png` for `07.jpg`. A photo without a mask is used whole. Masked pixels
    give no features, no seeds, no training loss, and do not count in the held-out PSNR.
    """
    if given is None:
        beside = source / FOLDER
        return beside if source.is_dir() and beside.is_dir() else None
    if not source.is_dir():
        raise SceneError(f"--frames.masks {given}: masks go with photos; export the frames of {source} as JPEG first")
    if not given.is_dir():
        raise SceneError(
            f"--frames.masks {given}: no such folder; give one with a mask per photo, e.g. 07.png for 07.jpg"
        )
    return given


def _write_masks(
    masks: Path, names: Sequence[str], size: tuple[int, int], small: tuple[int, int], folder: Path
) -> Path:
    """Writes the photos' masks, shrunk from `size` to `small` (height, width), as `NAME.png` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    choices = {name: (masks / f"{Path(name).stem}.png", masks / f"{name}.png") for name in names}
    found = {name: path for name, paths in choices.items() for path in paths[::-1] if path.is_file()}
    if not found:
        raise SceneError(f"{masks} holds no mask of any photo; name it like the photo: {Path(names[0]).stem}.png")
    for name, path in found.items():
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            refuse_pointer(path)
            raise SceneError(f"{path} cannot be read as an image; remove it or export it again as PNG")
        if mask.shape != size:
            raise SceneError(
                f"{path} has {mask.shape[1]} x {mask.shape[0]} px, its photo {name} {size[1]} x {size[0]}; "
                "a mask must have the size of its photo"
            )
        # A working pixel counts only if all the pixels that it was shrunk from do.
        share = cv2.resize((mask > 0).astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{name}.png"), np.where(share > 0.999, 255, 0).astype(np.uint8))
    return folder
