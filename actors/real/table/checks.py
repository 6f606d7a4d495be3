"""This module judges images of an arm's cameras: is it a new one, does it show anything, is it this camera's?

    every image of a camera ──► Freshness ──► new / repeated / blank
    side and wrist image ─────► Views ──────► each like its own reference? ──► swapped, or one camera twice

A sensor has noise, so two images of it are never equal to the bit; a camera that hangs, or a driver that hands out old
buffers, gives images that were there before. The references are two small images that a person has looked at.
"""

import zlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protos.errors import ArmStopped, InputError
from protos.schema import F64, U8

REMEMBERED = 32
"""Images among which a repeated one is recognised: drivers rotate a few buffers."""
DARK_MEAN, DARK_SPREAD, FLAT_SPREAD = 16.0, 6.0, 1.0
"""Brightness (0 to 255) and its standard deviation: below both of the first an image is black, below the last blank."""
GRID = 16
"""Images are compared as grey squares of so many pixels a side."""
SAME = 0.98
"""Correlation above which the two cameras are taken for one."""
MARGIN = 0.1
"""Least amount by which the images must be more like their own references than like each other's."""


class Freshness:
    """Tells news from what a broken camera repeats."""

    def __init__(self) -> None:
        self._seen: deque[int] = deque(maxlen=REMEMBERED)

    def fault(self, image: U8) -> str:
        """Returns what is wrong with the newest image (height, width, 3), with its number; empty when it is news."""
        sample = image[::4, ::4]
        mean, spread = float(sample.mean()), float(sample.mean(axis=2).std())
        shown = f"brightness {mean:.1f} of 255, spread {spread:.1f}"
        mark = zlib.crc32(sample.tobytes())
        is_old = mark in self._seen
        self._seen.append(mark)
        if mean < DARK_MEAN and spread < DARK_SPREAD:
            return f"the image is black ({shown}): check lens cap, light, exposure"
        if spread < FLAT_SPREAD:
            return f"the image is blank ({shown}): check exposure and cable"
        if is_old:
            return "it repeats images to the bit, which no sensor does: unplug it and plug it in again"
        return ""


@dataclass(frozen=True)
class Views:
    """The images (px, px, 3) that side and wrist camera showed when a person said that they are right."""

    side: U8
    wrist: U8

    @classmethod
    def load(cls, folder: Path) -> "Views":
        """Reads side.png and wrist.png. Raises InputError with a word about how they are made."""
        import cv2

        side, wrist = (cv2.imread(str(folder / f"{name}.png")) for name in ("side", "wrist"))
        if side is None or wrist is None:
            raise InputError(
                f"{folder}: no side.png and wrist.png to tell the cameras apart; start once without --arm, look at "
                "both images and confirm them"
            )
        return cls(*(np.asarray(image[:, :, ::-1], np.uint8) for image in (side, wrist)))

    def save(self, folder: Path) -> None:
        """Writes side.png and wrist.png."""
        import cv2

        folder.mkdir(parents=True, exist_ok=True)
        for name, image in (("side", self.side), ("wrist", self.wrist)):
            if not cv2.imwrite(str(folder / f"{name}.png"), image[:, :, ::-1]):
                raise InputError(f"{folder / name}.png cannot be written")

    def check(self, side: U8, wrist: U8) -> None:
        """Raises ArmStopped when both cameras show the same or each shows what the other should."""
        if (same := correlation(side, wrist)) > SAME:
            raise ArmStopped(
                f"side and wrist camera show the same (correlation {same:.2f}): one device is opened twice; "
                "name another in the settings"
            )
        own = correlation(side, self.side) + correlation(wrist, self.wrist)
        crossed = correlation(side, self.wrist) + correlation(wrist, self.side)
        if own < crossed + MARGIN:
            raise ArmStopped(
                f"side and wrist camera look swapped: correlation with their own references {own / 2:.2f}, "
                f"with each other's {crossed / 2:.2f}; exchange the devices in the settings, or confirm new references "
                "by a start without --arm"
            )


def correlation(first: U8, second: U8) -> float:
    """Returns how alike two images are, −1 to 1, whatever their brightness and contrast."""
    one, other = _thumbnail(first), _thumbnail(second)
    return float((one * other).mean())


def _thumbnail(image: U8) -> F64:
    """Returns a grey square (GRID, GRID) of mean 0 and variance 1."""
    import cv2

    grey = cv2.resize(image.mean(axis=2), (GRID, GRID), interpolation=cv2.INTER_AREA)
    return np.asarray((grey - grey.mean()) / max(float(grey.std()), 1e-6), np.float64)
