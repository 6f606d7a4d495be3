"""This module follows all servers of a replay, its shards, each in a thread of its own, so that none waits for another.

    index streams ──tails──► new segments ──assemblers──► episodes ──► deliver(episode)
    allowances ────► server, presence ────► server         once a second: how far behind?

A shard that does not answer is asked again for ever, at growing intervals; what is not lost there arrives later.
"""

import contextlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from protos.errors import LeaseLost, TwinRLError, Unreachable
from protos.schema import Buffer, Schema
from services.replay.connection import Client, connect, greet, reaching
from services.replay.lease import allow
from services.replay.presence import Beacon, Rate
from services.replay.read.log import Assembler, Cursor, ImageDemand, SegmentRef, StoredEpisode, StoredSegment, Tail
from services.replay.settings import Keys, ReplaySettings, check_buffer, masked

log = logging.getLogger(__name__)

POLL_S = 0.02
RETRY_S = (0.05, 1.0)
"""First and longest pause after a failure; it doubles in between."""
LOOK_S = 1.0
"""Interval of asking how far behind this reader is, and of sending allowances that have not changed again: a restarted
server may have lost the latest."""
START_TIMEOUT_S = 1.0
"""Longest wait of `start` for further shards once one has answered."""
COUNTS = (
    *("segments", "open_episodes", "cut_short", "corrupt", "wrong_schema", "overwritten", "repeated", "missed"),
    *("failures", "lag_segments", "lag_transitions"),
)


@dataclass(frozen=True, kw_only=True)
class Following:
    """The settings that every shard shares: what is followed and where it goes."""

    replay: ReplaySettings
    schema: Schema
    demands: Mapping[Buffer, ImageDemand]
    """The buffers, and which images of each are fetched."""
    waiting_bytes: int
    """Most bytes of unfinished episodes, per shard and buffer."""
    deliver: Callable[[StoredEpisode], object]
    """Called by each shard's thread."""
    name: str
    """Name that others see of this reader."""
    stats: Callable[[], Mapping[str, float]]
    """Counts that others see of it."""
    lease: Callable[[], int] = lambda: 0
    """Number of the lease under which allowances are set, 0 for none."""


class FairLock:
    """A fair lock admits waiting threads in turn: one that takes it again and again does not keep others out.

    Who wants the lock waits in the entrance first, so a thread that has just released it queues behind that one.
    """

    def __init__(self) -> None:
        self._entrance, self._inside = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._entrance:
            self._inside.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside.release()


