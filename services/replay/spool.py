"""Segments on disk until the replay has them on its own disk.

    writer ──append──► spool files ──read──► sender ──► replay
                           ▲                              │ durable up to record n
                           └───────────── trim ◄──────────┘

A record is u32 length, u32 crc32, u8 mask of buffers, blob (protos/codec.py); length and crc32 cover mask and blob.
Files are named `<incarnation>.<first seq>.spool` and rotate at 8 MiB; trimming removes whole files, never the newest,
whose records say where the numbering of the incarnation stands. A process that dies while it writes leaves a torn last
record; the next one cuts it off. Writes reach the kernel, not the disk: they survive the process, not a power cut.
"""

import fcntl
import logging
import os
import struct
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock

from protos.codec import MAX_SEGMENT_BYTES, read_header
from protos.errors import CorruptData, InputError, SchemaMismatch
from protos.replay_pb2 import SegmentHeader
from protos.schema import BUFFERS, Buffer

log = logging.getLogger(__name__)

FILE_BYTES = 8 << 20
_PREFIX = struct.Struct("<IIB")
_COVERED_BEFORE_BLOB = 1
"""Bytes of the prefix that length and checksum cover: the mask."""


@dataclass(frozen=True, slots=True)
class Record:
    """One spooled segment: what the index entry says of it, and where its bytes are."""

    buffers: tuple[Buffer, ...]
    actor: str
    incarnation: str
    seq: int
    steps: int
    episode: str
    first_step: int
    outcome: str
    source: str
    cell: int
    path: Path
    offset: int
    size: int

    @property
    def writer(self) -> str:
        return f"{self.actor}/{self.incarnation}"


class Spool:
    """Numbered records 0, 1, 2, … of this run of the process; `first` to `end` are still here. Thread-safe."""

    def __init__(self, folder: Path, *, actor: str, incarnation: str, limit_bytes: int) -> None:
        """Takes over what earlier incarnations left in the folder. Raises InputError if another process uses it."""
        if "/" in incarnation:
            raise InputError(f"incarnation {incarnation!r}: it names files, so it has no /")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.incarnation, self.limit_bytes = folder, incarnation, limit_bytes
        self._file_bytes = min(FILE_BYTES, limit_bytes // 4)
        self.first = 0
        self.bytes = 0
        """On disk now."""
        self._records: deque[Record] = deque()
        self._mutex = Lock()
        self._lock_file = _lock(folder)
        self._sizes: dict[Path, int] = {}
        self._next_seq = 0
        for path in sorted(folder.glob("*.[0-9]*.spool")):
            self._load(path, actor)
        self._open_file()

    @property
    def end(self) -> int:
        """Number of the next record."""
        return self.first + len(self._records)

    @property
    def next_seq(self) -> int:
        """Number of this incarnation's next segment."""
        return self._next_seq

    def append(self, blob: bytes, header: SegmentHeader, buffers: Sequence[Buffer]) -> bool:
        """Adds a record; False, with nothing changed, when the spool or the disk is full."""
        mask = sum(1 << BUFFERS.index(buffer) for buffer in set(buffers))
        body = bytes([mask]) + blob
        data = struct.pack("<II", len(body), zlib.crc32(body)) + body
        with self._mutex:
            if self.bytes + len(data) > self.limit_bytes:
                return False
            if self._sizes[self._path] + len(data) > self._file_bytes and self._sizes[self._path]:
                os.close(self._file)
                self._open_file()
                self._remove_unused()
            try:
                _write_at(self._file, data, self._sizes[self._path])
            except OSError as error:
                log.error("spool %s: %s", self._path, error)
                return False
            self._keep(header, mask, self._path, self._sizes[self._path], len(data))
            self._next_seq += 1
            return True

    def records(self, start: int, stop: int) -> list[Record]:
        """Those of the records `start` to `stop` - 1 that are still here."""
        with self._mutex:
            return list(islice(self._records, max(0, start - self.first), max(0, stop - self.first)))

    def read(self, record: Record) -> bytes:
        """The blob of a record that has not been trimmed."""
        with record.path.open("rb") as file:
            file.seek(record.offset + _PREFIX.size)
            return file.read(record.size - _PREFIX.size)

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

    def _keep(self, header: SegmentHeader, mask: int, path: Path, offset: int, size: int) -> None:
        record = Record(
            buffers=tuple(buffer for bit, buffer in enumerate(BUFFERS) if mask >> bit & 1),
            actor=header.actor,
            incarnation=header.incarnation,
            seq=header.seq,
            steps=header.steps,
            episode=header.episode,
            first_step=header.first_step,
            outcome=header.outcome,
            source=header.source,
            cell=header.start.cell,
            path=path,
            offset=offset,
            size=size,
        )
        self._records.append(record)
        self._sizes[path] = self._sizes.get(path, 0) + size
        self.bytes += size

    def _load(self, path: Path, actor: str) -> None:
        """Registers a file's whole records and cuts off what follows them."""
        incarnation, first_seq, _ = path.name.rsplit(".", 2)
        if incarnation == self.incarnation:
            self._next_seq = int(first_seq)
        data = path.read_bytes()
        offset = 0
        while (size := _whole_record(data, offset)) > 0:
            blob = data[offset + _PREFIX.size : offset + size]
            header = read_header(blob)
            if header.actor != actor:
                raise InputError(f"{self.folder} is the spool of actor {header.actor!r}, not of {actor!r}")
            self._keep(header, data[offset + 8], path, offset, size)
            if incarnation == self.incarnation:
                self._next_seq = header.seq + 1
            offset += size
        if offset < len(data):
            log.warning("spool %s: cut a torn record of %d bytes", path, len(data) - offset)
            os.truncate(path, offset)
        if offset == 0 and incarnation != self.incarnation:
            path.unlink()


def _whole_record(data: bytes, offset: int) -> int:
    """Size of the record at `offset`, 0 if there is no whole one."""
    if offset + _PREFIX.size > len(data):
        return 0
    length, crc, _ = _PREFIX.unpack_from(data, offset)
    start = offset + _PREFIX.size - _COVERED_BEFORE_BLOB
    if length > MAX_SEGMENT_BYTES or start + length > len(data):
        return 0
    if zlib.crc32(memoryview(data)[start : start + length]) != crc:
        return 0
    try:
        read_header(data[start + _COVERED_BEFORE_BLOB : start + length])
    except (CorruptData, SchemaMismatch):
        return 0
    return start + length - offset


def _write_at(file: int, data: bytes, offset: int) -> None:
    """All of `data`, or nothing and OSError."""
    written = 0
    try:
        while written < len(data):
            written += os.pwrite(file, data[written:], offset + written)
    except OSError:
        os.ftruncate(file, offset)
        raise


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(f"spool {folder} is in use by another process: give each actor its own") from error
    return descriptor
