"""This module turns the log of one buffer on one server into episodes.

    index stream ──Tail──► StoredSegment, StoredSegment, … ──Assembler──► StoredEpisode
                    └─ slots: the head of each segment, and its images where they are wanted

A segment is decoded as far as its numbers. Its images are fetched, still encoded, only if something wants them: with
the whole slot where they always are wanted, after the head where readouts are to be computed, or when the episode turns
out to need them.

An index entry counts only if the bytes in its slot carry the entry's own name. Slots are not reused while the server
lives, but a server that lost its last second in a crash gives the same slot number to another segment; and a segment
that it lost comes a second time from the writer's spool, under a new entry, when it has been read already.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from protos.codec import (
    CHECKSUMS,
    MAX_SEGMENT_BYTES,
    PREFIX_BYTES,
    Prefix,
    decode_head,
    read_header,
    read_prefix,
)
from protos.episode import Episode, Segment
from protos.errors import CorruptData, SchemaMismatch
from protos.images import decode_images
from protos.replay_pb2 import SegmentHeader
from protos.schema import U8, Buffer, Observation, Outcome, Schema
from services.replay.connection import Client
from services.replay.settings import Keys

log = logging.getLogger(__name__)

START = "0"
"""Position in a stream before its oldest entry."""
FETCH_ENTRIES = 64
FETCH_BYTES = 32 << 20
"""About as many bytes are asked for in one round trip."""
COUNTS = ("segments", "corrupt", "wrong_schema", "overwritten", "repeated", "missed")
STALE_TURNS = 4
"""An open episode is given up when its actor has sent this many segments per slot without one of its own."""


class SegmentRef(NamedTuple):
    """A reference to a stored segment: where it lies, and the checksums that tell whether it still lies there."""

    slot: int
    head: int
    """Bytes of the segment before its images."""
    size: int
    checksums: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSegment:
    """A segment as it lies on a server, its numbers decoded, its images encoded."""

    slot: int
    prefix: Prefix
    header: SegmentHeader
    numbers: Segment
    """The segment without images: views of the head."""
    images: memoryview | None
    """Encoded, and right by their checksum; None where they were not fetched."""

    @property
    def ref(self) -> SegmentRef:
        prefix = self.prefix
        return SegmentRef(slot=self.slot, head=prefix.head, size=prefix.total, checksums=prefix.checksums)

    @property
    def held_bytes(self) -> int:
        """Bytes of the blob that were fetched."""
        return self.prefix.head if self.images is None else self.prefix.total


@dataclass(frozen=True)
class StoredEpisode:
    """An episode of T steps as it lies on a server, its numbers decoded, its images encoded."""

    buffer: Buffer
    shard: int
    segments: Sequence[StoredSegment]

    @cached_property
    def numbers(self) -> Episode:
        """The episode without images."""
        return Episode.of([segment.numbers for segment in self.segments])

    @property
    def actor(self) -> str:
        return self.segments[0].header.actor

    @property
    def has_images(self) -> bool:
        return all(segment.images is not None for segment in self.segments)

    def decoded(self, schema: Schema) -> Episode:
        """Decodes the images, which must have been fetched. Raises CorruptData."""
        side, wrist = zip(*[_decode_images(segment, schema) for segment in self.segments], strict=True)
        proprio = self.numbers.observation.proprio
        return replace(self.numbers, observation=Observation(side=_join(side), wrist=_join(wrist), proprio=proprio))


def _decode_images(segment: StoredSegment, schema: Schema) -> tuple[U8, U8]:
    assert segment.images is not None, "an episode without its images"
    header = segment.header
    return decode_images(segment.images, header.codec, header.image_bytes, header.steps + 1, schema)


def _join(parts: Sequence[U8]) -> U8:
    """Joins rows of consecutive segments; the last row of each but the final one is repeated by the next."""
    return np.concatenate([part[:-1] for part in parts[:-1]] + [parts[-1]])


@dataclass(frozen=True, kw_only=True)
class ImageDemand:
    """A demand says of which episodes of a buffer the images are fetched."""

    always: bool
    """All of them, with the whole slots at once."""
    recompute: bool = False
    """Episodes without readouts of the backbone `backbone_id`, which are computed from the images."""
    backbone_id: str = ""
    """Empty: any backbone's readouts will do, if an episode's are all of the same."""

    def of_segment(self, header: SegmentHeader) -> bool:
        """Tells whether the images of a segment are wanted, by its head."""
        return self.always or (self.recompute and not self._known(bool(header.embedding_dim), header.backbone_id))

    def of_episode(self, episode: Episode) -> bool:
        """Tells whether the images of an episode are wanted; one whose segments differ needs them of all."""
        return self.always or (self.recompute and not self._known(episode.embedding is not None, episode.backbone_id))

    def _known(self, embedded: bool, backbone_id: str) -> bool:
        return embedded and self.backbone_id in ("", backbone_id)


@dataclass(kw_only=True)
class Cursor:
    """A cursor says how far an index stream was read, and what came of it taken in."""

    entry: str = START
    """Name of the last entry, such as "1763640000000-0"."""
    slot: int = 0
    transitions: int = 0
    """Transitions ever committed to the buffer, up to that entry."""
    last: dict[str, int] = field(default_factory=dict)
    """Number of the latest segment of each writer."""
    lost: list[int] = field(default_factory=list)
    """Checksums of segments that were read, and that the server did not have at a restart: new if they come again."""

    def copy(self) -> "Cursor":
        return replace(self, last=dict(self.last), lost=list(self.lost))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry of an index stream that makes sense."""

    slot: int
    actor: str
    incarnation: str
    seq: int
    head: int
    """Bytes of the segment before its images."""
    size: int
    transitions: int

    @classmethod
    def parse(cls, fields: dict[bytes, bytes]) -> "Entry":
        """Raises CorruptData for an entry that no commit script wrote."""
        try:
            numbers = (b"ring", b"seq", b"head", b"bytes", b"transitions")
            slot, seq, head, size, transitions = (int(fields[name]) for name in numbers)
            actor, incarnation = (fields[name].decode() for name in (b"actor", b"incarnation"))
        except (KeyError, ValueError) as error:
            raise CorruptData(str(error)) from error
        if not PREFIX_BYTES <= head <= size <= MAX_SEGMENT_BYTES:
            raise CorruptData(f"a segment of {size} bytes, {head} before its images")
        return cls(
            slot=slot, actor=actor, incarnation=incarnation, seq=seq, head=head, size=size, transitions=transitions
        )

    @property
    def writer(self) -> str:
        """The writer's name, as servers keep it."""
        return f"{self.actor}/{self.incarnation}"

    def names(self, segment: StoredSegment) -> bool:
        """Tells whether a segment is the one that is meant."""
        header = segment.header
        return (header.actor, header.incarnation, header.seq) == (self.actor, self.incarnation, self.seq)


