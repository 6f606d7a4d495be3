"""This module encodes the camera images of a segment and decodes them.

    jpeg  one JPEG per image, quality 95, 4:2:0
    zstd  all images as one lossless block; the smallest for noise-free twin images, whose background repeats
    raw   plain RGB

Order: T + 1 side images, then T + 1 wrist images. Sizes are compared with what the cameras must give before anything
is allocated; `CorruptData` names the first one that is wrong.
"""

from collections.abc import Sequence

import numpy as np
import simplejpeg
import zstandard

from protos.errors import CorruptData
from protos.schema import U8, Observation, Schema

CODECS = ("jpeg", "zstd", "raw")
JPEG_QUALITY = 95

Bytes = bytes | memoryview


def encode_images(observation: Observation, codec: str) -> tuple[bytes, list[int]]:
    """Returns the bytes and, for "jpeg", the size of each image in bytes."""
    cameras = [np.ascontiguousarray(observation.side), np.ascontiguousarray(observation.wrist)]
    if codec == "jpeg":
        files = [
            simplejpeg.encode_jpeg(image, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420")
            for images in cameras
            for image in images
        ]
        return b"".join(files), [len(file) for file in files]
    raw = b"".join(images.tobytes() for images in cameras)
    return (zstandard.ZstdCompressor(level=1).compress(raw) if codec == "zstd" else raw), []


def decode_images(data: Bytes, codec: str, sizes: Sequence[int], rows: int, schema: Schema) -> tuple[U8, U8]:
    """Returns side and wrist images, (rows, px, px, 3) each; `sizes` as `encode_images` gave them.

    Raises CorruptData.
    """
    if codec == "jpeg":
        return _decode_jpeg(data, sizes, rows, schema)
    return _decode_raw(_decompress(data, rows, schema) if codec == "zstd" else data, rows, schema)


def _decode_raw(data: Bytes, rows: int, schema: Schema) -> tuple[U8, U8]:
    side, wrist = schema.side_px, schema.wrist_px
    split = rows * side**2 * 3
    if len(data) != _raw_bytes(rows, schema):
        raise CorruptData(f"frames of {len(data)} bytes, the cameras give {_raw_bytes(rows, schema)}")
    pixels = np.frombuffer(data, np.uint8)
    return pixels[:split].reshape(rows, side, side, 3), pixels[split:].reshape(rows, wrist, wrist, 3)


def _decompress(data: Bytes, rows: int, schema: Schema) -> bytes:
    try:
        promised = zstandard.get_frame_parameters(data).content_size
        if promised != _raw_bytes(rows, schema):
            raise CorruptData(f"frames that promise {promised} bytes, the cameras give {_raw_bytes(rows, schema)}")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise CorruptData(f"frames that do not decompress: {error}") from error


def _raw_bytes(rows: int, schema: Schema) -> int:
    return rows * (schema.side_px**2 + schema.wrist_px**2) * 3


def _decode_jpeg(data: Bytes, sizes: Sequence[int], rows: int, schema: Schema) -> tuple[U8, U8]:
    if len(sizes) != 2 * rows or sum(sizes) != len(data):
        raise CorruptData(f"{len(sizes)} images of {sum(sizes)} bytes, there are {2 * rows} in {len(data)} bytes")
    pixels = [schema.side_px] * rows + [schema.wrist_px] * rows
    ends = np.cumsum(sizes)
    images = [_decode_image(data[end - size : end], px) for size, end, px in zip(sizes, ends, pixels, strict=True)]
    return np.stack(images[:rows]), np.stack(images[rows:])


def _decode_image(file: Bytes, px: int) -> U8:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(file)
        if (height, width) != (px, px):
            raise CorruptData(f"an image of {width}x{height}, its camera has {px}x{px}")
        return simplejpeg.decode_jpeg(file, colorspace="RGB")
    except ValueError as error:
        raise CorruptData(f"an image that does not decode: {error}") from error
