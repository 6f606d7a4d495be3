"""How far a reader has come, so that a later one goes on from exactly there.

    record     JSON: per shard and buffer how far its stream was read and which episodes were open; what the strategies
               know beside their rows; names of actors and writers
    arrays     per buffer the episodes of the index in their order, one row each, and their segments; priorities

An episode is named by where its segments lie on their server and by its writer's numbers for them. What is in them is
read again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.errors import CorruptData, InputError
from protos.schema import BUFFERS, Buffer
from protos.settings import from_json, to_json
from services.replay.read.episodes import Piece, Track

FORMAT = 1
EPISODE_COLUMNS = 6  # buffer, shard, writer, start, rows, segments
SEGMENT_COLUMNS = 4  # slot, seq, head, size
Writer = tuple[str, str]
"""Actor and incarnation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentRef:
    """A segment of a known writer on a known shard."""

    slot: int
    seq: int
    head: int
    """Bytes before its frames."""
    size: int

    @classmethod
    def of(cls, piece: Piece) -> "SegmentRef":
        return cls(slot=piece.slot, seq=piece.header.seq, head=piece.prefix.head, size=piece.prefix.total)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeRef:
    """An episode that a reader has taken in."""

    buffer: Buffer
    shard: int
    writer: Writer
    segments: tuple[SegmentRef, ...]
    start: int = 0
    """Number of its first row, as the index counts them for ever; 0 where it is not in an index."""
    rows: int = 0

    @classmethod
    def of(cls, track: Track, shard: int, *, start: int = 0, rows: int = 0) -> "EpisodeRef":
        header = track.pieces[0].header
        return cls(
            buffer=track.buffer,
            shard=shard,
            writer=(header.actor, header.incarnation),
            segments=tuple(map(SegmentRef.of, track.pieces)),
            start=start,
            rows=rows,
        )


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """How far one index stream was read and what came of it taken in."""

    entry: str = "0"
    slot: int = 0
    transitions: int = 0
    last: tuple[tuple[str, str, int], ...] = ()
    """Actor, incarnation and number of each writer's latest segment."""
    lost: tuple[tuple[str, str, int], ...] = ()
    """Segments that were read, and that the server did not have at a restart: they count as new if they come again."""


@dataclass(frozen=True, kw_only=True)
class OpenEpisode:
    """Segments of an episode whose end has not arrived."""

    turn: int
    segments: tuple[SegmentRef, ...]


@dataclass(frozen=True, kw_only=True)
class OpenActor:
    """What an assembler knows of an actor."""

    actor: str
    incarnation: str
    turn: int
    slots: int
    episodes: tuple[OpenEpisode, ...]


@dataclass(frozen=True, kw_only=True)
class Followed:
    """One buffer on one shard."""

    cursor: Cursor = Cursor()
    actors: tuple[OpenActor, ...] = ()

    def episodes(self, buffer: Buffer, shard: int) -> list[EpisodeRef]:
        """Those whose end has not arrived, in order."""
        return [
            EpisodeRef(buffer=buffer, shard=shard, writer=(actor.actor, actor.incarnation), segments=episode.segments)
            for actor in self.actors
            for episode in actor.episodes
        ]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What a strategy knows beside the rows that it can draw."""

    strategy: str
    number: float = 0.0
    """Uniform: how far the ring is filled. Priority: the largest mass so far."""
    cells: tuple[tuple[int, float], ...] = ()
    """Cells and weights, in the order in which they were met."""


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """One buffer in the learner's memory."""

    capacity: int
    next: int
    """Rows ever added to the index."""
    embedding_dim: int
    """Numbers of a readout; 0 without readouts, or before the first."""
    sampling: Sampling
    rates: tuple[tuple[int, float], ...]
    """Cells and their success rates."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The part of a position that is JSON."""

    format: int = FORMAT
    actors: tuple[str, ...] = ()
    """In the order of their numbers in batches."""
    writers: tuple[Writer, ...] = ()
    shards: tuple[Mapping[Buffer, Followed], ...] = ()
    mirrors: Mapping[Buffer, Mirrored] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Position:
    """Of a `ReplayReader`."""

    record: Record
    arrays: Mapping[str, NDArray[Any]]

    def manifest(self) -> dict[str, Any]:
        """`record` as plain JSON values."""
        return to_json(self.record)

    @classmethod
    def parse(cls, manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Position":
        """From what `manifest` gave and the arrays. Raises CorruptData for anything else."""
        try:
            record = from_json(Record, manifest, where="position")
        except (InputError, TypeError, ValueError) as error:
            raise CorruptData(f"not a position in a replay: {error}") from error
        if record.format != FORMAT:
            raise CorruptData(f"a position of format {record.format}, this program reads format {FORMAT}")
        position = cls(record=record, arrays=dict(arrays))
        for name in (*record.mirrors, "kept"):
            position.check(name)
        return position

    def check(self, name: str) -> None:
        """Raises CorruptData unless there are episodes under a name, with their segments."""
        episodes, segments = self.arrays.get(f"{name}.episodes"), self.arrays.get(f"{name}.segments")
        if episodes is None or segments is None:
            raise CorruptData(f"a position without the episodes of {name!r}")
        fits = episodes.shape[1:] == (EPISODE_COLUMNS,) and segments.shape[1:] == (SEGMENT_COLUMNS,)
        if not fits or episodes[:, -1].sum() != len(segments):
            raise CorruptData(f"a position with {episodes.shape} episodes and {segments.shape} segments of {name!r}")

    def episodes(self, name: str) -> Iterator[EpisodeRef]:
        """Those of a buffer's index, or those "kept", in order."""
        segments = iter(self.arrays[f"{name}.segments"].tolist())
        for buffer, shard, writer, start, rows, count in self.arrays[f"{name}.episodes"].tolist():
            refs = (next(segments) for _ in range(count))
            yield EpisodeRef(
                buffer=BUFFERS[buffer],
                shard=shard,
                writer=self.record.writers[writer],
                segments=tuple(SegmentRef(slot=slot, seq=seq, head=head, size=size) for slot, seq, head, size in refs),
                start=start,
                rows=rows,
            )


class EpisodeTable:
    """Turns episodes into arrays, and their writers into numbers."""

    def __init__(self) -> None:
        self._numbers: dict[Writer, int] = {}

    @property
    def writers(self) -> tuple[Writer, ...]:
        """In the order of their numbers."""
        return tuple(self._numbers)

    def arrays(self, name: str, episodes: Iterable[EpisodeRef]) -> dict[str, NDArray[np.int64]]:
        """Under `name`, as `Position.episodes` reads them."""
        refs = list(episodes)
        rows = [
            (
                BUFFERS.index(ref.buffer),
                ref.shard,
                self._numbers.setdefault(ref.writer, len(self._numbers)),
                ref.start,
                ref.rows,
                len(ref.segments),
            )
            for ref in refs
        ]
        segments = [(each.slot, each.seq, each.head, each.size) for ref in refs for each in ref.segments]
        return {
            f"{name}.episodes": _table(rows, EPISODE_COLUMNS),
            f"{name}.segments": _table(segments, SEGMENT_COLUMNS),
        }


def _table(rows: Sequence[tuple[int, ...]], columns: int) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(len(rows), columns)
