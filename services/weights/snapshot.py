"""A part as the learner had it when it published, and the way from there to its wire form.

    publish() ── copy into used memory ──► PartSnapshot ── encode(), another thread ──► EncodedPart ──► wire

The copy is all that the learner waits for.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import InputError
from services.weights.bf16 import Bf16, finite, finite_bf16, write_bf16
from services.weights.memory import MemoryPool
from services.weights.tensors import ALIGNMENT, BFLOAT16, WIRE_DTYPES, WireDtype


@dataclass(frozen=True, kw_only=True)
class EncodedPart:
    """A part in wire form: its table, sha256 included, and its bytes (size,)."""

    table: pb.WeightPart
    data: NDArray[np.uint8]


class PartPlan:
    """How a part will travel. Raises InputError for a dtype that cannot."""

    def __init__(self, name: str, tensors: Mapping[str, NDArray[Any] | Bf16], wire: WireDtype) -> None:
        self.name = name
        self.tensors = [_Planned.of(key, value, wire, f"{name}/{key}") for key, value in tensors.items()]


@dataclass(frozen=True, kw_only=True)
class _Planned:
    name: str
    array: NDArray[Any]
    wire: str
    copied: np.dtype[Any] | None
    """How the snapshot keeps it: floats as float32, others as they travel; None: it was given away."""

    @classmethod
    def of(cls, name: str, value: NDArray[Any] | Bf16, wire: WireDtype, where: str) -> "_Planned":
        if isinstance(value, Bf16):
            return cls(name=name, array=value.bits, wire=BFLOAT16, copied=None)
        array = np.asarray(value)
        if array.dtype.kind == "f":
            dtype = BFLOAT16 if wire == "bf16" and array.ndim >= 2 else "float32"
            return cls(name=name, array=array, wire=dtype, copied=WIRE_DTYPES["float32"])
        dtype = array.dtype.name
        if dtype not in WIRE_DTYPES:
            names = ", ".join(known for known in WIRE_DTYPES if known not in (BFLOAT16, "float32"))
            raise InputError(f"{where}: dtype {array.dtype} cannot travel; use a float, Bf16, {names}")
        return cls(name=name, array=array, wire=dtype, copied=WIRE_DTYPES[dtype])

    @property
    def copied_bytes(self) -> int:
        return 0 if self.copied is None else _aligned(self.array.size * self.copied.itemsize)


class PartSnapshot:
    """A copy of a part's tensors; a version that keeps the part of the version before it shares that one's snapshot."""

    def __init__(self, plan: PartPlan, memory: MemoryPool) -> None:
        self.name = plan.name
        self._encoded: EncodedPart | InputError | None = None
        self._copies: list[tuple[pb.TensorEntry, NDArray[Any]]] = []  # values flat
        room, offset = memory.take(plan.name, sum(tensor.copied_bytes for tensor in plan.tensors)), 0
        for tensor in plan.tensors:
            if tensor.copied is None:
                values = np.ascontiguousarray(tensor.array)
            else:
                values = np.ndarray(tensor.array.shape, tensor.copied, room, offset=offset)
                np.copyto(values, tensor.array, casting="same_kind")
                offset += tensor.copied_bytes
            entry = pb.TensorEntry(name=tensor.name, dtype=tensor.wire, shape=tensor.array.shape)
            self._copies.append((entry, values.reshape(-1)))

    def encode(self, memory: MemoryPool) -> EncodedPart:
        """The part in wire form, made once; the copy is let go.

        Raises InputError for a NaN or an infinity: such weights must not reach an arm.
        """
        if self._encoded is None:
            try:
                self._encoded = _encode(self.name, self._copies, memory)
            except InputError as error:
                self._encoded = error
            self._copies = []
        if isinstance(self._encoded, InputError):
            raise self._encoded
        return self._encoded


def _encode(name: str, tensors: list[tuple[pb.TensorEntry, NDArray[Any]]], memory: MemoryPool) -> EncodedPart:
    table, end = pb.WeightPart(name=name), 0
    for entry, values in tensors:
        entry.offset = _aligned(end)
        end = entry.offset + values.size * WIRE_DTYPES[entry.dtype].itemsize
    table.size = end
    table.tensors.extend(entry for entry, _ in tensors)
    data, end = memory.take(name, table.size), 0
    for entry, values in tensors:
        data[end : entry.offset] = 0
        out = np.ndarray(values.shape, WIRE_DTYPES[entry.dtype], data, offset=entry.offset)
        if not _write(values, out, entry.dtype):
            raise InputError(
                f"{name}/{entry.name} holds NaN or infinity, or what {entry.dtype} cannot hold: "
                "these weights are not published"
            )
        end = entry.offset + out.nbytes
    table.sha256 = hashlib.sha256(data.data).hexdigest()
    return EncodedPart(table=table, data=data)


def _write(values: NDArray[Any], out: NDArray[Any], dtype: str) -> bool:
    """False when `values` are not finite numbers in `dtype`."""
    if dtype == BFLOAT16 and values.dtype == np.float32:
        return write_bf16(values, out)
    out[:] = values
    return finite_bf16(values) if dtype == BFLOAT16 else values.dtype.kind != "f" or finite(values)


def _aligned(size: int) -> int:
    return size + -size % ALIGNMENT