class Follower:
    """A follower reads one shard: its client, tails and assemblers. `poll` belongs to one thread at a time."""

    def __init__(self, following: Following, shard: int, allowed: Callable[[int], Mapping[Buffer, int]]) -> None:
        """`allowed(shard)` says how many transitions each buffer may have here."""
        replay, self.shard = following.replay, shard
        self._following, self._allowed = following, allowed
        self._client: Client = connect(replay, shard)
        self._keys = {buffer: Keys(replay.prefix, buffer) for buffer in following.demands}
        self.tails = {
            buffer: Tail(self._client, self._keys[buffer], following.schema, demand)
            for buffer, demand in following.demands.items()
        }
        self.assemblers = {
            buffer: Assembler(buffer, shard, max_waiting_bytes=following.waiting_bytes) for buffer in following.demands
        }
        self._received = dict.fromkeys(following.demands, 0)
        self._sent: tuple[Mapping[Buffer, int], float] = {}, 0.0
        self._beacon = Beacon(replay, "reader", following.name)
        self._greeted = False
        self.taking = FairLock()
        """Held while something is on its way from the stream to where it belongs."""
        self._pause_s, self._retry_at_s, self._look_at_s = 0.0, 0.0, 0.0
        self._lag = Counter[str]()
        self._oldest = dict.fromkeys(following.demands, 0)
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
        """Returns whether it is time to ask again."""
        return time.monotonic() >= self._retry_at_s

    def run(self, stop: threading.Event) -> None:
        """Polls until `stop`. Raises what waiting does not mend: another schema, refused credentials."""
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
            with self._reaching():
                self._greet()
            taken = sum(self._take_in(buffer) for buffer in self.tails)
            with self._reaching():
                self._look()
                self._speak()
        except Unreachable as error:
            self._note_failure(error)
            raise
        self._note_answer()
        self.caught_up |= not taken
        return taken

    def received(self, buffer: Buffer) -> int:
        """Returns the transitions ever committed to a buffer here, as far as they were taken in."""
        return self._received.get(buffer, 0)

    def resume(self, buffer: Buffer, cursor: Cursor) -> None:
        """Goes on from an earlier cursor."""
        self.tails[buffer].resume(cursor)
        self._received[buffer] = cursor.transitions

    def again(self, buffer: Buffer, episodes: Sequence[Sequence[SegmentRef]]) -> list[list[StoredSegment] | None]:
        """Reads episodes again, as far as their heads; None for each that is gone. Raises Unreachable."""
        with self._reaching():
            self._greet()
            return self.tails[buffer].again(episodes)

    def completed(self, episode: StoredEpisode) -> StoredEpisode:
        """Fetches the images that an episode turned out to need. Raises Unreachable."""
        with self._reaching():
            return self.tails[episode.buffer].complete(episode)

    def counts(self) -> Counter[str]:
        """Returns counts since the start, and what waits now."""
        counts = sum((tail.counts for tail in self.tails.values()), Counter[str]())
        assemblers = self.assemblers.values()
        counts["failures"] += self.failures
        counts["open_episodes"] += sum(each.open for each in assemblers)
        counts["cut_short"] += sum(each.cut_short for each in assemblers)
        counts["waiting_bytes"] += sum(each.waiting_bytes for each in assemblers)
        return counts + self._lag

    def oldest(self, buffer: Buffer) -> int:
        """Returns the number of the oldest slot that the server still had about a second ago."""
        return self._oldest[buffer]

    def close(self) -> None:
        """Takes the reader's presence back and ends the connection."""
        with contextlib.suppress(TwinRLError), self._reaching():
            if self.answered and self.away_since is None:
                self._beacon.leave(self._client)
        self._client.close()

    def _reaching(self) -> contextlib.AbstractContextManager[None]:
        return reaching(self._following.replay, self.shard)

    def _greet(self) -> None:
        if not self._greeted:
            greet(self._client, self._following.replay, self._following.schema, shard=self.shard, claim=False)
            self._greeted = True

    def _take_in(self, buffer: Buffer) -> int:
        """Fetches and delivers; whatever fails next, what has been accepted is delivered."""
        tail, transitions, held = self.tails[buffer], 0, 0
        with self._reaching():
            arrivals = tail.fetch()
        self.answered = True
        for arrival in arrivals:
            with self.taking:
                segment = tail.accept(arrival)
                for episode in [] if segment is None else self.assemblers[buffer].add(segment):
                    self._following.deliver(self._completed(episode))
                self._received[buffer] = tail.cursor.transitions
            if segment is not None:
                transitions, held = transitions + segment.header.steps, held + segment.held_bytes
        self.transitions_rate.add(transitions)
        self.bytes_rate.add(held)
        return len(arrivals)

    def _completed(self, episode: StoredEpisode) -> StoredEpisode:
        """Returns the episode as it is where the server fails now; the next pass says so."""
        try:
            return self.completed(episode)
        except Unreachable as error:
            log.debug("an episode without its images: %s", error)
            return episode

    def _speak(self) -> None:
        """Sends allowances and presence. Raises LeaseLost when another learner sends them now."""
        wanted, (sent, at_s) = dict(self._allowed(self.shard)), self._sent
        if wanted and (wanted != sent or time.monotonic() > at_s + LOOK_S):
            allow(self._client, self._following.replay.prefix, wanted, lease=self._following.lease())
            self._sent = wanted, time.monotonic()
        self._beacon.send(self._client, self._following.stats)

    def _look(self) -> None:
        """Asks once a second which slots the server has, and how far it is ahead of this reader."""
        if time.monotonic() < self._look_at_s:
            return
        self._look_at_s = time.monotonic() + LOOK_S
        lag = Counter[str]()
        for buffer, tail in self.tails.items():
            names = ("head", "tail", "transitions")
            found = self._client.execute_command("HMGET", self._keys[buffer].counters, *names)
            head, self._oldest[buffer], there = (int(value or 0) for value in found)
            lag["lag_segments"] += max(0, head - tail.cursor.slot)
            lag["lag_transitions"] += max(0, there - tail.cursor.transitions)
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
            log.info("replay at %s answers again", masked(self._following.replay.urls[self.shard]))
        self.away_since, self.failure = None, None
        self._pause_s = self._retry_at_s = 0.0


