"""This module holds the form of weights between processes: chunks and their checks, limits of tables, decoding.

    part's bytes ── split ──► 1 MiB chunks with crc32 ──► ChunkCheck: order, length, crc32; sha256 at the end
                                                              │
    tensors ◄── decode_part, into memory that is used again ◄─┘

A chunk is small enough for gRPC's default limits, and the place where a broken pull goes on. `check_version` refuses a
table by its sizes before anything is allocated for it. How tensors lie in a part says `protos.tensors`.
"""

import json
import math
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos import weights_pb2 as pb
from protos.errors import CorruptData, InputError
from protos.tensors import ALIGNMENT, BFLOAT16, WIRE_DTYPES, aligned, part_hash, read_bf16

CHUNK_BYTES = 1 << 20
MAX_PARTS = 64
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 64
MAX_SETTINGS_CHARACTERS = 1 << 20
MAX_NAME_CHARACTERS = 512
_SPARE = 2
_HEX = frozenset("0123456789abcdef")

Bytes = bytes | bytearray | memoryview
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes beyond which a version is refused."""

    max_part_bytes: int = 1 << 30
    max_version_bytes: int = 1 << 31


DEFAULT_LIMITS = Limits()


def check_version(version: pb.WeightVersion, limits: Limits) -> None:
    """Checks a table before anything is allocated for it.

    Raises CorruptData for one that makes no sense, InputError for one that asks for more than this process gives.
    """
    if version.number < 1 or not 1 <= len(version.parts) <= MAX_PARTS:
        raise CorruptData(
            f"version {version.number} with {len(version.parts)} parts: needs a number and 1 to {MAX_PARTS}"
        )
    where = f"version {version.number}"
    if not math.isfinite(version.published_unix_s):
        raise CorruptData(f"{where}: published at {version.published_unix_s}")
    read_settings(version)
    tensors = sum(len(part.tensors) for part in version.parts)
    if tensors > MAX_TENSORS:
        raise InputError(f"{where} has {tensors} tensors; the limit is {MAX_TENSORS}")
    for part in version.parts:
        _check_part(part, limits)
    total = sum(part.size for part in version.parts)
    if total > limits.max_version_bytes:
        raise InputError(f"{where} has {total} bytes; the limit is max_version_bytes={limits.max_version_bytes}")
    if len({part.name for part in version.parts}) != len(version.parts):
        raise CorruptData(f"{where} names a part twice")
    known = {part.sha256: part for part in version.parts}
    for part in version.parts:
        check_same(part, known[part.sha256])


def check_same(part: pb.WeightPart, other: pb.WeightPart) -> None:
    """Raises CorruptData when two parts of one sha256 have different sizes or tensors."""
    if part.size != other.size or part.tensors != other.tensors:
        raise CorruptData(f"parts {part.name[:80]!r} and {other.name[:80]!r} give one sha256 to two tables")


def read_settings(version: pb.WeightVersion) -> dict[str, Any]:
    """Returns the settings that came with a version. Raises CorruptData when they are not a JSON object."""
    if len(version.settings_json) > MAX_SETTINGS_CHARACTERS:
        raise InputError(
            f"version {version.number}: {len(version.settings_json)} characters of settings; "
            f"the limit is {MAX_SETTINGS_CHARACTERS}"
        )
    try:
        settings = json.loads(version.settings_json)
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"version {version.number}: its settings are not JSON ({error})") from error
    if not isinstance(settings, dict):
        raise CorruptData(f"version {version.number}: its settings are no JSON object")
    return settings


def _check_part(part: pb.WeightPart, limits: Limits) -> None:
    if part.size > limits.max_part_bytes:
        raise InputError(
            f"part {part.name[:80]!r} has {part.size} bytes; the limit is max_part_bytes={limits.max_part_bytes}"
        )
    if len(part.sha256) != 64 or not _HEX.issuperset(part.sha256):
        raise CorruptData(f"part {part.name[:80]!r}: sha256 {part.sha256[:80]!r} is not 64 hex digits")
    if len(part.name) > MAX_NAME_CHARACTERS:
        raise InputError(f"part {part.name[:80]!r}…: its name is longer than {MAX_NAME_CHARACTERS} characters")
    end = 0
    for entry in part.tensors:
        end = _check_entry(entry, part, end)
    if len({entry.name for entry in part.tensors}) != len(part.tensors):
        raise CorruptData(f"part {part.name[:80]!r} names a tensor twice")


def _check_entry(entry: pb.TensorEntry, part: pb.WeightPart, begin: int) -> int:
    """Returns the tensor's end. It must begin behind the one before it, so that a part decodes to a bounded size."""
    where = f"tensor {entry.name[:80]!r} of part {part.name[:80]!r}"
    if entry.dtype not in WIRE_DTYPES:
        raise CorruptData(f"{where}: unknown dtype {entry.dtype[:80]!r}")
    if len(entry.shape) > MAX_DIMENSIONS:
        raise CorruptData(f"{where}: {len(entry.shape)} dimensions, numpy has at most {MAX_DIMENSIONS}")
    end = entry.offset + _entry_bytes(entry)
    if entry.offset % ALIGNMENT or entry.offset < begin or end > part.size:
        raise CorruptData(
            f"{where}: {list(entry.shape)[:8]} {entry.dtype} at byte {entry.offset} does not fit between byte {begin} "
            f"and the part's end at {part.size}"
        )
    return end


