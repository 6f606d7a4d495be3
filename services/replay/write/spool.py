"""Segments on disk until the replay has them on its own disk.

    writer ──append──► spool files ──read──► sender ──► replay
                           ▲                              │ durable up to record n
                           └───────────── trim ◄──────────┘

Files (services/replay/write/spool_file.py) are named `<incarnation>.<first seq>.spool` and rotate at 8 MiB;
trimming removes whole files, never the newest, whose records say where the numbering of the incarnation stands.

Writes reach the kernel and no fsync follows: they survive the process, not a power cut. A power cut of the actor's
machine takes what it had not yet sent and what the kernel had not yet written of that, about the last half minute;
what the server has on its own disk is safe, and that is at most a second or two behind while the server answers.
"""

import fcntl
import logging
import os
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from threading import Lock

from protos.errors import InputError
from protos.replay_pb2 import SegmentHeader
from protos.schema import Buffer, Schema
from services.replay.write.spool_file import Record, mask_of, read_blob, record_prefix, take_over, write_at

log = logging.getLogger(__name__)

FILE_BYTES = 8 << 20
RECENT_BYTES = 8 << 20
"""Blobs kept in memory until they are read once, so that a sender which keeps up reads nothing back."""
NEARLY_FULL = 0.9


class Spool:
    """Numbered records 0, 1, 2, … of this run of the process; `first` to `end` are still here. Thread-safe."""

    def __init__(self, folder: Path, schema: Schema, *, actor: str, incarnation: str, limit_bytes: int) -> None:
        """Takes over what earlier incarnations left in the folder.

        Raises InputError if another process or actor uses it, SchemaMismatch if it holds segments of other cameras.
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
        self._lock_file = _lock(folder)
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
        """Number of the next record."""
        return self.first + len(self._records)

    @property
    def next_seq(self) -> int:
        """Number of this incarnation's next segment."""
        return self._next_seq

    @property
    def nearly_full(self) -> bool:
        """Above 90 % of the limit: who can wait should."""
        return self.bytes > NEARLY_FULL * self.limit_bytes

    def append(self, blob: bytes, header: SegmentHeader, buffers: Sequence[Buffer]) -> bool:
        """Adds a record; False, with nothing changed, when the spool or the disk is full."""
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
                write_at(self._file, prefix, blob, offset)
            except OSError as error:
                log.error("spool %s: %s", self._path, error)
                return False
            self._keep(Record.of(header, blob, mask, path=self._path, offset=offset))
            if self._recent_bytes + size <= RECENT_BYTES:
                self._recent[self._path, offset] = blob
                self._recent_bytes += size
            self._next_seq += 1
            return True

    def records(self, start: int, stop: int) -> list[Record]:
        """Those of the records `start` to `stop` - 1 that are still here."""
        with self._mutex:
            return list(islice(self._records, max(0, start - self.first), max(0, stop - self.first)))

    def read(self, record: Record) -> bytes:
        """The blob of a record that has not been trimmed."""
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


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(f"spool {folder} is in use by another process: give each actor its own") from error
    return descriptor
