"""Decodes images into arrays that are there already."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import simplejpeg
import zstandard

from protos.errors import CorruptData
from protos.images import CODECS, decode_images
from protos.schema import U8, Schema
from services.replay.read.frame_table import CAMERAS, Camera, Records, image_bytes, image_ends, pixels


class Job(NamedTuple):
    """One picture of a segment and the array it belongs in."""

    camera: Camera
    offset: int
    out: U8  # (px, px, 3)


def decode_jpeg(file: memoryview, out: U8) -> None:
    """Decodes into `out`, (px, px, 3). Other threads run meanwhile. Raises CorruptData."""
    check_jpeg(file, out.shape[0])
    try:
        simplejpeg.decode_jpeg(file, colorspace="RGB", buffer=out)
    except ValueError as error:
        raise CorruptData(f"an image that does not decode: {error}") from error


def check_jpeg(file: memoryview, px: int) -> None:
    """Raises CorruptData unless the file begins like an image of px x px."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(file)
    except ValueError as error:
        raise CorruptData(f"an image that does not decode: {error}") from error
    if (height, width) != (px, px):
        raise CorruptData(f"an image of {width}x{height}, its camera has {px}x{px}")


def decode_segment(frames: memoryview, record: Records, schema: Schema, jobs: Iterable[Job]) -> None:
    """Puts some pictures of a segment, by the frames of its blob, where they belong. Raises CorruptData."""
    codec = CODECS[record["codec"]]
    if codec == "jpeg":
        for camera, offset, out in jobs:
            begin, end = image_ends(record, schema, camera, offset, 1)
            decode_jpeg(frames[begin:end], out)
        return
    images = dict(zip(CAMERAS, decode_images(frames, codec, (), int(record["steps"]) + 1, schema), strict=True))
    for camera, offset, out in jobs:
        out[...] = images[camera][offset]


def check_segment(frames: memoryview, record: Records, schema: Schema, cameras: Sequence[Camera]) -> None:
    """What can be said about the frames without decoding them. Raises CorruptData."""
    rows = int(record["steps"]) + 1
    codec = CODECS[record["codec"]]
    if codec == "jpeg":
        for camera in cameras:
            ends = image_ends(record, schema, camera, 0, rows)
            for begin, end in pairwise(ends):
                check_jpeg(frames[begin:end], pixels(schema, camera))
    elif codec == "zstd":
        _check_zstd(frames, rows * sum(image_bytes(schema, camera) for camera in CAMERAS))


def _check_zstd(frames: memoryview, size: int) -> None:
    try:
        promised = zstandard.get_frame_parameters(frames).content_size
    except zstandard.ZstdError as error:
        raise CorruptData(f"frames that do not decompress: {error}") from error
    if promised != size:
        raise CorruptData(f"frames that promise {promised} bytes, the cameras give {size}")
