"""This module puts how far a reader has come into a checkpoint, and brings a later reader back there.

    record   JSON: per shard and buffer how far its stream was read and which episodes were open; per buffer what
             strategies and mirrors know beside their rows; names of actors
    arrays   per buffer the episodes of the index in their order (shard, first row, rows, segments), their segments
             (slot, size of the head, size, checksums), and priorities

    position ─► episodes in their order ─► read again, some at a time ─► mirrors
             ├► open episodes ───────────► read again ─────────────────► assemblers
             └► cursors of the index streams

An episode is named by where its segments lie on their server, and by their checksums. Its contents are read again. What
the servers no longer have leaves its rows empty, so that the others lie where they lay.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from protos.errors import CorruptData, InputError, Unreachable
from protos.schema import Buffer
from protos.settings import from_json, to_json
from services.replay.read.buffer import Intake, Mirror, Placed
from services.replay.read.log import Actor, Cursor, OpenEpisode, SegmentRef, StoredEpisode, StoredSegment
from services.replay.read.sampling import CellSampler, PrioritySampler
from services.replay.read.shards import Follower

T = TypeVar("T")
log = logging.getLogger(__name__)

FORMAT = 2
COLUMNS = 4
"""Columns of both arrays of a buffer."""
EPISODES_AT_ONCE = 64
RETRY_S = 0.1


@dataclass(frozen=True, kw_only=True)
class OpenRecord:
    """The record of an episode whose end has not arrived."""

    turn: int
    segments: tuple[tuple[int, int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ActorRecord:
    """The record of an actor as an assembler knows it."""

    incarnation: str
    turn: int
    slots: int
    open: Mapping[str, OpenRecord]


@dataclass(frozen=True, kw_only=True)
class LogRecord:
    """The record of one buffer's log on one shard: how far it was read, and what was open then."""

    cursor: Cursor
    actors: Mapping[str, ActorRecord]

    @classmethod
    def of(cls, cursor: Cursor, actors: Mapping[str, Actor]) -> "LogRecord":
        """Makes the record of a tail and of its assembler's actors."""
        known = {}
        for name, actor in actors.items():
            opened = {
                episode: OpenRecord(turn=each.turn, segments=tuple(segment.ref for segment in each.segments))
                for episode, each in actor.open.items()
            }
            known[name] = ActorRecord(incarnation=actor.incarnation, turn=actor.turn, slots=actor.slots, open=opened)
        return cls(cursor=cursor.copy(), actors=known)


@dataclass(frozen=True, kw_only=True)
class MirrorRecord:
    """The record of one buffer in the learner's memory."""

    capacity: int
    strategy: str
    next: int
    """Rows ever added to the index."""
    embedding_dim: int
    """Numbers of a readout; 0 without readouts, or before the first."""
    largest: float = 0.0
    """Largest priority so far."""
    cells: tuple[tuple[int, float], ...] = ()
    """Cells and weights, in the order in which they were met."""
    rates: tuple[tuple[int, float], ...] = ()
    """Cells and their success rates."""

    @classmethod
    def of(cls, mirror: Mirror) -> "MirrorRecord":
        """Makes the record of a mirror."""
        sampler = mirror.sampler
        return cls(
            capacity=mirror.capacity,
            strategy=type(sampler).__name__,
            next=mirror.next,
            embedding_dim=mirror.embedding_dim,
            largest=sampler.largest if isinstance(sampler, PrioritySampler) else 0.0,
            cells=sampler.cells if isinstance(sampler, CellSampler) else (),
            rates=tuple(mirror.success_rates().items()),
        )

    def fits(self, mirror: Mirror) -> bool:
        """Tells whether rows can lie in a mirror where they lay."""
        return (self.capacity, self.strategy) == (mirror.capacity, type(mirror.sampler).__name__)


