"""Named tensors as one run of bytes with a table, and back.

Wire layout of a part: tensors in the order of the mapping, row-major, little-endian, each at a multiple of 64 bytes,
zeros between. Floats travel as float32, or as bfloat16 where they have two dimensions or more: biases, norm scales and
normalisation statistics are a hundredth of the bytes and would lose the most. Integers and booleans travel as they are.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError
from protos.schema import F32

WireDtype = Literal["f32", "bf16"]
Tensors = dict[str, NDArray[Any]]
DEFAULT_MAX_PART_BYTES = 1 << 30
MAX_PARTS = 64
_ALIGNMENT = 64
_BFLOAT16 = "bfloat16"
_WIRE: dict[str, np.dtype[Any]] = {
    _BFLOAT16: np.dtype("<u2"),
    **{
        name: np.dtype(name).newbyteorder("<")
        for name in ("float32", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
    },
}


def to_bf16(values: F32) -> NDArray[np.uint16]:
    """The upper 16 bits of each float32, rounded to nearest, ties to even; a NaN stays a quiet NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> F32:
    """Exact float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encode_part(name: str, tensors: Mapping[str, NDArray[Any]], wire: WireDtype) -> tuple[pb.WeightPart, bytes]:
    """Copies tensors into wire form; the table's sha256 is left empty.

    Raises InputError for a NaN, an infinity, or a dtype that is not a number's: such weights must not reach an arm.
    """
    part, pieces, offset = pb.WeightPart(name=name), [], 0
    for tensor_name, array in tensors.items():
        dtype, values = _to_wire(np.asarray(array), wire, f"{name}/{tensor_name}")
        padding = -offset % _ALIGNMENT
        offset += padding
        part.tensors.add(name=tensor_name, dtype=dtype, shape=np.shape(array), offset=offset)
        pieces += [bytes(padding), values.tobytes()]
        offset += values.nbytes
    part.size = offset
    return part, b"".join(pieces)


def _to_wire(array: NDArray[Any], wire: WireDtype, where: str) -> tuple[str, NDArray[Any]]:
    if array.dtype.kind != "f":
        if array.dtype.name not in _WIRE:
            raise InputError(f"{where}: dtype {array.dtype} cannot travel; use a float, {', '.join(list(_WIRE)[2:])}")
        return array.dtype.name, array.astype(_WIRE[array.dtype.name])
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{where} holds NaN or infinity: these weights are not published")
    if wire == "bf16" and array.ndim >= 2:
        return _BFLOAT16, to_bf16(values)
    return "float32", values.astype(_WIRE["float32"])


def decode_part(part: pb.WeightPart, data: bytearray) -> Tensors:
    """The tensors of a checked part, bfloat16 widened to float32; other dtypes are views of `data`.

    Raises CorruptData for a shape that numpy cannot hold.
    """
    return {entry.name: _decode(entry, data) for entry in part.tensors}


def _decode(entry: pb.TensorEntry, data: bytearray) -> NDArray[Any]:
    dtype = _WIRE[entry.dtype]
    piece = memoryview(data)[entry.offset : entry.offset + math.prod(entry.shape) * dtype.itemsize]
    try:
        values = np.ndarray(tuple(entry.shape), dtype, buffer=piece)
    except (ValueError, TypeError) as error:
        raise CorruptData(f"tensor {entry.name}: shape {list(entry.shape)[:40]} ({error})") from error
    return from_bf16(values) if entry.dtype == _BFLOAT16 else values


def check_version(version: pb.WeightVersion, max_part_bytes: int) -> None:
    """Refuses a table before anything is allocated for it.

    Raises InputError for sizes beyond the limit and CorruptData for a table that cannot be read.
    """
    if version.number < 1 or not version.parts or len(version.parts) > MAX_PARTS:
        raise CorruptData(
            f"version {version.number} with {len(version.parts)} parts: needs a number and 1 to {MAX_PARTS}"
        )
    if len({part.name for part in version.parts}) != len(version.parts):
        raise CorruptData(f"version {version.number} names a part twice")
    try:
        json.loads(version.settings_json)
    except ValueError as error:
        raise CorruptData(f"version {version.number}: its settings are not JSON ({error})") from error
    for part in version.parts:
        if part.size > max_part_bytes:
            raise InputError(f"part {part.name!r} has {part.size} bytes; the limit is max_part_bytes={max_part_bytes}")
        if len(part.sha256) != 64 or not set(part.sha256) <= set("0123456789abcdef"):
            raise CorruptData(f"part {part.name!r}: sha256 {part.sha256[:80]!r} is not 64 hex digits")
        for entry in part.tensors:
            _check_entry(entry, part)


def _check_entry(entry: pb.TensorEntry, part: pb.WeightPart) -> None:
    where = f"tensor {part.name}/{entry.name}"
    if entry.dtype not in _WIRE:
        raise CorruptData(f"{where}: unknown dtype {entry.dtype[:80]!r}")
    size = math.prod(entry.shape) * _WIRE[entry.dtype].itemsize
    if entry.offset % _ALIGNMENT or entry.offset + size > part.size:
        raise CorruptData(f"{where}: bytes {entry.offset} to {entry.offset + size} do not fit a part of {part.size}")
