"""This module keeps segments on disk until the replay has them on its own disk.

    writer ──append──► spool files ──read──► sender ──► replay
                           ▲                              │ durable up to record n
                           └───────────── trim ◄──────────┘

Files are named `<incarnation>.<first seq>.spool` and rotate at 8 MiB; trimming removes whole files, never the newest,
whose records say where the numbering of the incarnation stands. A file holds whole records, one after another:

    offset  bytes  content of a record
    0       4      u32 length of the blob                    (little-endian)
    4       1      mask of buffers
    5       4      crc32 of these five bytes and the blob's first 28
    9       …      blob (protos/codec.py), whose first 28 bytes hold its sizes and the crc32 of the rest

A process that dies while it writes leaves a torn last record, which the next one cuts off: `append` had not returned.
Anything else that is wrong is damage; what follows it in the file is set aside, beside the file, and not sent.

Writes reach the kernel and no fsync follows: they survive the process, not a power cut. A power cut of the actor's
machine takes what it had not yet sent and what the kernel had not yet written of that, about the last half minute;
what the server has on its own disk is safe, and that is at most a second or two behind while the server answers.
"""

import fcntl
import logging
import os
import shutil
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from protos.codec import MAX_SEGMENT_BYTES, PREFIX_BYTES, check_blob, has_human_step, read_prefix
from protos.errors import CorruptData, InputError, SchemaMismatch
from protos.problems import doing, problem_of
from protos.replay_pb2 import SegmentHeader
from protos.schema import BUFFERS, Buffer, Schema

log = logging.getLogger(__name__)

FILE_BYTES = 8 << 20
RECENT_BYTES = 8 << 20
"""Blobs kept in memory until they are read once, so that a sender which keeps up reads nothing back."""
NEARLY_FULL = 0.9
LOCK_POLL_S = 0.1
_COVERED = struct.Struct("<IB")
_PREFIX = struct.Struct("<IBI")


@dataclass(frozen=True, slots=True)
class Record:
    """A record is one spooled segment: the fields of its index entry, and where its bytes are."""

    buffers: tuple[Buffer, ...]
    writer: str
    """actor/incarnation."""
    seq: int
    steps: int
    tags: tuple[str | int, ...]
    """Fields and values of its index entry, beside those that the commit script adds."""
    path: Path
    offset: int
    size: int
    added_s: float
    """Monotonic time at which it was spooled."""

    @classmethod
    def of(
        cls, header: SegmentHeader, blob: bytes, mask: int, *, path: Path, offset: int, added_s: float | None = None
    ) -> "Record":
        """Describes a blob that stands at `offset` of the file `path`."""
        return cls(
            buffers=tuple(buffer for bit, buffer in enumerate(BUFFERS) if mask >> bit & 1),
            writer=f"{header.actor}/{header.incarnation}",
            seq=header.seq,
            steps=header.steps,
            tags=(
                *("head", read_prefix(blob).head),  # bytes of the blob before the frames
                *("actor", header.actor, "incarnation", header.incarnation),
                *("episode", header.episode, "first_step", header.first_step, "outcome", header.outcome),
                *("source", header.source, "cell", header.start.cell, "human", int(has_human_step(header, blob))),
                *("oldest_version", header.oldest_version, "newest_version", header.newest_version),
            ),
            path=path,
            offset=offset,
            size=_PREFIX.size + len(blob),
            added_s=time.monotonic() if added_s is None else added_s,
        )


