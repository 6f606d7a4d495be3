"""TFRecord files: records with their length and checksums, one after another.

    length        8 bytes, little endian
    its check     4 bytes
    payload
    its check     4 bytes

The check is the CRC-32C, rotated right by 15 bits and added to a constant, so that a record inside a record does not
look right by accident. Nothing is allocated before the length has passed its check and fits into the file.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from learner.datasets.rlds.crc32c import crc32c
from protos.errors import CorruptData

FRAMING_BYTES = 16
MAX_RECORD_BYTES = 2**31 - 1
"""What protobuf can hold in one message."""

_HEADER = struct.Struct("<QI")
_CHECK = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One payload and where its framing starts in the file."""

    offset: int
    payload: memoryview

    @property
    def end(self) -> int:
        return self.offset + FRAMING_BYTES + len(self.payload)


def framed(payload: bytes) -> bytes:
    """The payload as a record."""
    length = len(payload).to_bytes(8, "little")
    return length + _CHECK.pack(masked_crc(length)) + payload + _CHECK.pack(masked_crc(payload))


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file, one in memory at a time. Raises CorruptData with file and offset at the first bad one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while file.tell() < size:
            yield _record(file, path, size)


def masked_crc(data: bytes | memoryview) -> int:
    """The checksum as it is stored."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


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
        raise bad("its payload fails the checksum")
    return Record(offset=offset, payload=memoryview(payload))