class Arrival(NamedTuple):
    """An index entry, and what was fetched of its slot."""

    position: bytes
    entry: Entry | None
    """The parsed entry; None where it makes no sense."""
    data: bytes
    images: Sequence[bytes] = ()
    """The images that its head called for, and the blob's checksums after them."""


class _Span(NamedTuple):
    slot: int
    start: int
    stop: int
    expected: int
    """Bytes that are expected, as far as is known."""


class Tail:
    """A tail reads one index stream, and of each new segment what is wanted. One thread at a time; raises redis errors.

    `fetch` the next entries, then `accept` each: only that moves the cursor.
    """

    def __init__(self, client: Client, keys: Keys, schema: Schema, demand: ImageDemand) -> None:
        """`client` is shared with others of the same thread."""
        self._client, self._keys, self._schema, self._demand = client, keys, schema, demand
        self.cursor = Cursor()
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        """Read by other threads, so no name is ever added."""
        self._resumed = False

    def resume(self, cursor: Cursor) -> None:
        """Goes on from a cursor; where the server's stream ends before it, with the stream's oldest entry."""
        self.cursor, self._resumed = cursor, True

    def fetch(self) -> list[Arrival]:
        """Fetches the next entries, at most 64, and their segments."""
        if self._resumed:
            newest = self._client.execute_command("XREVRANGE", self._keys.index, "+", "-", "COUNT", 1)
            if not newest or _numbers_of(newest[0][0].decode()) < _numbers_of(self.cursor.entry):
                self.cursor.entry = START
            self._resumed = False
        answer = self._client.execute_command(
            "XREAD", "COUNT", FETCH_ENTRIES, "STREAMS", self._keys.index, self.cursor.entry
        )
        found = [(position, self._parse(position, fields)) for position, fields in (answer[0][1] if answer else [])]
        fetched = iter(self._fetch([entry for _, entry in found if entry is not None]))
        arrivals = [Arrival(position, entry, b"" if entry is None else next(fetched)) for position, entry in found]
        spans = [self._image_spans(arrival) for arrival in arrivals]
        images = iter(self._read([span for each in spans for span in each]))
        return [
            arrival._replace(images=[next(images) for _ in each]) for arrival, each in zip(arrivals, spans, strict=True)
        ]

    def accept(self, arrival: Arrival) -> StoredSegment | None:
        """Moves the cursor behind an entry; returns its segment, if that is good and new."""
        segment = None if arrival.entry is None else self._new(arrival.entry, arrival)
        self.cursor.entry = arrival.position.decode()
        if arrival.entry is not None:
            self.cursor.slot, self.cursor.transitions = arrival.entry.slot, arrival.entry.transitions
        return segment

    def again(self, episodes: Sequence[Sequence[SegmentRef]]) -> list[list[StoredSegment] | None]:
        """Reads episodes again; None for one of which a segment is no longer there.

        A segment that is missing then counts as new if it ever comes again.
        """
        refs = [ref for episode in episodes for ref in episode]
        found: dict[SegmentRef, StoredSegment] = {}
        for ref, data in zip(refs, self._fetch(refs), strict=True):
            segment = self._checked(ref, data, partial(_is_at, ref))
            if segment is not None:
                found[ref] = segment
            elif ref.checksums not in self.cursor.lost:
                self.cursor.lost.append(ref.checksums)
        return [
            [found[ref] for ref in episode] if all(ref in found for ref in episode) else None for episode in episodes
        ]

    def complete(self, episode: StoredEpisode) -> StoredEpisode:
        """Returns the episode with the images that it turned out to need, as far as the server still has them."""
        if episode.has_images or not self._demand.of_episode(episode.numbers):
            return episode
        spans = [_image_spans(segment.slot, segment.prefix) for segment in episode.segments]
        found = iter(self._read([span for each in spans for span in each]))
        segments = [self._completed(segment, next(found), next(found)) for segment in episode.segments]
        return StoredEpisode(episode.buffer, episode.shard, segments)

    def _new(self, entry: Entry, arrival: Arrival) -> StoredSegment | None:
        cursor = self.cursor
        if cursor.slot and entry.slot > cursor.slot + 1:
            self.counts["missed"] += entry.slot - cursor.slot - 1
        known = entry.seq <= cursor.last.get(entry.writer, -1)
        segment = None if known and not cursor.lost else self._checked(entry, arrival.data, entry.names, arrival.images)
        if known and (segment is None or segment.prefix.checksums not in cursor.lost):
            self.counts["repeated"] += 1
            return None
        if segment is not None:
            self.counts["segments"] += 1
            cursor.last[entry.writer] = max(entry.seq, cursor.last.get(entry.writer, -1))
            if segment.prefix.checksums in cursor.lost:
                cursor.lost.remove(segment.prefix.checksums)
        return segment

    def _parse(self, position: bytes, fields: dict[bytes, bytes]) -> Entry | None:
        try:
            return Entry.parse(fields)
        except CorruptData as error:
            self._drop("corrupt", f"index entry {position.decode()}: {error}")
            return None

    def _fetch(self, segments: Sequence[Entry | SegmentRef]) -> list[bytes]:
        """Fetches the head of each segment, or its whole slot where images are always wanted."""
        if self._demand.always:
            return self._read([_Span(each.slot, 0, MAX_SEGMENT_BYTES, each.size) for each in segments])
        return self._read([_Span(each.slot, 0, each.head, each.head) for each in segments])

    def _read(self, spans: Sequence[_Span]) -> list[bytes]:
        """Reads parts of slots, many per round trip; what a slot does not have is missing from the answer."""
        found: list[bytes] = []
        pipeline, size = self._client.pipeline(transaction=False), 0
        for span in spans:
            pipeline.execute_command("GETRANGE", f"{self._keys.slots}{span.slot}", span.start, span.stop - 1)
            size += span.expected
            if size > FETCH_BYTES:
                found += pipeline.execute()
                size = 0
        return found + pipeline.execute()

    def _image_spans(self, arrival: Arrival) -> list[_Span]:
        """Names the images of a segment, if its head calls for them. They are read before the cursor moves."""
        if arrival.entry is None or self._demand.always or not self._demand.recompute:
            return []
        try:
            wanted = self._demand.of_segment(read_header(arrival.data))
            return _image_spans(arrival.entry.slot, read_prefix(arrival.data)) if wanted else []
        except (CorruptData, SchemaMismatch):
            return []

    def _checked(
        self,
        meant: Entry | SegmentRef,
        data: bytes,
        is_meant: Callable[[StoredSegment], bool],
        images: Sequence[bytes] = (),
    ) -> StoredSegment | None:
        """Decodes what was fetched of a slot; None, with the reason counted, where it is not the segment meant."""
        try:
            prefix = read_prefix(data) if data else None
            segment = None
            if prefix is not None and prefix.head == meant.head:
                segment = self._decode(meant.slot, prefix, data)
            if segment is not None and images:
                segment = _with_images(segment, *images)
            if segment is None or not is_meant(segment):
                self.counts["overwritten"] += 1
                return None
            if not segment.numbers.finite():
                raise CorruptData("NaN or infinity")
        except (SchemaMismatch, CorruptData) as error:
            self._drop("corrupt" if isinstance(error, CorruptData) else "wrong_schema", f"slot {meant.slot}: {error}")
            return None
        return segment

    def _decode(self, slot: int, prefix: Prefix, data: bytes) -> StoredSegment:
        header, numbers = decode_head(data, self._schema)
        images = memoryview(data)[prefix.head :] if self._demand.always else None
        if images is not None:
            prefix.check_frames(images)
        return StoredSegment(slot=slot, prefix=prefix, header=header, numbers=numbers, images=images)

    def _completed(self, segment: StoredSegment, images: bytes, checksums: bytes) -> StoredSegment:
        try:
            return _with_images(segment, images, checksums) or segment
        except CorruptData as error:
            self._drop("corrupt", f"images of segment {segment.header.seq} of {segment.header.actor}: {error}")
            return segment

    def _drop(self, why: str, text: str) -> None:
        self.counts[why] += 1
        log.warning("%s: dropped %s", self._keys.index, text)


