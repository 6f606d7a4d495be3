"""Follows one shard of a replay, in a thread of its own.

    index streams ──tails──► new segments ──assemblers──► episodes ──► deliver(track, shard)
    allowances ────► server, presence ────► server         once a second: how far behind?

A shard that does not answer is asked again for ever, at growing intervals; what is not lost there arrives later.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import redis

from protos.errors import TwinRLError, Unreachable
from protos.schema import Buffer, Schema
from services.replay.connection import Client, connect, greet, reaching
from services.replay.presence import Beacon, Rate
from services.replay.read.allowance import Allowances
from services.replay.read.assembler import Assembler
from services.replay.read.episodes import Piece, Track
from services.replay.read.frame_demand import FrameDemand
from services.replay.read.position import EpisodeRef, Followed
from services.replay.read.tail import Tail
from services.replay.read.turnstile import Turnstile
from services.replay.settings import Keys, ReplaySettings, masked

log = logging.getLogger(__name__)

POLL_S = 0.02
RETRY_S = (0.05, 1.0)
"""First and longest pause after a failure; it doubles in between."""
LOOK_S = 1.0


class Follower:
    """One shard: its client, tails, assemblers and allowances. `poll` belongs to one thread at a time."""

    def __init__(
        self,
        settings: ReplaySettings,
        shard: int,
        schema: Schema,
        *,
        buffers: Sequence[Buffer],
        demands: Mapping[Buffer, FrameDemand],
        waiting_bytes: int,
        deliver: Callable[[Track, int], None],
        allowed: Callable[[int], Mapping[Buffer, int]],
        name: str,
        tell: Callable[[], Mapping[str, float]],
    ) -> None:
        """`allowed(shard)` says how many transitions each buffer may have here, `tell()` what to say of this reader."""
        self.settings, self.shard, self.schema = settings, shard, schema
        self._client: Client = connect(settings, shard)
        self._keys = {buffer: Keys(settings.prefix, buffer) for buffer in buffers}
        self._tails = {buffer: Tail(self._client, keys, schema, demands[buffer]) for buffer, keys in self._keys.items()}
        self._assemblers = {buffer: Assembler(buffer, max_waiting_bytes=waiting_bytes) for buffer in buffers}
        self._allowances, self._allowed = Allowances(self._client, settings.prefix), allowed
        self._deliver, self._tell = deliver, tell
        self._beacon = Beacon(settings, "reader", name)
        self._greeted = False
        self.taking = Turnstile()
        """Held while something is on its way from the stream to where it belongs."""
        self._pause_s, self._retry_at_s, self._look_at_s = 0.0, 0.0, 0.0
        self._lag = Counter[str]()
        self._oldest = dict.fromkeys(buffers, 0)
        self.transitions_rate, self.bytes_rate = Rate(), Rate()
        self.answered = False
        """It has answered at least once."""
        self.caught_up = False
        """It has once had nothing new."""
        self.away_since: float | None = None
        """Unix time since when it does not answer; None while it does, and before it was first asked."""
        self.failure: Exception | None = None
        """Why it does not answer."""
        self.failures = 0

    @property
    def due(self) -> bool:
        """Whether it is time to ask again."""
        return time.monotonic() >= self._retry_at_s

    def run(self, stop: threading.Event) -> None:
        """Polls until `stop`. Raises what is not a matter of waiting: another schema, refused credentials."""
        while not stop.is_set():
            try:
                taken = self.poll()
            except Unreachable:
                stop.wait(self._pause_s)
                continue
            if not taken:
                stop.wait(POLL_S)

    def poll(self) -> int:
        """Takes in what is new, up to a bound, and sends allowances; returns the number of segments."""
        try:
            with reaching(self.settings, self.shard):
                self._greet()
            taken = sum(self._take_in(buffer, tail) for buffer, tail in self._tails.items())
            with reaching(self.settings, self.shard):
                self._look()
                self._speak()
        except Unreachable as error:
            self._note_failure(error)
            raise
        self._note_answer()
        self.caught_up |= not taken
        return taken

    def received(self, buffer: Buffer) -> int:
        """Transitions ever committed to a buffer here, as far as this has taken them in."""
        return self._tails[buffer].transitions

    def position(self) -> dict[Buffer, Followed]:
        """How far this has come; hold `taking` meanwhile."""
        return {
            buffer: Followed(cursor=tail.cursor(), actors=self._assemblers[buffer].state())
            for buffer, tail in self._tails.items()
        }

    def resume(self, position: Mapping[Buffer, Followed]) -> None:
        """Goes on from an earlier position, without the episodes that were open then."""
        for buffer, followed in position.items():
            if buffer in self._tails:
                self._tails[buffer].resume(followed.cursor)

    def reopen(self, position: Mapping[Buffer, Followed]) -> int:
        """Reads the episodes again that were open then; returns how many are gone. Raises Unreachable."""
        found = {
            buffer: self._read_again(buffer, followed.episodes(buffer, self.shard))
            for buffer, followed in position.items()
            if buffer in self._tails
        }
        for buffer, pieces in found.items():  # all at once: whoever is refused above asks for all of it again
            self._assemblers[buffer].restore(position[buffer].actors, pieces)
        return sum(each.count(None) for each in found.values())

    def again(self, buffer: Buffer, episodes: Sequence[EpisodeRef]) -> list[Track | None]:
        """Whole episodes that were read before, None for each that is gone. Raises Unreachable."""
        tail, found = self._tails[buffer], self._read_again(buffer, episodes)
        tracks = [None if pieces is None else Track.of(buffer, pieces) for pieces in found]
        with reaching(self.settings, self.shard):
            return [None if track is None else tail.complete(track) for track in tracks]

    def _read_again(self, buffer: Buffer, episodes: Sequence[EpisodeRef]) -> list[list[Piece] | None]:
        with reaching(self.settings, self.shard):
            self._greet()
            return self._tails[buffer].again(episodes)

    def counts(self) -> Counter[str]:
        """Counts since the start, and what waits now."""
        tails = sum((tail.counts for tail in self._tails.values()), Counter[str]())
        assemblers = self._assemblers.values()
        tails["failures"] += self.failures
        tails["open_episodes"] += sum(each.open for each in assemblers)
        tails["cut_short"] += sum(each.cut_short for each in assemblers)
        tails["waiting_bytes"] += sum(each.waiting_bytes for each in assemblers)
        return tails + self._lag

    def oldest(self, buffer: Buffer) -> int:
        """Number of the oldest slot that the server still had about a second ago."""
        return self._oldest[buffer]

    def close(self) -> None:
        with contextlib.suppress(TwinRLError), reaching(self.settings, self.shard):
            if self.answered and self.away_since is None:
                self._beacon.leave(self._client)
        self._client.close()

    def _greet(self) -> None:
        if not self._greeted:
            greet(self._client, self.settings, self.schema, shard=self.shard, claim=False)
            self._greeted = True

    def _take_in(self, buffer: Buffer, tail: Tail) -> int:
        """Reads and delivers; what has been read must be delivered whatever fails next, as it is not read again."""
        with reaching(self.settings, self.shard):
            arrivals = tail.read()
        self.answered = True
        pieces = [arrival.piece for arrival in arrivals if arrival.piece is not None]
        self.transitions_rate.add(sum(piece.header.steps for piece in pieces))
        self.bytes_rate.add(sum(piece.held_bytes for piece in pieces))
        for arrival in arrivals:
            with self.taking:
                if arrival.piece is not None:
                    for track in self._assemblers[buffer].add(arrival.piece):
                        self._deliver(self._completed(track, tail), self.shard)
                tail.taken(arrival)
        return len(arrivals)

    def _completed(self, track: Track, tail: Tail) -> Track:
        """As it is where the server fails now; the next pass says so."""
        try:
            with reaching(self.settings, self.shard):
                return tail.complete(track)
        except Unreachable as error:
            log.debug("an episode without its frames: %s", error)
            return track

    def _speak(self) -> None:
        """Allowances, and that this reader is alive. A server that is full refuses both and can still be read."""
        for buffer, total in self._allowed(self.shard).items():
            self._allowances.set(buffer, total)
        try:
            self._allowances.send()
            self._beacon.send(self._client, self._tell)
        except redis.exceptions.OutOfMemoryError:
            self.failures += 1

    def _look(self) -> None:
        """Once a second: which slots the server has, and how far it is ahead of this reader."""
        if time.monotonic() < self._look_at_s:
            return
        self._look_at_s = time.monotonic() + LOOK_S
        lag = Counter[str]()
        for buffer, tail in self._tails.items():
            names = ("head", "tail", "transitions")
            found = self._client.execute_command("HMGET", self._keys[buffer].counters, *names)
            head, self._oldest[buffer], there = (int(value or 0) for value in found)
            lag["lag_segments"] += max(0, head - tail.slot)
            lag["lag_transitions"] += max(0, there - tail.transitions)
        self._lag = lag

    def _note_failure(self, error: Unreachable) -> None:
        if self.away_since is None:
            self.away_since = time.time()
            log.warning("%s; trying again until it does", error)
        self.failure, self._greeted = error, False
        self.failures += 1
        self._pause_s = min(max(2 * self._pause_s, RETRY_S[0]), RETRY_S[1])
        self._retry_at_s = time.monotonic() + self._pause_s

    def _note_answer(self) -> None:
        if self.away_since is not None:
            log.info("replay at %s answers again", masked(self.settings.urls[self.shard]))
        self.away_since, self.failure = None, None
        self._pause_s = self._retry_at_s = 0.0
