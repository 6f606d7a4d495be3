"""Follows one buffer's index stream and fetches of each new segment what is wanted of it.

    index entry ──► head of its slot ──► numbers ──────────────────────────► piece
                        └─ frames are wanted by what it says ──► the rest ──► piece with frames
    frames are wanted of every segment: ──► the whole slot at once ─────────► piece with frames

An entry counts only if the bytes in its slot carry the entry's own name. Slots are not reused while the server lives,
but a server that lost its last second in a crash gives the same slot number to another segment; and a segment that it
lost comes a second time from the writer's spool, under a new entry, when it has been read already.
"""

import logging
from collections import Counter
from dataclasses import dataclass, replace

from protos.codec import decode_numbers, read_header
from protos.errors import CorruptData, SchemaMismatch
from protos.prefix import MAX_SEGMENT_BYTES, PREFIX_BYTES, read_prefix
from protos.schema import Schema
from services.replay.connection import Client, Keys
from services.replay.episodes import Piece, Track
from services.replay.frame_demand import FrameDemand
from services.replay.slots import Rest, Slots, Span

log = logging.getLogger(__name__)

FETCH_ENTRIES = 64
COUNTS = ("segments", "corrupt", "wrong_schema", "overwritten", "repeated", "missed")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of an index stream, as far as a reader needs it."""

    position: bytes
    ring: int
    actor: str
    incarnation: str
    seq: int
    head: int
    """Bytes of the segment before its frames."""
    size: int
    transitions: int

    @classmethod
    def parse(cls, position: bytes, fields: dict[bytes, bytes]) -> "Entry":
        """Raises CorruptData for an entry that no commit script wrote."""
        try:
            numbers = (b"ring", b"seq", b"head", b"bytes", b"transitions")
            ring, seq, head, size, transitions = (int(fields[name]) for name in numbers)
            actor, incarnation = (fields[name].decode() for name in (b"actor", b"incarnation"))
        except (KeyError, ValueError) as error:
            raise CorruptData(f"index entry {position.decode()}: {error}") from error
        if not PREFIX_BYTES <= head <= size <= MAX_SEGMENT_BYTES:
            raise CorruptData(f"index entry {position.decode()}: a segment of {size} bytes, {head} before its frames")
        return cls(
            position=position,
            ring=ring,
            actor=actor,
            incarnation=incarnation,
            seq=seq,
            head=head,
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

    def __init__(self, client: Client, keys: Keys, schema: Schema, demand: FrameDemand) -> None:
        self._client, self._keys, self._schema, self._demand = client, keys, schema, demand
        self._slots = Slots(client, keys)
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        """Read by other threads, so no name is ever added."""
        self.transitions = 0
        """Ever committed to the buffer, up to the last entry read."""
        self.slot = 0
        """Number of the last slot read; 0 before the first."""
        self._position: bytes | str = "0"
        self._last: dict[tuple[str, str], int] = {}

    def read(self) -> Arrivals:
        """The next entries, at most 64."""
        found = self._next_entries()
        entries = [entry for entry in (self._parse(*each) for each in found) if entry is not None]
        found_in = self._slots.read([self._first_span(entry) for entry in entries])
        rests = self._slots.read_rests([self._rest_span(*each) for each in zip(entries, found_in, strict=True)])
        if found:
            self._position = found[-1][0]
        pieces = [self._accept(*each) for each in zip(entries, found_in, rests, strict=True)]
        return Arrivals(entries=len(found), pieces=[piece for piece in pieces if piece is not None])

    def complete(self, track: Track) -> Track:
        """The episode with the frames that it turned out to need; without those that have left the ring meanwhile."""
        if track.has_frames or not self._demand.of_episode(track):
            return track
        rests = self._slots.read_rests([_frames_of(piece) for piece in track.pieces])
        return replace(track, pieces=[self._complete(*each) for each in zip(track.pieces, rests, strict=True)])

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

    def _first_span(self, entry: Entry) -> Span:
        if self._demand.always:
            return Span(slot=entry.ring, start=0, stop=MAX_SEGMENT_BYTES, expected=entry.size)
        return Span(slot=entry.ring, start=0, stop=entry.head, expected=entry.head)

    def _rest_span(self, entry: Entry, data: bytes) -> Span | None:
        """What is wanted behind the head: frames, or whatever tells why the slot does not hold what the entry says."""
        if self._demand.always:
            return None
        try:
            head = read_prefix(data).head
            wanted = head != len(data) or (self._demand.recompute and self._demand.of_segment(read_header(data)))
        except (CorruptData, SchemaMismatch):
            return None
        if not wanted:
            return None
        return Span(slot=entry.ring, start=len(data), stop=MAX_SEGMENT_BYTES, expected=entry.size - entry.head)

    def _accept(self, entry: Entry, data: bytes, rest: Rest | None) -> Piece | None:
        """The decoded segment of an entry, or None with the reason counted."""
        if self.slot and entry.ring > self.slot + 1:
            self.counts["missed"] += entry.ring - self.slot - 1
        self.slot, self.transitions = entry.ring, entry.transitions
        writer = entry.actor, entry.incarnation
        if entry.seq <= self._last.get(writer, -1):
            self.counts["repeated"] += 1
            return None
        if not data:
            self.counts["overwritten"] += 1
            return None
        try:
            piece = self._decode(entry, data, rest)
        except SchemaMismatch as error:
            self._drop("wrong_schema", f"segment {entry.seq} of {entry.actor}/{entry.incarnation}: {error}")
            return None
        except CorruptData as error:
            self._drop("corrupt", f"segment {entry.seq} of {entry.actor}/{entry.incarnation}: {error}")
            return None
        if piece is None or (piece.header.actor, piece.header.incarnation, piece.header.seq) != (*writer, entry.seq):
            self.counts["overwritten"] += 1
            return None
        self._last[writer] = entry.seq
        if not piece.numbers.finite():
            self._drop("corrupt", f"segment {entry.seq} of {entry.actor}/{entry.incarnation}: NaN or infinity")
            return None
        self.counts["segments"] += 1
        return piece

    def _decode(self, entry: Entry, data: bytes, rest: Rest | None) -> Piece | None:
        """The segment in a slot; None where the slot was given away between two looks at it. Raises CorruptData."""
        prefix = read_prefix(data)
        if rest is not None and prefix.head != len(data):
            data, rest = data + rest.data, None
        header, numbers = decode_numbers(data, self._schema)
        piece = Piece(prefix=prefix, header=header, numbers=numbers, frames=None, slot=entry.ring)
        if rest is not None:
            return self._with_frames(piece, rest)
        if not self._demand.always and len(data) == prefix.head:
            return piece
        frames = memoryview(data)[prefix.head :]
        prefix.check_frames(frames)
        return replace(piece, frames=frames)

    def _complete(self, piece: Piece, rest: Rest | None) -> Piece:
        try:
            return piece if rest is None else self._with_frames(piece, rest) or piece
        except CorruptData as error:
            self._drop("corrupt", f"frames of segment {piece.header.seq} of {piece.header.actor}: {error}")
            return piece

    def _with_frames(self, piece: Piece, rest: Rest) -> Piece | None:
        """None where the frames are another segment's. Raises CorruptData where they are damaged."""
        if rest.checksums != piece.prefix.checksums:
            return None
        piece.prefix.check_frames(rest.data)
        return replace(piece, frames=memoryview(rest.data))

    def _drop(self, why: str, text: str) -> None:
        self.counts[why] += 1
        log.warning("%s: dropped %s", self._keys.index, text)


def _frames_of(piece: Piece) -> Span | None:
    """Where frames lie that are not here."""
    if piece.frames is not None:
        return None
    prefix = piece.prefix
    return Span(slot=piece.slot, start=prefix.head, stop=prefix.total, expected=prefix.frames)