def _entry_bytes(entry: pb.TensorEntry) -> int:
    return math.prod(entry.shape) * WIRE_DTYPES[entry.dtype].itemsize


def split(data: Bytes) -> Iterator[pb.WeightChunk]:
    """Yields the chunks of a part in order."""
    view = memoryview(data)
    for offset in range(0, len(data), CHUNK_BYTES):
        chunk = pb.WeightChunk()
        fill_chunk(chunk, view, offset)
        yield chunk


def fill_chunk(chunk: pb.WeightChunk, data: memoryview, offset: int) -> None:
    """Fills a message in place with the chunk at `offset`: each constructor would copy the bytes once more."""
    piece = bytes(data[offset : offset + CHUNK_BYTES])
    chunk.offset, chunk.data, chunk.crc32 = offset, piece, zlib.crc32(piece)


class ChunkCheck:
    """Checks the chunks of one part as they arrive in order; keeps none of them."""

    def __init__(self, part: pb.WeightPart) -> None:
        self.part = part
        self.received = 0
        self._hash = part_hash(part)

    @property
    def complete(self) -> bool:
        return self.received == self.part.size

    def take(self, chunk: pb.WeightChunk) -> bytes:
        """Returns the bytes of the next chunk. Raises CorruptData, changing nothing, for a damaged or another one."""
        data = chunk.data  # protobuf copies it at every access
        if chunk.offset != self.received:
            raise CorruptData(f"{self._where()}: got the chunk for byte {chunk.offset}")
        expected = min(CHUNK_BYTES, self.part.size - self.received)
        if len(data) != expected or not expected:
            raise CorruptData(f"{self._where()}: got {len(data)} bytes, expected {expected}")
        if zlib.crc32(data) != chunk.crc32:
            raise CorruptData(f"{self._where()}: the chunk fails its crc32")
        self._hash.update(data)
        self.received += expected
        return data

    def finish(self) -> None:
        """Checks a complete part. Raises CorruptData when it is not the one that the sha256 names."""
        assert self.complete
        if self._hash.hexdigest() != self.part.sha256:
            raise CorruptData(f"part {self.part.name!r}: {self.part.size} bytes fail their sha256")

    def _where(self) -> str:
        return f"part {self.part.name!r} at byte {self.received}"


