"""What leads from the bytes of one part to those of its next version: for links on which bytes are dear.

    base ─┐
          xor ── bytes of equal significance together ── zstd ──► frames, one per MiB ──► pulled as a part is
    new ──┘

A training step changes the low bits of a weight and seldom its sign or exponent, so most of the xor is zeros. Layout:
one byte for the width of an element, then for each MiB of the part the length of its frame (uint32, little-endian) and
the frame.
"""

import struct
from collections.abc import Iterable

import numpy as np
import zstandard
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import CorruptData
from services.weights.chunks import CHUNK_BYTES
from services.weights.tensors import BFLOAT16

_LENGTH = struct.Struct("<I")
_LEVEL = 1
_WIDTHS = (1, 2, 4)


def element_width(part: pb.WeightPart) -> int:
    """Bytes of the elements that a part is mostly made of; 1 when its size is no multiple of that."""
    width = 2 if any(entry.dtype == BFLOAT16 for entry in part.tensors) else 4
    return width if part.size % width == 0 else 1


def make_delta(base: Iterable[bytes], new: Iterable[bytes], size: int, width: int) -> bytes | None:
    """The delta between two parts of `size` bytes given as blocks of 1 MiB; None when it is not smaller."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    delta = bytearray([width])
    for old, block in zip(base, new, strict=True):
        changed = np.frombuffer(old, np.uint8) ^ np.frombuffer(block, np.uint8)
        frame = compressor.compress(changed.reshape(-1, width).T.tobytes())
        delta += _LENGTH.pack(len(frame)) + frame
        if len(delta) >= size:
            return None
    return bytes(delta)


def apply_delta(base: NDArray[np.uint8], delta: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes (size,) that `delta` leads to from `base` (size,). Raises CorruptData; allocates no more than that."""
    view, new = delta.data, np.empty_like(base)
    if not view or view[0] not in _WIDTHS or len(base) % view[0]:
        raise CorruptData("the delta does not fit its base")
    width, at = view[0], 1
    decompressor = zstandard.ZstdDecompressor()
    for start in range(0, len(base), CHUNK_BYTES):
        old = base[start : start + CHUNK_BYTES]
        if at + _LENGTH.size > len(view):
            raise CorruptData(f"the delta ends before byte {start} of its part")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        changed = np.frombuffer(_decompress(decompressor, view[at : at + length], len(old)), np.uint8)
        at += length
        new[start : start + CHUNK_BYTES] = old ^ changed.reshape(width, -1).T.reshape(-1)
    if at != len(view):
        raise CorruptData(f"the delta has {len(view) - at} bytes beyond its part")
    return new


def _decompress(decompressor: zstandard.ZstdDecompressor, frame: memoryview, size: int) -> bytes:
    try:
        claimed = zstandard.frame_content_size(frame)  # zstandard allocates what the frame claims
        if claimed != size:
            raise CorruptData(f"a frame of the delta claims {claimed} bytes, expected {size}")
        return decompressor.decompress(frame)
    except zstandard.ZstdError as error:
        raise CorruptData(f"a frame of the delta does not decompress: {error}") from error
