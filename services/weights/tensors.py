"""Named tensors as one run of bytes with a table, and back.

Wire layout of a part: tensors in the order of the mapping, row-major, little-endian, each at a multiple of 64 bytes,
zeros between. Floats travel as float32, or as bfloat16 where they have two dimensions or more: biases, norm scales and
normalisation statistics are a hundredth of the bytes and would lose the most. Integers and booleans travel as they are.
"""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import CorruptData
from services.weights.bf16 import read_bf16
from services.weights.memory import MemoryPool

WireDtype = Literal["f32", "bf16"]
Tensors = dict[str, NDArray[Any]]
ALIGNMENT = 64
BFLOAT16 = "bfloat16"
WIRE_DTYPES: dict[str, np.dtype[Any]] = {
    BFLOAT16: np.dtype("<u2"),
    **{
        name: np.dtype(name).newbyteorder("<")
        for name in ("float32", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
    },
}


def entry_bytes(entry: pb.TensorEntry) -> int:
    """Length of a tensor on the wire."""
    return math.prod(entry.shape) * WIRE_DTYPES[entry.dtype].itemsize


def decode_part(part: pb.WeightPart, data: NDArray[np.uint8], memory: MemoryPool) -> Tensors:
    """The tensors of a part whose table has passed `check_version`; `data` (size,) are its bytes.

    bfloat16 is widened to float32, in `memory`. Where a part has none its tensors are views of `data`, else nothing
    refers to it. Raises CorruptData for a shape that numpy cannot hold.
    """
    wide = [entry for entry in part.tensors if entry.dtype == BFLOAT16]
    if not wide:
        return {entry.name: _view(entry, data) for entry in part.tensors}
    room, start = memory.take(part.name, 4 * sum(map(_wide_elements, wide))).view(np.uint32), 0
    tensors = {}
    for entry in part.tensors:
        values = _view(entry, data)
        if entry.dtype == BFLOAT16:
            bits = room[start : start + values.size]
            read_bf16(values.reshape(-1), bits)
            tensors[entry.name] = bits.view(np.float32).reshape(values.shape)
            start += _wide_elements(entry)
        else:
            tensors[entry.name] = values.copy()
    return tensors


def _wide_elements(entry: pb.TensorEntry) -> int:
    """float32 elements that a bfloat16 tensor takes up, aligned."""
    elements = math.prod(entry.shape)
    return elements + -elements % (ALIGNMENT // 4)


def _view(entry: pb.TensorEntry, data: NDArray[np.uint8]) -> NDArray[Any]:
    piece = data[entry.offset : entry.offset + entry_bytes(entry)]
    try:
        return np.ndarray(tuple(entry.shape), WIRE_DTYPES[entry.dtype], buffer=piece)
    except (ValueError, TypeError) as error:
        raise CorruptData(f"tensor {entry.name[:80]}: shape {list(entry.shape)[:40]} ({error})") from error
