"""This module reads and writes TFRecord files, and the `tf.train.Example` in each record.

    length        8 bytes, little endian
    its check     4 bytes
    payload       an Example: feature name -> list of bytes, floats or integers (example.proto)
    its check     4 bytes

A check is the CRC-32C, rotated right by 15 bits and added to a constant, so that a record inside a record does not pass
by accident. Nothing is allocated before the length has passed its check and fits into the file.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from learner.datasets.rlds.example_pb2 import Example, Feature
from protos.errors import CorruptData
from protos.pointers import refuse_pointer
from protos.schema import F32

I64 = NDArray[np.int64]
Features = Mapping[str, Feature]
"""Features of an Example by name."""

FRAMING_BYTES = 16
MAX_RECORD_BYTES = 2**31 - 1
"""Largest message of protobuf."""
MAX_VALUES = 1 << 17
"""Most bytes values of one feature, and so steps of an episode: hours. An empty one takes two bytes in the file."""

_HEADER = struct.Struct("<QI")
_CHECK = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record is one payload and the place in the file where its framing starts."""

    offset: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.offset + FRAMING_BYTES + len(self.payload)


def framed(payload: bytes) -> bytes:
    """Returns the payload as a record."""
    length = len(payload).to_bytes(8, "little")
    return length + _CHECK.pack(masked_crc(length)) + payload + _CHECK.pack(masked_crc(payload))


class DamagedPayload(CorruptData):
    """A payload fails its checksum; the record after it can be read."""


def read_records(path: Path, damaged: Callable[[DamagedPayload], None] | None = None) -> Iterator[Record]:
    """Yields the records of a file, one in memory at a time. Raises CorruptData with file and offset at a bad one.

    With `damaged`, that is told of a record whose payload alone is bad, and the next one follows.
    """
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            try:
                record = _record(file, path, size)
            except DamagedPayload as error:
                if damaged is None:
                    raise
                damaged(error)
            else:
                yield record


def masked_crc(data: bytes) -> int:
    """Returns the checksum as it is stored."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def decode_example(payload: bytes) -> Features:
    """Parses an Example; bytes in it stay where they are in the payload. Raises CorruptData."""
    try:
        return Example.FromString(payload).features.feature
    except DecodeError as error:
        raise CorruptData(f"not a tf.train.Example: {error}") from error


def values_of(feature: Feature) -> list[bytes] | F32 | I64:
    """Returns the values of one feature; an empty list when it has none. Raises CorruptData."""
    if feature.HasField("float_list"):
        return np.array(feature.float_list.value, np.float32)
    if feature.HasField("int64_list"):
        return np.array(feature.int64_list.value, np.int64)
    stored = feature.bytes_list.value
    if len(stored) > MAX_VALUES:
        raise CorruptData(f"a feature of {len(stored)} values; at most {MAX_VALUES} are read")
    return list(stored)


def encode_example(features: Mapping[str, Sequence[bytes] | F32 | I64]) -> bytes:
    """Encodes features of bytes, float32 or int64 as an Example."""
    example = Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        if not isinstance(values, np.ndarray):
            feature.bytes_list.value.extend(values)
        elif values.dtype == np.float32:
            feature.float_list.value.extend(values)
        else:
            assert values.dtype == np.int64, values.dtype
            feature.int64_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


def _record(file: BinaryIO, path: Path, size: int) -> Record:
    offset = file.tell()

    def bad(why: str) -> CorruptData:
        return CorruptData(f"{path}: record at byte {offset}: {why}")

    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise bad("the file ends inside its length")
    length, check = _HEADER.unpack(header)
    if masked_crc(header[:8]) != check:
        raise bad("its length fails the checksum")
    if length > MAX_RECORD_BYTES:
        raise bad(f"{length} bytes; at most {MAX_RECORD_BYTES} are read")
    if offset + length + FRAMING_BYTES > size:
        raise bad(f"{length} bytes are promised, the file ends after {max(0, size - offset - _HEADER.size)}")
    payload = file.read(length)
    if _CHECK.pack(masked_crc(payload)) != file.read(_CHECK.size):
        raise DamagedPayload(f"{path}: record at byte {offset}: its payload fails the checksum")
    return Record(offset=offset, payload=payload)
