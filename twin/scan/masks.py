"""What a photo must not be trusted about: people, the moving arm. One mask per photo, black where to ignore.

The convention is that of COLMAP and nerfstudio: a picture of the photo's size, black (0) = ignore, anything else = use,
in a folder of its own, named after the photo: `masks/07.png` or `masks/07.jpg.png` for `07.jpg`. A photo without a
mask is used whole. Masked pixels give no features, no seeds, no training loss, and do not count in the held-out PSNR.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from protos.errors import SceneError

FOLDER = "masks"


@dataclass(frozen=True, kw_only=True)
class Masks:
    """A folder of masks that exists."""

    folder: Path

    @staticmethod
    def find(source: Path, given: Path | None) -> "Masks | None":
        """The folder given, or the one beside the photos. Raises `SceneError` when it does not fit the source."""
        if given is None:
            beside = source / FOLDER
            return Masks(folder=beside) if source.is_dir() and beside.is_dir() else None
        if not source.is_dir():
            raise SceneError(
                f"--frames.masks {given}: masks go with photos; export the frames of {source} as JPEG first"
            )
        if not given.is_dir():
            raise SceneError(
                f"--frames.masks {given}: no such folder; give one with a mask per photo, e.g. 07.png for 07.jpg"
            )
        return Masks(folder=given)

    def write(self, names: Sequence[str], size: tuple[int, int], small: tuple[int, int], folder: Path) -> Path:
        """The photos' masks, shrunk from `size` to `small` (height, width), as `NAME.png` in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        found = {name: path for name in names if (path := self._path(name)) is not None}
        if not found:
            raise SceneError(
                f"{self.folder} holds no mask of any photo; name it like the photo: {Path(names[0]).stem}.png"
            )
        for name, path in found.items():
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            if mask is None:
                raise SceneError(f"{path} cannot be read as a picture; remove it or export it again as PNG")
            if mask.shape != size:
                raise SceneError(
                    f"{path} has {mask.shape[1]} x {mask.shape[0]} px, its photo {name} {size[1]} x {size[0]}; "
                    "a mask must have the size of its photo"
                )
            # A working pixel counts only if all the pixels that it was shrunk from do.
            share = cv2.resize((mask > 0).astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(folder / f"{name}.png"), np.where(share > 0.999, 255, 0).astype(np.uint8))
        return folder

    def _path(self, name: str) -> Path | None:
        choices = (self.folder / f"{Path(name).stem}.png", self.folder / f"{name}.png")
        return next((path for path in choices if path.is_file()), None)