class MemoryPool:
    """Keeps arrays of bytes by name and gives one out again when nothing but the pool refers to it.

    A version of 27 million parameters passes through 100 to 200 MB on each side. Taken anew for each version that is
    tens of thousands of page faults, most of the time of a snapshot and a good part of a swap.

    Not safe between threads; the arrays may go anywhere. Holds what is in use, and two free arrays per name.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, list[NDArray[np.uint8]]] = {}

    def take(self, name: str, size: int) -> NDArray[np.uint8]:
        """Returns an array of `size` bytes that nobody uses; its content is arbitrary."""
        arrays = self._arrays.setdefault(name, [])
        free = [i for i in range(len(arrays)) if _references(arrays, i) == _ONLY_IN_POOL]
        fitting = [i for i in free if len(arrays[i]) == size]
        taken = arrays[fitting[0]] if fitting else np.empty(size, np.uint8)
        drop = set(free) - set(fitting[: _SPARE + 1])
        self._arrays[name] = [array for i, array in enumerate(arrays) if i not in drop]
        if not fitting:
            self._arrays[name].append(taken)
        return taken


def _references(arrays: list[NDArray[np.uint8]], i: int) -> int:
    return sys.getrefcount(arrays[i])


_ONLY_IN_POOL = _references([np.empty(0, np.uint8)], 0)
"""The count of an array to which only a list refers."""


class PartAssembly(ChunkCheck):
    """Puts one part together as its chunks arrive. Its table must have passed `check_version`."""

    def __init__(self, part: pb.WeightPart, memory: MemoryPool) -> None:
        super().__init__(part)
        self._data = memory.take(part.name, part.size)

    def add(self, chunk: pb.WeightChunk) -> int:
        """Puts the next chunk in its place and returns its length. Raises CorruptData with nothing changed."""
        start, data = self.received, self.take(chunk)
        self._data.data[start : self.received] = data
        return len(data)

    def data(self) -> NDArray[np.uint8]:
        """Returns all bytes of a complete part. Raises CorruptData when it is not the one that its sha256 names."""
        self.finish()
        return self._data


def decode_part(part: pb.WeightPart, data: NDArray[np.uint8], memory: MemoryPool) -> Tensors:
    """Returns the tensors of a part whose table has passed `check_version`; `data` (size,) are its bytes.

    bfloat16 is widened to float32, in `memory`. Where a part has none its tensors are views of `data`, else nothing
    refers to it. Raises CorruptData for a shape that numpy cannot hold.
    """
    if all(entry.dtype != BFLOAT16 for entry in part.tensors):
        return {entry.name: _view(entry, data) for entry in part.tensors}
    room = memory.take(part.name, decoded_bytes(part))
    decode_into(part, data, room)
    return decoded_views(part, room)


def decoded_bytes(part: pb.WeightPart) -> int:
    """Returns the bytes of a part that is decoded: its tensors in order, bfloat16 as float32, each aligned."""
    return sum(aligned(_decoded(entry).itemsize * math.prod(entry.shape)) for entry in part.tensors)


def decode_into(part: pb.WeightPart, data: NDArray[np.uint8], room: NDArray[np.uint8]) -> None:
    """Decodes the bytes of a part, `data` (size,), into `room` (decoded_bytes,). Raises CorruptData."""
    decoded = decoded_views(part, room)
    for entry in part.tensors:
        values, place = _view(entry, data), decoded[entry.name]
        if entry.dtype == BFLOAT16:
            read_bf16(values.reshape(-1), place.reshape(-1).view(np.uint32))
        else:
            np.copyto(place, values)


def decoded_views(part: pb.WeightPart, room: NDArray[np.uint8]) -> Tensors:
    """Returns the tensors of a decoded part as views of `room` (decoded_bytes,). Raises CorruptData."""
    tensors, start = {}, 0
    for entry in part.tensors:
        size = _decoded(entry).itemsize * math.prod(entry.shape)
        tensors[entry.name] = _array(entry, _decoded(entry), room[start : start + size])
        start += aligned(size)
    return tensors


def _decoded(entry: pb.TensorEntry) -> np.dtype[Any]:
    return WIRE_DTYPES["float32" if entry.dtype == BFLOAT16 else entry.dtype]


def _view(entry: pb.TensorEntry, data: NDArray[np.uint8]) -> NDArray[Any]:
    return _array(entry, WIRE_DTYPES[entry.dtype], data[entry.offset : entry.offset + _entry_bytes(entry)])


def _array(entry: pb.TensorEntry, dtype: np.dtype[Any], piece: NDArray[np.uint8]) -> NDArray[Any]:
    try:
        return np.ndarray(tuple(entry.shape), dtype, buffer=piece)
    except (ValueError, TypeError) as error:
        raise CorruptData(f"tensor {entry.name[:80]}: shape {list(entry.shape)[:40]} ({error})") from error
