"""One spool file: whole records, one after another.

    offset  bytes  content of a record
    0       4      u32 length of the blob                    (little-endian)
    4       1      mask of buffers
    5       4      crc32 of these five bytes and the blob's first 28
    9       …      blob (protos/codec.py), whose first 28 bytes hold its sizes and the crc32 of the rest

A process that dies while it writes leaves a torn last record, which the next one cuts off: nobody was told that it was
kept. Anything else that is wrong is damage; what follows it in the file is set aside, beside the file, and not sent.
"""

import logging
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from protos.codec import MAX_SEGMENT_BYTES, PREFIX_BYTES, check_blob, has_human_step, read_prefix
from protos.errors import CorruptData, InputError, SchemaMismatch
from protos.replay_pb2 import SegmentHeader
from protos.schema import BUFFERS, Buffer, Schema

log = logging.getLogger(__name__)

_COVERED = struct.Struct("<IB")
_PREFIX = struct.Struct("<IBI")


@dataclass(frozen=True, slots=True)
class Record:
    """One spooled segment: what the index entry says of it, and where its bytes are."""

    buffers: tuple[Buffer, ...]
    actor: str
    incarnation: str
    seq: int
    steps: int
    head: int
    """Bytes of its blob before the frames."""
    episode: str
    first_step: int
    outcome: str
    source: str
    cell: int
    human: int
    """1 if a person chose any of its actions."""
    oldest_version: int
    newest_version: int
    path: Path
    offset: int
    size: int
    added_s: float
    """Monotonic time at which it was spooled."""

    @classmethod
    def of(
        cls, header: SegmentHeader, blob: bytes, mask: int, *, path: Path, offset: int, added_s: float | None = None
    ) -> "Record":
        """The record of a blob that stands at `offset` of the file `path`."""
        return cls(
            buffers=tuple(buffer for bit, buffer in enumerate(BUFFERS) if mask >> bit & 1),
            actor=header.actor,
            incarnation=header.incarnation,
            seq=header.seq,
            steps=header.steps,
            head=read_prefix(blob).head,
            episode=header.episode,
            first_step=header.first_step,
            outcome=header.outcome,
            source=header.source,
            cell=header.start.cell,
            human=int(has_human_step(header, blob)),
            oldest_version=header.oldest_version,
            newest_version=header.newest_version,
            path=path,
            offset=offset,
            size=_PREFIX.size + len(blob),
            added_s=time.monotonic() if added_s is None else added_s,
        )

    @property
    def writer(self) -> str:
        return f"{self.actor}/{self.incarnation}"


def mask_of(buffers: Sequence[Buffer]) -> int:
    """Which buffers a record goes to, as bits."""
    return sum(1 << BUFFERS.index(buffer) for buffer in set(buffers))


def record_prefix(blob: bytes, mask: int) -> bytes:
    """What stands before a blob in the file."""
    return _PREFIX.pack(len(blob), mask, _checksum(len(blob), mask, blob[:PREFIX_BYTES]))


def write_at(file: int, prefix: bytes, blob: bytes, offset: int) -> None:
    """The whole record, or nothing and OSError."""
    parts = [memoryview(prefix), memoryview(blob)]
    end = offset
    try:
        while parts:
            written = os.pwritev(file, parts, end)
            end += written
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][written:]
    except OSError:
        os.ftruncate(file, offset)
        raise


def read_blob(record: Record) -> bytes:
    """The blob of a record, from its file."""
    with record.path.open("rb") as file:
        file.seek(record.offset + _PREFIX.size)
        return file.read(record.size - _PREFIX.size)


def take_over(path: Path, *, actor: str, schema: Schema) -> tuple[list[Record], bool]:
    """The whole records of a file that an earlier process left, and whether damage was set aside.

    Raises InputError for the file of another actor, SchemaMismatch for segments of other cameras; the file stays.
    """
    records: list[Record] = []
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            for record in _whole_records(file, path, size):
                _check_owner(record[1], path, actor=actor, schema=schema)
                records.append(record[0])
        except CorruptData as error:
            _set_aside(file, path, _end(records), size, str(error))
            return records, True
    if (left := size - _end(records)) > 0:
        log.warning("spool %s: cut a torn record of %d bytes", path, left)
        os.truncate(path, _end(records))
    return records, False


def _whole_records(file: BinaryIO, path: Path, size: int) -> Iterator[tuple[Record, SegmentHeader]]:
    """Up to the end or a torn record; raises CorruptData at damage."""
    offset = 0
    added_s = time.monotonic() - max(0.0, time.time() - path.stat().st_mtime)
    while size - offset >= _PREFIX.size + PREFIX_BYTES:
        length, mask, crc = _PREFIX.unpack(file.read(_PREFIX.size))
        start = file.read(PREFIX_BYTES)
        if _checksum(length, mask, start) != crc or not PREFIX_BYTES <= length <= MAX_SEGMENT_BYTES:
            raise CorruptData(f"no record begins at byte {offset}")
        if length > size - offset - _PREFIX.size:
            return
        blob = start + file.read(length - PREFIX_BYTES)
        header = check_blob(blob)
        record = Record.of(header, blob, mask, path=path, offset=offset, added_s=added_s)
        yield record, header
        offset += record.size


def _check_owner(header: SegmentHeader, path: Path, *, actor: str, schema: Schema) -> None:
    if header.actor != actor:
        raise InputError(f"{path.parent} is the spool of actor {header.actor!r}, not of {actor!r}")
    if header.schema_hash != schema.hash:
        raise SchemaMismatch(
            f"{path.parent} holds unsent segments of schema {header.schema_hash}, this program has {schema.hash}: "
            "send them with the cameras they were made with, or give another folder"
        )


def _set_aside(file: BinaryIO, path: Path, start: int, size: int, why: str) -> None:
    aside = path.with_name(f"{path.name}.{start}.damaged")
    file.seek(start)
    with aside.open("wb") as copy:
        shutil.copyfileobj(file, copy)
        os.fsync(copy.fileno())
    os.truncate(path, start)
    log.error("spool %s is damaged (%s): its last %d bytes are set aside as %s", path, why, size - start, aside.name)


def _end(records: list[Record]) -> int:
    return records[-1].offset + records[-1].size if records else 0


def _checksum(length: int, mask: int, start: bytes) -> int:
    return zlib.crc32(start, zlib.crc32(_COVERED.pack(length, mask)))