class Shards:
    """All shards of a replay, followed. Call `start` for threads of its own, or `poll` by hand; never both."""

    def __init__(self, following: Following) -> None:
        self.followers = [Follower(following, shard, self._allowed) for shard in range(following.replay.shards)]
        self._wanted: dict[Buffer, int] = {}
        self._stop = threading.Event()
        self._fault: Exception | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Raises Unreachable if no shard answers, SchemaMismatch if one holds data of another schema."""
        assert not self._stop.is_set(), "closed"
        self._threads = [
            threading.Thread(target=self._run, args=(each,), name=f"replay-reader-{each.shard}", daemon=True)
            for each in self.followers
        ]
        for thread in self._threads:
            thread.start()
        deadline = math.inf
        while not all(each.answered for each in self.followers) and time.monotonic() < deadline:
            self.check()
            if all(each.failure for each in self.followers):
                raise self._failure()
            if math.isinf(deadline) and any(each.answered for each in self.followers):
                deadline = time.monotonic() + START_TIMEOUT_S
            time.sleep(0.002)

    def close(self) -> None:
        """Ends threads and connections."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for follower in self.followers:
            follower.close()

    def poll(self) -> int:
        """Makes one pass over the shards; those that are away are asked again from time to time, or if all are.

        Returns the number of segments. Raises Unreachable when no shard answers.
        """
        due = [each for each in self.followers if each.due]
        resting = [each for each in self.followers if not each.due]
        taken = _poll_all(due) or _poll_all(resting)
        if not taken:
            raise self._failure()
        return sum(taken)

    def held(self) -> contextlib.ExitStack:
        """Returns a context in which nothing is on its way from any stream to where it belongs."""
        with contextlib.ExitStack() as stack:
            for each in self.followers:
                stack.enter_context(each.taking)
            return stack.pop_all()

    def check(self) -> None:
        """Raises what ended a shard's thread."""
        if self._fault is not None:
            raise self._fault

    def caught_up(self) -> bool:
        """Tells whether all is read that was there at the start, on every shard that answers."""
        self.check()
        return all(each.caught_up or each.away_since is not None for each in self.followers)

    def received(self, buffer: Buffer) -> int:
        """Returns the transitions ever committed to a buffer, as far as this reader has come."""
        return sum(each.received(buffer) for each in self.followers)

    def oldest(self, buffer: Buffer) -> list[int]:
        """Returns the oldest slot that each shard still has."""
        return [each.oldest(buffer) for each in self.followers]

    def away(self) -> frozenset[int]:
        """Returns the shards that do not answer."""
        return frozenset(each.shard for each in self.followers if each.away_since is not None)

    def allow(self, buffer: Buffer, total: int) -> None:
        """Lets writers bring a buffer to `total` transitions ever; sent with the next pass."""
        check_buffer(buffer)
        self._wanted[buffer] = total

    def stats(self) -> dict[str, float]:
        """Returns counts and rates over all shards, and for how long each shard that is away has been so."""
        counts = sum((each.counts() for each in self.followers), Counter[str]())
        away = {each.shard: each.away_since for each in self.followers if each.away_since is not None}
        found = {name: float(counts[name]) for name in (*COUNTS, "waiting_bytes")}
        found["transitions_per_s"] = sum(each.transitions_rate.per_second() for each in self.followers)
        found["bytes_per_s"] = sum(each.bytes_rate.per_second() for each in self.followers)
        found |= {"shards": float(len(self.followers)), "shards_away": float(len(away))}
        return found | {f"shard_{shard}_away_s": time.time() - since for shard, since in away.items()}

    def _allowed(self, shard: int) -> dict[Buffer, int]:
        """Gives each buffer on a shard what it has, and an equal share of what is left over all shards."""
        allowed = {}
        for buffer, total in list(self._wanted.items()):
            received = [each.received(buffer) for each in self.followers]
            allowed[buffer] = received[shard] + math.ceil((total - sum(received)) / len(received))
        return allowed

    def _failure(self) -> Exception:
        return self.followers[0].failure or Unreachable("the replay did not answer")

    def _run(self, follower: Follower) -> None:
        try:
            follower.run(self._stop)
        except LeaseLost as error:
            self._fault = error
        except Exception as error:  # root of the thread: raised again in the caller's next call
            log.exception("the replay reader stopped")
            self._fault = error


def _poll_all(followers: Sequence[Follower]) -> list[int]:
    """Returns what each that answers has taken in."""
    taken = []
    for follower in followers:
        with contextlib.suppress(Unreachable):
            taken.append(follower.poll())
    return taken
