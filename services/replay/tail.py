"""Follows one buffer's index stream and fetches each new segment once.

An entry counts only if the bytes in its slot carry the entry's own name. Slots are not reused while the server lives,
but a server that lost its last second in a crash gives the same slot number to another segment; and a segment that it
lost comes a second time from the writer's spool, under a new entry, when it has been read already.
"""

import logging
from collections import Counter
from dataclasses import dataclass

from protos.codec import MAX_SEGMENT_BYTES, decode_numbers
from protos.errors import CorruptData, SchemaMismatch
from protos.schema import Schema
from services.replay.connection import Client, Keys
from services.replay.episodes import Piece

log = logging.getLogger(__name__)

FETCH_ENTRIES = 64
FETCH_BYTES = 32 << 20
COUNTS = ("segments", "corrupt", "wrong_schema", "overwritten", "repeated", "missed")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of an index stream, as far as a reader needs it."""

    position: bytes
    ring: int
    actor: str
    incarnation: str
    seq: int
    size: int
    transitions: int

    @classmethod
    def parse(cls, position: bytes, fields: dict[bytes, bytes]) -> "Entry":
        """Raises CorruptData for an entry that no commit script wrote."""
        try:
            ring, seq, size, transitions = (int(fields[name]) for name in (b"ring", b"seq", b"bytes", b"transitions"))
            actor, incarnation = (fields[name].decode() for name in (b"actor", b"incarnation"))
        except (KeyError, ValueError) as error:
            raise CorruptData(f"index entry {position.decode()}: {error}") from error
        return cls(
            position=position,
            ring=ring,
            actor=actor,
            incarnation=incarnation,
            seq=seq,
            size=size,
            transitions=transitions,
        )


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """What one read brought."""

    entries: int
    """Index entries consumed, good and bad."""
    pieces: list[Piece]


class Tail:
    """Reads from the oldest entry on. Belongs to one thread; raises redis errors."""

    def __init__(self, client: Client, keys: Keys, schema: Schema) -> None:
        self._client, self._keys, self._schema = client, keys, schema
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        """Read by other threads, so no name is ever added."""
        self.transitions = 0
        """Ever committed to the buffer, up to the last entry read."""
        self.slot = 0
        """Number of the last slot read; 0 before the first."""
        self._position: bytes | str = "0"
        self._last: dict[tuple[str, str], int] = {}

    def read(self) -> Arrivals:
        """The next entries, at most 64 and about 32 MiB of them."""
        found = self._next_entries()
        entries = [entry for entry in (self._parse(*each) for each in found) if entry is not None]
        blobs = self._fetch(entries)
        if found:
            self._position = found[-1][0]
        pieces = [self._accept(entry, blob) for entry, blob in zip(entries, blobs, strict=True)]
        return Arrivals(entries=len(found), pieces=[piece for piece in pieces if piece is not None])

    def _next_entries(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        answer = self._client.execute_command(
            "XREAD", "COUNT", FETCH_ENTRIES, "STREAMS", self._keys.index, self._position
        )
        return answer[0][1] if answer else []

    def _parse(self, position: bytes, fields: dict[bytes, bytes]) -> Entry | None:
        try:
            return Entry.parse(position, fields)
        except CorruptData as error:
            self._drop("corrupt", str(error))
            return None

    def _fetch(self, entries: list[Entry]) -> list[bytes]:
        """The entries' slots, at most about `FETCH_BYTES` per round trip."""
        blobs: list[bytes] = []
        pipeline, size = self._client.pipeline(transaction=False), 0
        for entry in entries:
            pipeline.execute_command("GETRANGE", self._keys.slots + str(entry.ring), 0, MAX_SEGMENT_BYTES - 1)
            size += entry.size
            if size > FETCH_BYTES:
                blobs += pipeline.execute()
                size = 0
        return blobs + pipeline.execute()

    def _accept(self, entry: Entry, blob: bytes) -> Piece | None:
        """The decoded segment of an entry, or None with the reason counted."""
        if self.slot and entry.ring > self.slot + 1:
            self.counts["missed"] += entry.ring - self.slot - 1
        self.slot, self.transitions = entry.ring, entry.transitions
        writer = entry.actor, entry.incarnation
        if entry.seq <= self._last.get(writer, -1):
            self.counts["repeated"] += 1
            return None
        if not blob:
            self.counts["overwritten"] += 1
            return None
        try:
            header, numbers = decode_numbers(blob, self._schema)
        except SchemaMismatch as error:
            self._drop("wrong_schema", f"segment {entry.seq} of {entry.actor}/{entry.incarnation}: {error}")
            return None
        except CorruptData as error:
            self._drop("corrupt", f"segment {entry.seq} of {entry.actor}/{entry.incarnation}: {error}")
            return None
        if (header.actor, header.incarnation, header.seq) != (*writer, entry.seq):
            self.counts["overwritten"] += 1
            return None
        self._last[writer] = entry.seq
        if not numbers.finite():
            self._drop("corrupt", f"segment {entry.seq} of {entry.actor}/{entry.incarnation}: NaN or infinity")
            return None
        self.counts["segments"] += 1
        return Piece(header=header, numbers=numbers, data=blob, slot=entry.ring)

    def _drop(self, why: str, text: str) -> None:
        self.counts[why] += 1
        log.warning("%s: dropped %s", self._keys.index, text)
