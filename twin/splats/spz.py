"""This module reads Niantic's SPZ, versions 2 and 3: gzip around a header and one block per attribute, all splats each.

header     magic "NGSP", version u32, splats u32, degree u8, fraction bits of a position u8, flags u8, 0
positions  3 x 24 bits, fixed point, signed
opacities  u8     colours  3 x u8     log scales  3 x u8, -10 .. 5.94
rotations  version 2: x, y, z as u8, w from the length
           version 3: index of the largest of (x, y, z, w) in 2 bits, the others as 9 bits and a sign
harmonics  3 K x u8, red, green, blue of each coefficient, -1 .. 1
"""

import struct
import zlib
from pathlib import Path

import numpy as np

from protos.errors import SceneError
from protos.schema import F64, U8
from twin.splats.cloud import COUNTS, SH_DEGREE_0, Splats
from twin.splats.stored import check_count, splats_of

GZIP_MAGIC, MAGIC = b"\x1f\x8b", b"NGSP"
HEAD = struct.Struct("<4sIIBBBB")
COLOUR_SCALE = 0.15
"""Factor of f_dc in a colour byte, which holds 0.5 + 0.15 f_dc."""
_GZIP = 16 + zlib.MAX_WBITS


def from_bytes(path: Path, data: bytes) -> Splats:
    """Decodes a whole file; no more is unpacked than its header announces. Raises `SceneError`."""
    version, count, degree, fraction_bits = _head(path, _unpack(path, data, HEAD.size))
    widths = (9, 1, 3, 3, 3 if version == 2 else 4, 3 * COUNTS[degree])
    body = _unpack(path, data, HEAD.size + count * sum(widths))[HEAD.size :]
    blocks = []
    for start, width in zip(np.cumsum([0, *widths]) * count, widths, strict=False):
        blocks.append(np.frombuffer(body, np.uint8, count * width, start).reshape(count, width))
    positions, opacities, colours, scales, rotations, sh = blocks
    return splats_of(
        path,
        means=_fixed_point(positions) / (1 << fraction_bits),
        quaternions=_three_bytes(rotations) if version == 2 else _smallest_three(rotations),
        log_scales=scales / 16 - 10,
        opacities=opacities[:, 0] / 255,
        colours=0.5 + SH_DEGREE_0 * (colours / 255 - 0.5) / COLOUR_SCALE,
        sh=((sh.astype(float) - 128) / 128).reshape(count, COUNTS[degree], 3),
    )


def _unpack(path: Path, data: bytes, size: int) -> bytes:
    """Returns the first `size` unpacked bytes. Raises `SceneError`."""
    try:
        unpacked = zlib.decompressobj(_GZIP).decompress(data, size)
    except zlib.error as error:
        raise SceneError(f"{path}: damaged gzip data ({error})") from error
    if len(unpacked) < size:
        raise SceneError(f"{path}: ends early; {size} bytes of splats announced, {len(unpacked)} found")
    return unpacked


def _head(path: Path, head: bytes) -> tuple[int, int, int, int]:
    """Returns version, number of splats, degree, fraction bits. Raises `SceneError`."""
    magic, version, count, degree, fraction_bits, _, _ = HEAD.unpack(head)
    if magic != MAGIC:
        raise SceneError(f"{path}: gzip data that is no SPZ file")
    if version not in (2, 3):
        raise SceneError(f"{path}: SPZ version {version}; versions 2 and 3 are read")
    if degree >= len(COUNTS) or fraction_bits > 23:
        raise SceneError(f"{path}: degree {degree}, {fraction_bits} fraction bits; at most {len(COUNTS) - 1} and 23")
    check_count(path, count)
    return version, count, degree, fraction_bits


def _fixed_point(block: U8) -> F64:
    """Decodes bytes (N, 9) to signed numbers of 24 bits (N, 3)."""
    low, middle, high = np.moveaxis(block.reshape(-1, 3, 3).astype(np.int32), -1, 0)
    return (low | middle << 8 | (high ^ 0x80) - 0x80 << 16).astype(float)


def _three_bytes(block: U8) -> F64:
    """Decodes the rotations of version 2 to quaternions wxyz (N, 4)."""
    xyz = block / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - (xyz**2).sum(1, keepdims=True)))
    return np.concatenate([w, xyz], 1)


def _smallest_three(block: U8) -> F64:
    """Decodes the rotations of version 3 to quaternions wxyz (N, 4)."""
    words = np.ascontiguousarray(block).view("<u4")[:, 0]
    fields = np.stack([words >> 20, words >> 10, words], 1) & 1023
    others = np.where(fields & 512, -1, 1) * (fields & 511) / 511 * np.sqrt(0.5)
    largest = (words >> 30).astype(int)
    xyzw = np.empty((len(words), 4))
    xyzw[np.arange(4) != largest[:, None]] = others.ravel()
    xyzw[np.arange(len(words)), largest] = np.sqrt(np.maximum(0, 1 - (others**2).sum(1)))
    return xyzw[:, [3, 0, 1, 2]]
