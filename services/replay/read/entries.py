"""Entries of an index stream, and how far into one a reader has come."""

from dataclasses import dataclass

from protos.codec import MAX_SEGMENT_BYTES, PREFIX_BYTES
from protos.errors import CorruptData
from protos.replay_pb2 import SegmentHeader
from services.replay.read.position import Cursor, SegmentRef, Writer

START = "0"
"""Reads a stream from its oldest entry on."""


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

    @classmethod
    def again(cls, writer: Writer, ref: SegmentRef) -> "Entry":
        """Of a segment that was read before."""
        actor, incarnation = writer
        return cls(
            position=b"",
            ring=ref.slot,
            actor=actor,
            incarnation=incarnation,
            seq=ref.seq,
            head=ref.head,
            size=ref.size,
            transitions=0,
        )

    @property
    def writer(self) -> Writer:
        return self.actor, self.incarnation

    def names(self, header: SegmentHeader) -> bool:
        """Whether a segment is the one that is meant."""
        return (header.actor, header.incarnation, header.seq) == (self.actor, self.incarnation, self.seq)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one entry was good for."""

    position: bytes
    entry: Entry | None
    """None where it made no sense."""
    new: bool = False
    """Its segment is one that had not been read."""


class Marks:
    """How far a stream has been read. Not thread-safe."""

    def __init__(self, cursor: Cursor) -> None:
        self.entry: bytes | str = cursor.entry
        self.slot, self.transitions = cursor.slot, cursor.transitions
        self._last = {(actor, incarnation): seq for actor, incarnation, seq in cursor.last}
        self._lost = set(cursor.lost)

    def knows(self, entry: Entry) -> bool:
        """Whether the entry's segment has been read, and is not one that was lost since."""
        known = entry.seq <= self._last.get(entry.writer, -1)
        return known and (entry.actor, entry.incarnation, entry.seq) not in self._lost

    def lose(self, entry: Entry) -> None:
        """Its segment had been read and is not on the server any more; if it comes again it is new."""
        self._lost.add((entry.actor, entry.incarnation, entry.seq))

    def accept(self, seen: Seen) -> None:
        """Goes on behind an entry."""
        self.entry = seen.position
        if seen.entry is not None:
            self.slot, self.transitions = seen.entry.ring, seen.entry.transitions
            if seen.new:
                self._take(seen.entry)

    def cursor(self) -> Cursor:
        return Cursor(
            entry=self.entry.decode() if isinstance(self.entry, bytes) else self.entry,
            slot=self.slot,
            transitions=self.transitions,
            last=tuple((*writer, seq) for writer, seq in self._last.items()),
            lost=tuple(sorted(self._lost)),
        )

    def _take(self, entry: Entry) -> None:
        self._last[entry.writer] = max(entry.seq, self._last.get(entry.writer, -1))
        self._lost.discard((entry.actor, entry.incarnation, entry.seq))


def is_before(left: bytes | str, right: bytes | str) -> bool:
    """Whether a stream's entry comes before another, by their names such as "1763640000000-0"."""
    return _numbers(left) < _numbers(right)


def _numbers(position: bytes | str) -> tuple[int, int]:
    text = position.decode() if isinstance(position, bytes) else position
    milliseconds, _, count = text.partition("-")
    return int(milliseconds), int(count or 0)