class Spool:
    """A spool keeps records numbered from 0 on; those from `first` to `end` are still here. Thread-safe."""

    def __init__(
        self, folder: Path, schema: Schema, *, actor: str, incarnation: str, limit_bytes: int, wait_s: float = 0.0
    ) -> None:
        """Takes over what earlier incarnations left in the folder.

        Raises InputError if another process still uses it after `wait_s`, or another actor, and SchemaMismatch if it
        holds segments of other cameras.
        """
        if "/" in incarnation:
            raise InputError(f"incarnation {incarnation!r}: it names files, so it has no /")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.incarnation, self.limit_bytes = folder, incarnation, limit_bytes
        self._file_bytes = min(FILE_BYTES, limit_bytes // 4)
        self.first = 0
        self.bytes = 0
        """On disk now."""
        self._records: deque[Record] = deque()
        self._recent: dict[tuple[Path, int], bytes] = {}
        self._recent_bytes = 0
        self._mutex = Lock()
        self._lock_file = _lock(folder, wait_s)
        self._sizes: dict[Path, int] = {}
        self._next_seq = 0
        try:
            for path in sorted(folder.glob("*.[0-9]*.spool")):
                self._load(path, actor, schema)
            self._open_file()
        except BaseException:
            os.close(self._lock_file)
            raise

    @property
    def end(self) -> int:
        """Returns the number of the next record."""
        return self.first + len(self._records)

    @property
    def next_seq(self) -> int:
        """Returns the number of this incarnation's next segment."""
        return self._next_seq

    @property
    def nearly_full(self) -> bool:
        """Returns True above 90 % of the limit: a caller that can wait should."""
        return self.bytes > NEARLY_FULL * self.limit_bytes

    def append(self, blob: bytes, header: SegmentHeader, buffers: Sequence[Buffer]) -> bool:
        """Adds a record; returns False, with nothing changed, when the spool or the disk is full."""
        mask = mask_of(buffers)
        prefix = record_prefix(blob, mask)
        size = len(prefix) + len(blob)
        with self._mutex:
            if self.bytes + size > self.limit_bytes:
                return False
            if self._sizes[self._path] + size > self._file_bytes and self._sizes[self._path]:
                os.close(self._file)
                self._open_file()
                self._remove_unused()
            offset = self._sizes[self._path]
            try:
                with doing("keeping a segment", self._path):
                    write_at(self._file, prefix, blob, offset)
            except OSError as error:
                log.error("spool: %s", problem_of(error))
                return False
            self._keep(Record.of(header, blob, mask, path=self._path, offset=offset))
            if self._recent_bytes + size <= RECENT_BYTES:
                self._recent[self._path, offset] = blob
                self._recent_bytes += size
            self._next_seq += 1
            return True

    def records(self, start: int, stop: int) -> list[Record]:
        """Returns those of the records `start` to `stop` - 1 that are still here."""
        with self._mutex:
            return list(islice(self._records, max(0, start - self.first), max(0, stop - self.first)))

    def read(self, record: Record) -> bytes:
        """Returns the blob of a record that has not been trimmed."""
        with self._mutex:
            blob = self._recent.pop((record.path, record.offset), None)
            if blob is not None:
                self._recent_bytes -= record.size
        return read_blob(record) if blob is None else blob

    def trim(self, end: int) -> list[Record]:
        """Forgets the records before `end` and returns them; removes the files that hold no others."""
        with self._mutex:
            trimmed = [self._records.popleft() for _ in range(min(end - self.first, len(self._records)))]
            self.first += len(trimmed)
            self._remove_unused()
        return trimmed

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lock_file)

    def _open_file(self) -> None:
        self._path = self.folder / f"{self.incarnation}.{self._next_seq:012d}.spool"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._sizes.setdefault(self._path, 0)

    def _remove_unused(self) -> None:
        """Removes the files before the first record's; `_sizes` has them in the order of their records."""
        needed = self._records[0].path if self._records else self._path
        for path in list(self._sizes):
            if path == needed:
                break
            self.bytes -= self._sizes.pop(path)
            path.unlink()

    def _keep(self, record: Record) -> None:
        self._records.append(record)
        self._sizes[record.path] = self._sizes.get(record.path, 0) + record.size
        self.bytes += record.size

    def _load(self, path: Path, actor: str, schema: Schema) -> None:
        """Registers a file's whole records."""
        incarnation, first_seq, _ = path.name.rsplit(".", 2)
        size = path.stat().st_size
        records, damaged = take_over(path, actor=actor, schema=schema)
        for record in records:
            self._keep(record)
        if incarnation == self.incarnation:
            self._next_seq = records[-1].seq + 1 if records else int(first_seq)
            if damaged:
                self._next_seq += size  # beyond every number that the lost bytes may have used
        if not records and incarnation != self.incarnation:
            path.unlink()


def _lock(folder: Path, wait_s: float) -> int:
    descriptor, give_up = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600), time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError as error:
            if time.monotonic() >= give_up:
                os.close(descriptor)
                raise InputError(f"spool {folder} is in use by another process: give each actor its own") from error
        time.sleep(LOCK_POLL_S)


def mask_of(buffers: Sequence[Buffer]) -> int:
    """Returns the buffers that a record goes to, as bits."""
    return sum(1 << BUFFERS.index(buffer) for buffer in set(buffers))


def record_prefix(blob: bytes, mask: int) -> bytes:
    """Returns the bytes that stand before a blob in the file."""
    return _PREFIX.pack(len(blob), mask, _checksum(len(blob), mask, blob[:PREFIX_BYTES]))


def write_at(file: int, prefix: bytes, blob: bytes, offset: int) -> None:
    """Writes the whole record, or nothing and raises OSError."""
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
    """Reads the blob of a record from its file."""
    with record.path.open("rb") as file:
        file.seek(record.offset + _PREFIX.size)
        return file.read(record.size - _PREFIX.size)


def take_over(path: Path, *, actor: str, schema: Schema) -> tuple[list[Record], bool]:
    """Returns the whole records of a file that an earlier process left, and whether damage was set aside.

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
    """Reads up to the end or a torn record. Raises CorruptData at damage."""
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