@dataclass(frozen=True, kw_only=True)
class Record:
    """The part of a position that is JSON."""

    format: int = FORMAT
    actors: tuple[str, ...] = ()
    """Names of the actors, in the order of their numbers in batches."""
    logs: tuple[Mapping[Buffer, LogRecord], ...] = ()
    """One per shard."""
    mirrors: Mapping[Buffer, MirrorRecord] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Position:
    """A position says how far a `ReplayReader` has come."""

    record: Record
    arrays: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, followers: Sequence[Follower], mirrors: Mapping[Buffer, Mirror], intake: Intake) -> "Position":
        """Takes the position of a reader; nothing may be on its way from a stream to a mirror meanwhile."""
        arrays: dict[str, NDArray[Any]] = {}
        for buffer, mirror in mirrors.items():
            placed = mirror.episodes()
            rows = [(each.shard, each.start, each.rows, len(each.segments)) for each in placed]
            arrays[f"{buffer}.episodes"] = _table(rows)
            arrays[f"{buffer}.segments"] = _table([ref for each in placed for ref in each.segments])
            if (masses := mirror.masses()) is not None:
                arrays[f"{buffer}.masses"] = masses
        logs = [
            {buffer: LogRecord.of(tail.cursor, each.assemblers[buffer].actors) for buffer, tail in each.tails.items()}
            for each in followers
        ]
        states = {buffer: MirrorRecord.of(mirror) for buffer, mirror in mirrors.items()}
        record = Record(actors=tuple(intake.actors()), logs=tuple(logs), mirrors=states)
        return cls(record=record, arrays=arrays)

    def manifest(self) -> dict[str, Any]:
        """Returns `record` as plain JSON values."""
        return to_json(self.record)

    @classmethod
    def parse(cls, manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Position":
        """Reads what `manifest` gave and the arrays. Raises CorruptData for anything else."""
        found = manifest.get("format")
        if found != FORMAT:
            raise CorruptData(
                f"the checkpoint's position in the replay has format {found}, this program reads format {FORMAT}: "
                "go on with the version that wrote it, or begin anew without --resume"
            )
        try:
            record = from_json(Record, manifest, where="position")
        except (InputError, TypeError, ValueError) as error:
            raise CorruptData(f"not a position in a replay: {error}") from error
        for buffer in record.mirrors:
            _check_arrays(buffer, arrays)
        return cls(record=record, arrays=dict(arrays))

    def episodes(self, buffer: Buffer) -> Iterator[Placed]:
        """Yields the episodes of a buffer's index, in order."""
        refs = iter(self.arrays[f"{buffer}.segments"].view(np.uint64).tolist())
        for shard, start, rows, count in self.arrays[f"{buffer}.episodes"].tolist():
            segments = [SegmentRef(*next(refs)) for _ in range(count)]
            yield Placed(shard=shard, start=start, rows=rows, segments=segments)


def _table(rows: Sequence[tuple[int, ...]]) -> NDArray[np.int64]:
    """Makes an array (n, 4); checksums need all 64 bits, which tensors have with a sign only."""
    return np.array(rows, np.uint64).reshape(len(rows), COLUMNS).view(np.int64)


def _check_arrays(buffer: Buffer, arrays: Mapping[str, NDArray[Any]]) -> None:
    episodes, segments = arrays.get(f"{buffer}.episodes"), arrays.get(f"{buffer}.segments")
    if episodes is None or segments is None:
        raise CorruptData(f"a position without the episodes of {buffer!r}")
    fits = all(each.shape[1:] == (COLUMNS,) and each.dtype == np.int64 for each in (episodes, segments))
    if not fits or episodes[:, -1].sum() != len(segments):
        raise CorruptData(f"a position with {episodes.shape} episodes and {segments.shape} segments of {buffer!r}")


@dataclass(kw_only=True)
class Restored:
    """The result of a restore."""

    wanted: int = 0
    """Episodes that the position names, open ones included."""
    missing: int = 0
    """Episodes of these that no server has any more."""


@dataclass(frozen=True, kw_only=True)
class RestoreSettings:
    """Settings of a restore that waits for shards that do not answer."""

    timeout_s: float = 120.0
    """Longest wait for each of them."""
    partial: bool = False
    """Go on without the episodes of a shard that has not answered by then."""
    stop: Callable[[], bool] = lambda: False
    """Ends the restore when it returns true."""
    waiting: Callable[[str], None] = lambda text: None
    """Called in every turn of a wait with what it is for."""


class Restore:
    """A restore brings a reader back to a position. One thread, before anything is read in another way."""

    def __init__(
        self,
        position: Position,
        followers: Sequence[Follower],
        mirrors: Mapping[Buffer, Mirror],
        intake: Intake,
        settings: RestoreSettings,
    ) -> None:
        self._position, self._settings = position, settings
        self._followers, self._mirrors, self._intake = followers, mirrors, intake
        self._absent: set[int] = set()
        self._restored = Restored()

    def run(self) -> Restored:
        """Reads all of it again, or as much as there is time for. Raises Unreachable for a shard that stays away."""
        record = self._position.record
        self._intake.name_actors(record.actors)
        logs = [
            (follower, {buffer: each for buffer, each in known.items() if buffer in follower.tails})
            for follower, known in zip(self._followers, record.logs, strict=False)  # it may have other shards now
        ]
        for follower, known in logs:
            for buffer, each in known.items():
                follower.resume(buffer, each.cursor.copy())
        for buffer in record.mirrors:
            if buffer in self._mirrors:
                self._refill(buffer)
        for follower, known in logs:
            self._reopen(follower, known)
        if self._restored.missing and not self._settings.stop():
            log.warning(
                "the replay no longer has %d of the %d episodes that the checkpoint counted on: going on without them; "
                "batches differ from those of a run that was not interrupted",
                self._restored.missing,
                self._restored.wanted,
            )
        return self._restored

    def _refill(self, buffer: Buffer) -> None:
        mirror, state = self._mirrors[buffer], self._position.record.mirrors[buffer]
        exact, sampler = state.fits(mirror), mirror.sampler
        if exact and isinstance(sampler, CellSampler):
            sampler.put_back(state.cells)
        if exact and isinstance(sampler, PrioritySampler):
            sampler.largest = state.largest
        episodes = self._position.episodes(buffer)
        while (some := list(islice(episodes, EPISODES_AT_ONCE))) and not self._settings.stop():
            for placed, stored in zip(some, self._read(buffer, some), strict=True):
                if exact:
                    mirror.skip_to(placed.start, embedding_dim=state.embedding_dim)
                self._count(1, int(stored is None or not self._intake.take(stored)))
        if exact and state.next:
            mirror.skip_to(state.next, embedding_dim=state.embedding_dim)
        mirror.put_back(dict(state.rates), self._position.arrays.get(f"{buffer}.masses") if exact else None)

    def _read(self, buffer: Buffer, some: Sequence[Placed]) -> list[StoredEpisode | None]:
        """Reads episodes, of any shards, in their order; None for each that is gone."""
        found: list[StoredEpisode | None] = [None] * len(some)
        for shard in dict.fromkeys(placed.shard for placed in some):
            at = [i for i, placed in enumerate(some) if placed.shard == shard]
            refs = [some[i].segments for i in at]

            def read(follower: Follower, refs: list[Sequence[SegmentRef]] = refs) -> list[StoredEpisode | None]:
                segments = follower.again(buffer, refs)
                episodes = [None if each is None else StoredEpisode(buffer, follower.shard, each) for each in segments]
                return [None if each is None else follower.completed(each) for each in episodes]

            for i, stored in zip(at, self._ask(shard, read) or [None] * len(at), strict=True):
                found[i] = stored
        return found

    def _reopen(self, follower: Follower, logs: Mapping[Buffer, LogRecord]) -> None:
        """Reads open episodes again; all of them at once, as whoever is refused asks for all of them again."""

        def read(asked: Follower) -> list[tuple[Buffer, str, ActorRecord, list[list[StoredSegment] | None]]]:
            found = []
            for buffer, known in logs.items():
                for name, actor in known.actors.items():
                    refs = [[SegmentRef(*ref) for ref in each.segments] for each in actor.open.values()]
                    found.append((buffer, name, actor, asked.again(buffer, refs) if refs else []))
            return found

        wanted = sum(len(actor.open) for known in logs.values() for actor in known.actors.values())
        there = 0
        for buffer, name, actor, found in (self._ask(follower.shard, read) if wanted else read(follower)) or []:
            each = zip(actor.open.items(), found, strict=True)
            opened = {
                episode: OpenEpisode(segments=segments, turn=record.turn)
                for (episode, record), segments in each
                if segments
            }
            state = Actor(incarnation=actor.incarnation, turn=actor.turn, slots=actor.slots, open=opened)
            follower.assemblers[buffer].put_back(name, state)
            there += len(opened)
        self._count(wanted, wanted - there)

    def _count(self, wanted: int, missing: int) -> None:
        self._restored.wanted += wanted
        self._restored.missing += missing

    def _ask(self, shard: int, question: Callable[[Follower], T]) -> T | None:
        """Asks a shard until it answers; None where it is no shard of the replay any more, or is to be done without."""
        if shard >= len(self._followers) or shard in self._absent:
            return None
        deadline = time.monotonic() + self._settings.timeout_s
        while not self._settings.stop():
            try:
                return question(self._followers[shard])
            except Unreachable as error:
                if time.monotonic() > deadline:
                    self._do_without(shard, error)
                    return None
                self._settings.waiting(f"replay shard {shard}: episodes of the checkpoint")
                time.sleep(RETRY_S)
        return None

    def _do_without(self, shard: int, error: Unreachable) -> None:
        if not self._settings.partial:
            raise Unreachable(
                f"{error}; shard {shard} has episodes that the checkpoint counts on and was waited for "
                f"timeout_s={self._settings.timeout_s:g}: start it, or set partial=true to go on without them"
            ) from error
        log.warning("%s; going on without the episodes of shard %d, as partial=true", error, shard)
        self._absent.add(shard)
