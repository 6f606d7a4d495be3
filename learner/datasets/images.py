"""This module decodes the images of foreign data and resizes them to the schema.

Pillow belongs to the extra "data" and is imported where it is used: a learner without data files does not need it.
"""

import io
from collections.abc import Iterable

import numpy as np

from protos.errors import CorruptData
from protos.schema import U8

FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 4096 * 4096
"""Largest image that is decoded; a larger one is refused by its header."""


def resize(image: U8, px: int) -> U8:
    """Resizes (H, W, 3) to (px, px, 3) by Lanczos with antialiasing, as Octo does; no crop, the aspect may change."""
    if image.shape[:2] == (px, px):
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((px, px), Image.Resampling.LANCZOS))


def decode_image(data: bytes) -> U8:
    """Decodes a JPEG or PNG file in memory to (H, W, 3). Raises CorruptData."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise CorruptData(f"an image of {file.width} x {file.height} pixels; at most {MAX_PIXELS} are read")
            return np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptData(f"an image that is neither JPEG nor PNG, or damaged: {error}") from error


def encode_png(image: U8) -> bytes:
    """Encodes (H, W, 3) as a PNG file, lossless."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def black(rows: int, px: int) -> U8:
    """Returns the images (rows, px, px, 3) of a camera that a dataset lacks."""
    return np.zeros((rows, px, px, 3), np.uint8)


def resize_all(images: Iterable[U8], px: int) -> U8:
    """Resizes images of any size, one at a time, to (n, px, px, 3)."""
    rows = [resize(image, px) for image in images]
    return np.stack(rows) if rows else black(0, px)
