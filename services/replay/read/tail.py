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
from collections.abc import Sequence
from dataclasses import dataclass, replace

from protos.codec import MAX_SEGMENT_BYTES, decode_numbers, read_header, read_prefix
from protos.errors import CorruptData, SchemaMismatch
from protos.schema import Schema
from services.replay.connection import Client
from services.replay.read.entries import START, Entry, Marks, Seen, is_before
from services.replay.read.episodes import Piece, Track
from services.replay.read.frame_demand import FrameDemand
from services.replay.read.position import Cursor, EpisodeRef
from services.replay.read.slots import Rest, Slots, Span
from services.replay.settings import Keys

log = logging.getLogger(__name__)

FETCH_ENTRIES = 64
COUNTS = ("segments", "corrupt", "wrong_schema", "overwritten", "repeated", "missed")


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One index entry, good or bad, and the segment that it brought."""

    seen: Seen
    piece: Piece | None


class Tail:
    """Reads from the oldest entry on, or from where `resume` puts it. Belongs to one thread; raises redis errors."""

    def __init__(self, client: Client, keys: Keys, schema: Schema, demand: FrameDemand) -> None:
        self._client, self._keys, self._schema, self._demand = client, keys, schema, demand
        self._slots = Slots(client, keys)
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        """Read by other threads, so no name is ever added."""
        self._read, self._taken = Marks(Cursor()), Marks(Cursor())
        self._resumed = False

    @property
    def transitions(self) -> int:
        """Ever committed to the buffer, up to the last entry that was taken in."""
        return self._taken.transitions

    @property
    def slot(self) -> int:
        """Number of the last slot read; 0 before the first."""
        return self._read.slot

    def read(self) -> list[Arrival]:
        """The next entries, at most 64; call `taken` for each once it has been dealt with."""
        found = [(position, self._parse(position, fields)) for position, fields in self._next_entries()]
        entries = [entry for _, entry in found if entry is not None]
        blobs = iter(self._blobs(entries))
        return [
            self._arrived(position, None, b"", None) if entry is None else self._arrived(position, entry, *next(blobs))
            for position, entry in found
        ]

    def taken(self, arrival: Arrival) -> None:
        """What the entry brought is where it belongs: from now on the cursor is behind it."""
        self._taken.accept(arrival.seen)

    def cursor(self) -> Cursor:
        """Behind the last entry that was taken in."""
        return self._taken.cursor()

    def resume(self, cursor: Cursor) -> None:
        """Goes on from there; where the server's stream ends before it, with its oldest entry."""
        self._read, self._taken = Marks(cursor), Marks(cursor)
        self._resumed = True

    def again(self, episodes: Sequence[EpisodeRef]) -> list[list[Piece] | None]:
        """The segments of episodes that were read before; None for an episode that is no longer there as a whole.

        A segment that is missing then counts as new if it ever comes again.
        """
        entries = [Entry.again(episode.writer, ref) for episode in episodes for ref in episode.segments]
        found = [self._checked(entry, *blob) for entry, blob in zip(entries, self._blobs(entries), strict=True)]
        for entry, piece in zip(entries, found, strict=True):
            if piece is None:
                self._read.lose(entry)
                self._taken.lose(entry)
        each = iter(found)
        groups = [[next(each) for _ in episode.segments] for episode in episodes]
        return [_all_of(group) for group in groups]

    def complete(self, track: Track) -> Track:
        """The episode with the frames that it turned out to need; without those that have left the ring meanwhile."""
        if track.has_frames or not self._demand.of_episode(track):
            return track
        rests = self._slots.read_rests([_frames_of(piece) for piece in track.pieces])
        return replace(track, pieces=[self._complete(*each) for each in zip(track.pieces, rests, strict=True)])

    def _next_entries(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        if self._resumed:
            newest = self._client.execute_command("XREVRANGE", self._keys.index, "+", "-", "COUNT", 1)
            if not newest or is_before(newest[0][0], self._read.entry):
                self._read.entry = START
            self._resumed = False
        answer = self._client.execute_command(
            "XREAD", "COUNT", FETCH_ENTRIES, "STREAMS", self._keys.index, self._read.entry
        )
        return answer[0][1] if answer else []

    def _blobs(self, entries: Sequence[Entry]) -> list[tuple[bytes, Rest | None]]:
        """Of each entry what is wanted of its slot."""
        found = self._slots.read([self._first_span(entry) for entry in entries])
        rests = self._slots.read_rests([self._rest_span(*each) for each in zip(entries, found, strict=True)])
        return list(zip(found, rests, strict=True))

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

    def _arrived(self, position: bytes, entry: Entry | None, data: bytes, rest: Rest | None) -> Arrival:
        """The decoded segment of the next entry; without it where it is bad, for the reason that is counted."""
        piece = None if entry is None else self._new(entry, data, rest)
        seen = Seen(position=position, entry=entry, new=piece is not None)
        self._read.accept(seen)
        return Arrival(seen=seen, piece=piece)

    def _new(self, entry: Entry, data: bytes, rest: Rest | None) -> Piece | None:
        if self._read.slot and entry.ring > self._read.slot + 1:
            self.counts["missed"] += entry.ring - self._read.slot - 1
        if self._read.knows(entry):
            self.counts["repeated"] += 1
            return None
        piece = self._checked(entry, data, rest)
        self.counts["segments"] += piece is not None
        return piece

    def _checked(self, entry: Entry, data: bytes, rest: Rest | None) -> Piece | None:
        """The decoded segment of an entry, or None with the reason counted."""
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
        if piece is None or not entry.names(piece.header):
            self.counts["overwritten"] += 1
            return None
        if not piece.numbers.finite():
            self._drop("corrupt", f"segment {entry.seq} of {entry.actor}/{entry.incarnation}: NaN or infinity")
            return None
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


def _all_of(pieces: Sequence[Piece | None]) -> list[Piece] | None:
    there = [piece for piece in pieces if piece is not None]
    return there if len(there) == len(pieces) else None


def _frames_of(piece: Piece) -> Span | None:
    """Where frames lie that are not here."""
    if piece.frames is not None:
        return None
    prefix = piece.prefix
    return Span(slot=piece.slot, start=prefix.head, stop=prefix.total, expected=prefix.frames)