def _image_spans(slot: int, prefix: Prefix) -> list[_Span]:
    """Names a segment's images, and after them the checksums, as the slot may hold another segment by then."""
    size = CHECKSUMS.stop - CHECKSUMS.start
    return [
        _Span(slot, prefix.head, prefix.total, prefix.frames),
        _Span(slot, CHECKSUMS.start, CHECKSUMS.stop, size),
    ]


def _with_images(segment: StoredSegment, images: bytes, checksums: bytes) -> StoredSegment | None:
    """Adds images to a segment; None where they are another's. Raises CorruptData where they are damaged."""
    if int.from_bytes(checksums, "little") != segment.prefix.checksums:
        return None
    segment.prefix.check_frames(images)
    return replace(segment, images=memoryview(images))


def _is_at(ref: SegmentRef, segment: StoredSegment) -> bool:
    return segment.ref == ref


def _numbers_of(entry: str) -> tuple[int, int]:
    """Parses the name of a stream's entry, by which entries are ordered."""
    milliseconds, _, count = entry.partition("-")
    return int(milliseconds), int(count or 0)


@dataclass(kw_only=True)
class OpenEpisode:
    """An open episode is one whose outcome has not arrived."""

    segments: list[StoredSegment] = field(default_factory=list)
    turn: int = 0
    """The actor's segment count when this episode last got one."""

    @property
    def next_step(self) -> int:
        header = self.segments[-1].header
        return header.first_step + header.steps

    @property
    def held_bytes(self) -> int:
        return sum(segment.held_bytes for segment in self.segments)


