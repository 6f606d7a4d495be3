"""Brings a reader back to an earlier position.

    position ─► episodes in their order ─► read again, some at a time ─► mirrors, kept episodes
             ├► open episodes ───────────► read again ─────────────────► assemblers
             └► cursors of the index streams

What the servers no longer have leaves its rows empty, so that the others lie where they lay.

Waits for: every shard that has something (up to `patience.timeout_s` each time it does not answer).
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from protos.errors import Unreachable
from protos.schema import Buffer
from services.replay.read.episodes import Track
from services.replay.read.follower import Follower
from services.replay.read.intake import Intake
from services.replay.read.mirror import Mirror
from services.replay.read.position import EpisodeRef, Followed, Position

T = TypeVar("T")
log = logging.getLogger(__name__)

EPISODES_AT_ONCE = 64
LOOK_AGAIN_S = 0.1


def _never() -> bool:
    return False


def _quiet(text: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How a restore waits for shards that do not answer."""

    timeout_s: float = 120.0
    partial: bool = False
    """Go on without the episodes of a shard that has not answered by then."""
    stop: Callable[[], bool] = field(default=_never)
    waiting: Callable[[str], None] = field(default=_quiet)
    """Told in every turn of the wait whom it is for."""


@dataclass(kw_only=True)
class Restored:
    """What came of a restore."""

    wanted: int = 0
    """Episodes that the position names, open ones included."""
    missing: int = 0
    """Of those, the ones that no server has any more."""

    def tell(self) -> None:
        if self.missing:
            log.warning(
                "the replay no longer has %d of the %d episodes that the checkpoint counted on: going on without them; "
                "batches differ from those of a run that was not interrupted",
                self.missing,
                self.wanted,
            )


class Restore:
    """One restore. Belongs to one thread, before anything is read in another way."""

    def __init__(
        self,
        position: Position,
        followers: Sequence[Follower],
        mirrors: Mapping[Buffer, Mirror],
        intake: Intake,
        patience: Patience,
    ) -> None:
        self._position, self._patience = position, patience
        self._followers = {follower.shard: follower for follower in followers}
        self._mirrors, self._intake = mirrors, intake
        self._absent: set[int] = set()
        self._restored = Restored()

    def run(self) -> Restored:
        """All of it, or what was there until `patience.stop`. Raises Unreachable for a shard that stays away."""
        record = self._position.record
        self._intake.name_actors(record.actors)
        shards = {shard: followed for shard, followed in enumerate(record.shards) if shard in self._followers}
        for shard, followed in shards.items():
            self._followers[shard].resume(followed)
        for buffer in self._mirrors:
            if buffer in record.mirrors:
                self._refill(buffer)
        self._put_back(self._position.episodes("kept"), keep=True)
        for shard, followed in shards.items():
            self._reopen(shard, followed)
        if not self._patience.stop():
            self._restored.tell()
        return self._restored

    def _refill(self, buffer: Buffer) -> None:
        mirror, state = self._mirrors[buffer], self._position.record.mirrors[buffer]
        mirror.resume(state)
        self._put_back(self._position.episodes(buffer), keep=False)
        mirror.resumed(state, self._position.arrays.get(f"{buffer}.masses"))

    def _put_back(self, episodes: Iterator[EpisodeRef], *, keep: bool) -> None:
        while (refs := list(islice(episodes, EPISODES_AT_ONCE))) and not self._patience.stop():
            tracks = self._read(refs)
            for ref, track in zip(refs, tracks, strict=True):
                back = track is not None and self._intake.put_back(track, ref, keep=keep)
                self._count(1, int(not back))

    def _read(self, refs: Sequence[EpisodeRef]) -> list[Track | None]:
        """In the order of `refs`, of any buffers and shards."""
        found: list[Track | None] = [None] * len(refs)
        for shard, buffer in dict.fromkeys((ref.shard, ref.buffer) for ref in refs):
            at = [i for i, ref in enumerate(refs) if (ref.shard, ref.buffer) == (shard, buffer)]
            for i, track in zip(at, self._again(shard, buffer, [refs[i] for i in at]), strict=True):
                found[i] = track
        return found

    def _again(self, shard: int, buffer: Buffer, refs: Sequence[EpisodeRef]) -> list[Track | None]:
        tracks = self._ask(shard, lambda follower: follower.again(buffer, refs))
        return [None] * len(refs) if tracks is None else tracks

    def _reopen(self, shard: int, followed: Mapping[Buffer, Followed]) -> None:
        wanted = sum(len(each.episodes(buffer, shard)) for buffer, each in followed.items())
        if wanted and not self._patience.stop():
            gone = self._ask(shard, lambda follower: follower.reopen(followed))
            self._count(wanted, wanted if gone is None else gone)

    def _count(self, wanted: int, missing: int) -> None:
        self._restored.wanted += wanted
        self._restored.missing += missing

    def _ask(self, shard: int, question: Callable[[Follower], T]) -> T | None:
        """None where the shard is not one of the replay's any more, or is to be done without."""
        if shard not in self._followers or shard in self._absent:
            return None
        give_up = time.monotonic() + self._patience.timeout_s
        while not self._patience.stop():
            try:
                return question(self._followers[shard])
            except Unreachable as error:
                if time.monotonic() > give_up:
                    self._do_without(shard, error)
                    return None
                self._patience.waiting(f"replay shard {shard}: episodes of the checkpoint")
                time.sleep(LOOK_AGAIN_S)
        return None

    def _do_without(self, shard: int, error: Unreachable) -> None:
        if not self._patience.partial:
            raise Unreachable(
                f"{error}; shard {shard} has episodes that the checkpoint counts on and was waited for "
                f"timeout_s={self._patience.timeout_s:g}: start it, or set partial=true to go on without them"
            ) from error
        log.warning("%s; going on without the episodes of shard %d, as partial=true", error, shard)
        self._absent.add(shard)
