"""This module turns named tensors into one run of bytes with a table, and names them by the sha256 of both.

    {name: array} ── part_table ──► table without a hash ── write_part ──► bytes (size,), table.sha256

The sha256 of a part is its one name: of the part that travels from the learner to those who act, of the parts of a
policy folder and a checkpoint, and of the backbone (`backbone_id`) whose readouts a segment holds. It covers names,
dtypes, shapes and bytes.

A part lies as its tensors in the order of their names, row-major, little-endian, each at a multiple of 64 bytes, zeros
between. Floats are float32, or, in a part that travels as "bf16", bfloat16 where they have two dimensions or more:
biases, norm scales and normalization statistics are a hundredth of the bytes and would lose the most. Integers and
booleans stay as they are.

bfloat16 is the upper half of a float32. Both directions work in blocks that stay in the processor's cache, and write
into memory that the caller has ready.

    float32 ── round to nearest, ties to even ──► uint16 bits ── exact ──► float32
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import InputError
from protos.schema import F32

if TYPE_CHECKING:
    from hashlib import _Hash

U16 = NDArray[np.uint16]
WireDtype = Literal["f32", "bf16"]
ALIGNMENT = 64
BFLOAT16 = "bfloat16"
WIRE_DTYPES: dict[str, np.dtype[Any]] = {
    BFLOAT16: np.dtype("<u2"),
    **{
        name: np.dtype(name).newbyteorder("<")
        for name in ("float32", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
    },
}
_BLOCK = 1 << 17
_OVERFLOW = np.float32(3.3961775e38)
"""The smallest float32 that rounds to infinity in bfloat16."""
_EXPONENT = np.uint16(0x7F80)


@dataclass(frozen=True, eq=False)
class Bf16:
    """A tensor as bfloat16 bits, so that a publisher may round on its accelerator.

    `bits` (any shape, uint16) is given away, not copied: it must not change after it was published. From torch:
    `Bf16(tensor.detach().to(torch.bfloat16).view(torch.uint16).cpu().numpy())`.
    """

    bits: U16

    def __post_init__(self) -> None:
        if getattr(self.bits, "dtype", None) != np.uint16:
            raise InputError(f"Bf16 takes an array of uint16 bits, got {getattr(self.bits, 'dtype', type(self.bits))}")


TensorsLike = Mapping[str, NDArray[Any] | Bf16]


def part_sha256(tensors: TensorsLike, wire: WireDtype = "f32") -> str:
    """Returns the name of a part that travels as `wire`: 64 hex digits. Raises InputError for a dtype that cannot."""
    table = part_table("", tensors, wire)
    write_part(table, tensors, np.empty(table.size, np.uint8))
    return table.sha256


def part_table(name: str, tensors: TensorsLike, wire: WireDtype) -> pb.WeightPart:
    """Returns the table of a part, its sha256 still empty. Raises InputError for a dtype that cannot travel."""
    table, end = pb.WeightPart(name=name), 0
    for key in sorted(tensors):
        value = tensors[key]
        dtype, shape = _dtype_on_wire(value, wire, f"{name}/{key}"), shape_of(value)
        offset = aligned(end)
        table.tensors.add(name=key, dtype=dtype, shape=shape, offset=offset)
        end = offset + math.prod(shape) * WIRE_DTYPES[dtype].itemsize
    table.size = end
    return table


def write_part(table: pb.WeightPart, tensors: TensorsLike, out: NDArray[np.uint8]) -> str:
    """Writes the bytes of a part into `out` (size,) and its sha256 into the table.

    Returns the name of the first tensor that holds NaN, infinity or more than its dtype can; "" where there is none.
    """
    end, unfit = 0, ""
    for entry in table.tensors:
        out[end : entry.offset] = 0
        value = tensors[entry.name]
        values = value.bits if isinstance(value, Bf16) else np.asarray(value)
        place = np.ndarray(values.shape, WIRE_DTYPES[entry.dtype], out, offset=entry.offset)
        if not _write(values, place, entry.dtype):
            unfit = unfit or entry.name
        end = entry.offset + place.nbytes
    digest = part_hash(table)
    digest.update(out.data)
    table.sha256 = digest.hexdigest()
    return unfit


def part_hash(table: pb.WeightPart) -> "_Hash":
    """Returns a sha256 that has taken in the table's tensors; with the part's bytes it becomes the part's name."""
    lines = [f"{entry.name!a} {entry.dtype} {list(entry.shape)} {entry.offset}\n" for entry in table.tensors]
    return hashlib.sha256("".join(lines).encode("ascii"))


def write_bf16(values: F32, out: U16) -> bool:
    """Rounds `values` (n,) into `out` (n,). Returns False, with `out` void, for NaN and numbers beyond bfloat16."""
    bits, scratch = values.view(np.uint32), np.empty(min(_BLOCK, len(values)), np.uint32)
    fits = True
    for start in range(0, len(values), _BLOCK):
        block, piece = values[start : start + _BLOCK], bits[start : start + _BLOCK]
        fits = fits and bool(block.min() > -_OVERFLOW and block.max() < _OVERFLOW)  # min and max of NaN are NaN
        rounded = scratch[: len(piece)]
        np.right_shift(piece, 16, out=rounded)
        np.bitwise_and(rounded, 1, out=rounded)
        np.add(rounded, 0x7FFF, out=rounded)
        np.add(rounded, piece, out=rounded)
        np.right_shift(rounded, 16, out=rounded)
        out[start : start + _BLOCK] = rounded
    return fits


def read_bf16(bits: U16, out: NDArray[np.uint32]) -> None:
    """Writes the exact float32 bits of `bits` (n,) into `out` (n,)."""
    for start in range(0, len(bits), _BLOCK):
        block = out[start : start + _BLOCK]
        np.copyto(block, bits[start : start + _BLOCK])
        np.left_shift(block, 16, out=block)


def shape_of(value: NDArray[Any] | Bf16) -> tuple[int, ...]:
    """Returns the shape of a tensor."""
    return value.bits.shape if isinstance(value, Bf16) else np.shape(value)


def aligned(size: int) -> int:
    """Returns the next multiple of 64 bytes."""
    return size + -size % ALIGNMENT


def _dtype_on_wire(value: NDArray[Any] | Bf16, wire: WireDtype, where: str) -> str:
    if isinstance(value, Bf16):
        return BFLOAT16
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return BFLOAT16 if wire == "bf16" and array.ndim >= 2 else "float32"
    if array.dtype.name not in WIRE_DTYPES:
        names = ", ".join(known for known in WIRE_DTYPES if known not in (BFLOAT16, "float32"))
        raise InputError(f"{where}: dtype {array.dtype} cannot travel; use a float, Bf16, {names}")
    return array.dtype.name


def _write(values: NDArray[Any], place: NDArray[Any], dtype: str) -> bool:
    """Writes `values` into `place` of the same shape. Returns False when they are not finite numbers in `dtype`."""
    if dtype != BFLOAT16:
        np.copyto(place, values, casting="same_kind")
        return values.dtype.kind != "f" or _all_blocks(place, lambda block: bool(np.isfinite(block).all()))
    if values.dtype == np.uint16:
        np.copyto(place, values)
        return _all_blocks(place, lambda block: bool((block & _EXPONENT).max() < _EXPONENT))
    return write_bf16(np.ascontiguousarray(values, np.float32).reshape(-1), place.reshape(-1))


def _all_blocks(values: NDArray[Any], check: Callable[[NDArray[Any]], bool]) -> bool:
    flat = values.reshape(-1)
    return all(check(flat[start : start + _BLOCK]) for start in range(0, len(flat), _BLOCK))
