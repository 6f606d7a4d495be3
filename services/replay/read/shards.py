"""All shards of a replay together, as a reader follows them: a thread for each, so that none waits for another."""

import contextlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from protos.errors import Unreachable
from protos.schema import Buffer, Schema
from services.replay.read.episodes import Track
from services.replay.read.follower import Follower
from services.replay.read.frame_demand import FrameDemand
from services.replay.settings import ReplaySettings, check_buffer

log = logging.getLogger(__name__)

COUNTS = (
    *("segments", "open_episodes", "cut_short", "corrupt", "wrong_schema", "overwritten", "repeated", "missed"),
    *("failures", "lag_segments", "lag_transitions"),
)
START_PATIENCE_S = 1.0
"""How long `start` waits for further shards once one has answered."""


class Shards:
    """Delivers every episode of every shard. Call `start` for threads of its own, or `poll` by hand; never both."""

    def __init__(
        self,
        settings: ReplaySettings,
        schema: Schema,
        *,
        buffers: Sequence[Buffer],
        demands: Mapping[Buffer, FrameDemand],
        waiting_bytes: int,
        deliver: Callable[[Track, int], None],
        name: str,
        tell: Callable[[], Mapping[str, float]],
    ) -> None:
        """`demands` says of each buffer which frames are fetched, `tell()` what others see under `name`.

        `deliver(track, shard)` is called by each shard's thread.
        """
        self.buffers = tuple(buffers)
        self.followers = [
            Follower(
                settings,
                shard,
                schema,
                buffers=buffers,
                demands=demands,
                waiting_bytes=waiting_bytes,
                deliver=deliver,
                allowed=self._allowed,
                name=name,
                tell=tell,
            )
            for shard in range(settings.shards)
        ]
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
        give_up = math.inf
        while not all(each.answered for each in self.followers) and time.monotonic() < give_up:
            self.check()
            if all(each.failure for each in self.followers):
                raise self._failure()
            if math.isinf(give_up) and any(each.answered for each in self.followers):
                give_up = time.monotonic() + START_PATIENCE_S
            time.sleep(0.002)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for follower in self.followers:
            follower.close()

    def poll(self) -> int:
        """One pass over the shards; those that are away are asked again from time to time, or if all are.

        Returns the number of segments. Raises Unreachable when no shard answers.
        """
        due = [each for each in self.followers if each.due]
        resting = [each for each in self.followers if not each.due]
        taken = _poll_all(due) or _poll_all(resting)
        if not taken:
            raise self._failure()
        return sum(taken)

    def held(self) -> contextlib.ExitStack:
        """While it is open nothing is on its way from any stream to where it belongs."""
        with contextlib.ExitStack() as stack:
            for each in self.followers:
                stack.enter_context(each.taking)
            return stack.pop_all()

    def check(self) -> None:
        """Raises what ended a shard's thread."""
        if self._fault is not None:
            raise self._fault

    def caught_up(self) -> bool:
        """Whether all is read that was there at the start, on every shard that answers."""
        self.check()
        return all(each.caught_up or each.away_since is not None for each in self.followers)

    def received(self, buffer: Buffer) -> int:
        """Transitions ever committed to a buffer, as far as this reader has come."""
        return sum(each.received(buffer) for each in self.followers)

    def oldest(self, buffer: Buffer) -> list[int]:
        """The oldest slot that each shard still has."""
        return [each.oldest(buffer) for each in self.followers]

    def away(self) -> frozenset[int]:
        """Shards that do not answer."""
        return frozenset(each.shard for each in self.followers if each.away_since is not None)

    def allow(self, buffer: Buffer, total: int) -> None:
        """Lets writers bring a buffer to `total` transitions ever; sent with the next pass."""
        check_buffer(buffer)
        self._wanted[buffer] = total

    def stats(self) -> dict[str, float]:
        """Counts and rates over all shards, and for how long each shard that is away has been so."""
        counts = sum((each.counts() for each in self.followers), Counter[str]())
        away = {each.shard: each.away_since for each in self.followers if each.away_since is not None}
        found = {name: float(counts[name]) for name in (*COUNTS, "waiting_bytes")}
        found["transitions_per_s"] = sum(each.transitions_rate.per_second() for each in self.followers)
        found["bytes_per_s"] = sum(each.bytes_rate.per_second() for each in self.followers)
        found |= {"shards": float(len(self.followers)), "shards_away": float(len(away))}
        return found | {f"shard_{shard}_away_s": time.time() - since for shard, since in away.items()}

    def _allowed(self, shard: int) -> dict[Buffer, int]:
        """What each buffer may have on a shard: what it has, and an equal share of what is left over all shards."""
        allowed = {}
        for buffer, total in list(self._wanted.items()):
            received = [each.received(buffer) if buffer in self.buffers else 0 for each in self.followers]
            allowed[buffer] = received[shard] + math.ceil((total - sum(received)) / len(received))
        return allowed

    def _failure(self) -> Exception:
        return self.followers[0].failure or Unreachable("the replay did not answer")

    def _run(self, follower: Follower) -> None:
        try:
            follower.run(self._stop)
        except Exception as error:  # root of the thread: raised again in the caller's next call
            log.exception("the replay reader stopped")
            self._fault = error


def _poll_all(followers: Sequence[Follower]) -> list[int]:
    """What each that answers has taken in."""
    taken = []
    for follower in followers:
        try:
            taken.append(follower.poll())
        except Unreachable:
            continue
    return taken
