"""This module keeps the newest weights on disk, whole after any crash.

    store/parts/<sha256>                     bytes of a part; a frozen part is written once
    store/versions/<number>-<digest>.json    a version's table; the digest is of the file itself
    store/lease.json                         number of the newest lease that a learner led with
    store/lock                               held while a server uses the folder

Parts are written before the table that names them, each file whole or not at all, so the newest readable table always
has its parts. The version before it is kept too, for the day the newest does not pass its checksums.
"""

import fcntl
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from google.protobuf import json_format

from protos import weights_pb2 as pb
from protos.errors import InputError
from protos.files import set_aside, write_durably
from protos.tensors import part_hash
from services.weights.wire import Limits, check_version

log = logging.getLogger(__name__)
_KEPT_VERSIONS = 2


class VersionStore:
    """Keeps versions in a folder that one server at a time may use. Raises InputError when another one does."""

    def __init__(self, directory: Path, *, limits: Limits) -> None:
        self._lead = directory / "lease.json"
        self._parts, self._versions = directory / "parts", directory / "versions"
        self._limits = limits
        for folder in (self._parts, self._versions):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = (directory / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"--store {directory}: another weights server uses this folder") from error
        self.highest = max((_number(path) for path in self._versions.iterdir()), default=0)
        """Highest number ever stored here, readable or not."""
        self.size_bytes = self._size()
        """Bytes of the parts on disk."""

    def load(self) -> tuple[pb.WeightVersion, dict[str, bytes]] | None:
        """Returns the newest version that passes its checksums, with its parts by sha256; sets damaged files aside."""
        for path in self._tables():
            version = self._read_table(path)
            if version is None:
                continue
            parts = {part.sha256: self._read_part(part) for part in version.parts}
            whole = {sha256: data for sha256, data in parts.items() if data is not None}
            if len(whole) == len(parts):
                return version, whole
            log.error("version %d cannot be served: a part of it is missing or damaged", version.number)
        return None

    def save(self, version: pb.WeightVersion, parts: Mapping[str, Callable[[], Iterable[bytes]]]) -> None:
        """Makes a version the newest on disk. `parts` gives the pieces of at least the parts that it lacks."""
        for part in version.parts:
            path = self._parts / part.sha256
            if part.sha256 in parts and not path.exists():
                write_durably(path, parts[part.sha256]())
        table = json_format.MessageToJson(version, preserving_proto_field_name=True).encode()
        write_durably(self._versions / f"{version.number:010d}-{_digest(table)}.json", [table])
        self.highest = version.number
        self._prune()
        self.size_bytes = self._size()

    def load_lead(self) -> pb.LeadRequest:
        """Returns the newest lease that was saved; an empty one before the first, and for a damaged file."""
        try:
            return json_format.Parse(self._lead.read_bytes(), pb.LeadRequest())
        except FileNotFoundError:
            return pb.LeadRequest()
        except (json_format.ParseError, UnicodeDecodeError) as error:
            set_aside(self._lead, f"no lease is in it ({error})")
            return pb.LeadRequest()

    def save_lead(self, lead: pb.LeadRequest) -> None:
        """Keeps the newest lease. Raises OSError."""
        write_durably(self._lead, [json_format.MessageToJson(lead).encode()])

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._parts.iterdir())

    def _tables(self) -> list[Path]:
        return sorted(self._versions.glob("*.json"), key=_number, reverse=True)

    def _read_table(self, path: Path) -> pb.WeightVersion | None:
        table = path.read_bytes()
        if path.stem.rpartition("-")[2] != _digest(table):
            set_aside(path, "the table fails its checksum")
            return None
        version = json_format.Parse(table, pb.WeightVersion())
        check_version(version, self._limits)
        return version

    def _read_part(self, part: pb.WeightPart) -> bytes | None:
        path = self._parts / part.sha256
        if not path.exists():
            return None
        data = path.read_bytes()
        digest = part_hash(part)
        digest.update(data)
        if len(data) == part.size and digest.hexdigest() == part.sha256:
            return data
        if hashlib.sha256(data).hexdigest() == part.sha256:
            log.error("%s: from an earlier TwinRL, whose sha256 left the table out; the learner sends it again", path)
        else:
            set_aside(path, f"part {part.name!r} fails its sha256")
        return None

    def _prune(self) -> None:
        tables = self._tables()
        for path in tables[_KEPT_VERSIONS:]:
            path.unlink()
        kept = (self._read_table(path) for path in tables[:_KEPT_VERSIONS])
        needed = {part.sha256 for version in kept if version is not None for part in version.parts}
        for path in self._parts.iterdir():
            if path.name not in needed and path.suffix != ".damaged":
                path.unlink()


def _digest(table: bytes) -> str:
    return hashlib.sha256(table).hexdigest()[:16]


def _number(path: Path) -> int:
    head = path.name.partition("-")[0]
    return int(head) if head.isdigit() else 0
