"""Pictures of foreign data brought to the schema's size.

Pillow comes with the extra "data", so it is imported where it is used: a learner without data files needs none.
"""

import io
from collections.abc import Iterable

import numpy as np

from protos.errors import CorruptData
from protos.schema import U8

FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 4096 * 4096
"""A picture that claims more is refused before it is decoded."""


def resize(picture: U8, px: int) -> U8:
    """(H, W, 3) to (px, px, 3) by Lanczos with antialiasing, as Octo resizes; no crop, the aspect may change."""
    if picture.shape[:2] == (px, px):
        return picture
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((px, px), Image.Resampling.LANCZOS))


def decode_picture(data: bytes | memoryview) -> U8:
    """(H, W, 3) of a JPEG or PNG file in memory. Raises CorruptData."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise CorruptData(f"a picture of {file.width} x {file.height} pixels; at most {MAX_PIXELS} are read")
            return np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptData(f"a picture that is neither JPEG nor PNG, or damaged: {error}") from error


def encode_png(picture: U8) -> bytes:
    """A PNG file, lossless."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def black(rows: int, px: int) -> U8:
    """What a camera that was not there gives."""
    return np.zeros((rows, px, px, 3), np.uint8)


def sized(pictures: Iterable[U8], px: int) -> U8:
    """(n, px, px, 3) of pictures of any size, taken one at a time."""
    rows = [resize(picture, px) for picture in pictures]
    return np.stack(rows) if rows else black(0, px)