@dataclass(kw_only=True)
class Actor:
    """An actor as an assembler knows it: its episodes that are open, by name, and how many segments it has sent."""

    incarnation: str
    turn: int = 0
    slots: int = 0
    """Most episodes that were open at once."""
    open: dict[str, OpenEpisode] = field(default_factory=dict)


class Assembler:
    """An assembler collects the segments of one buffer and gives back every episode that is whole or gets no more.

    Segments of one episode arrive in order, among those of others. An episode is whole with the segment that tells its
    outcome. Where that never comes (the actor died, or dropped the episode), the part that arrived is closed and
    bootstraps like a timeout: when the actor's next incarnation shows up, when the same actor has gone on for long
    enough without it, when a segment in the middle is missing, or when too many bytes wait.
    """

    def __init__(self, buffer: Buffer, shard: int, *, max_waiting_bytes: int) -> None:
        self.buffer, self.shard, self.max_waiting_bytes = buffer, shard, max_waiting_bytes
        self.cut_short = 0
        """Episodes, or parts of one, closed without an outcome."""
        self.waiting_bytes = 0
        """Bytes of the segments of open episodes, as far as they were fetched."""
        self.actors: dict[str, Actor] = {}

    @property
    def open(self) -> int:
        """Episodes that wait for more."""
        return sum(len(actor.open) for actor in list(self.actors.values()))

    def add(self, segment: StoredSegment) -> list[StoredEpisode]:
        """Takes a segment; the segments of one actor come in the order in which they were written."""
        header = segment.header
        actor = self.actors.setdefault(header.actor, Actor(incarnation=header.incarnation))
        closed: list[StoredEpisode] = []
        if actor.incarnation != header.incarnation:
            closed += [self._close(actor, name) for name in list(actor.open)]
            actor.incarnation = header.incarnation
        waiting = actor.open.get(header.episode)
        if waiting is not None and waiting.next_step != header.first_step:
            closed.append(self._close(actor, header.episode))
        self._append(actor, segment)
        if Outcome(header.outcome) is not Outcome.RUNNING:
            closed.append(self._close(actor, header.episode))
        return closed + self._close_stale(actor) + self._close_oldest()

    def put_back(self, name: str, actor: Actor) -> None:
        """Puts an actor with its open episodes back, as they were at an earlier position."""
        self.actors[name] = actor
        self.waiting_bytes += sum(episode.held_bytes for episode in actor.open.values())

    def _append(self, actor: Actor, segment: StoredSegment) -> None:
        waiting = actor.open.setdefault(segment.header.episode, OpenEpisode())
        actor.turn += 1
        actor.slots = max(actor.slots, len(actor.open))
        waiting.segments.append(segment)
        waiting.turn = actor.turn
        self.waiting_bytes += segment.held_bytes

    def _close(self, actor: Actor, name: str) -> StoredEpisode:
        waiting = actor.open.pop(name)
        self.waiting_bytes -= waiting.held_bytes
        episode = StoredEpisode(self.buffer, self.shard, waiting.segments)
        self.cut_short += Outcome(waiting.segments[-1].header.outcome) is Outcome.RUNNING
        return episode

    def _close_stale(self, actor: Actor) -> list[StoredEpisode]:
        limit = STALE_TURNS * actor.slots
        return [self._close(actor, name) for name, each in list(actor.open.items()) if actor.turn - each.turn > limit]

    def _close_oldest(self) -> list[StoredEpisode]:
        closed = []
        while self.waiting_bytes > self.max_waiting_bytes:
            actor = next(actor for actor in self.actors.values() if actor.open)
            closed.append(self._close(actor, next(iter(actor.open))))
        return closed
