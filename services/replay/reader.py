"""The learner's end of the replay.

    index streams ──tail──► new segments ──decode numbers──► episodes ──► mirror ──► sample
                                   │                             └──decode frames──► episodes(…), embed(…)
                                   └─ damaged, overwritten, of another schema: dropped, counted, logged

Each segment is fetched and decoded once. Its frames are decoded only if its buffer is in `keep_frames`, or if the
readouts that came with it are of another backbone and must be computed again.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np

from protos.errors import CorruptData, InputError, Unreachable
from protos.schema import F32, SEGMENT_STEPS, Buffer, Schema
from services.replay.allowance import Allowances
from services.replay.connection import Keys, ReplaySettings, connect, reaching
from services.replay.episodes import Assembler, Episode, Track
from services.replay.mirror import Batch, Mirror
from services.replay.tail import Tail

log = logging.getLogger(__name__)

POLL_S = 0.02
RETRY_S = 0.5


class ReplayReader:
    """Follows some buffers of a replay. Call `start` for a thread of its own, or `poll` by hand; never both."""

    def __init__(
        self,
        settings: ReplaySettings,
        schema: Schema,
        *,
        buffers: Sequence[Buffer],
        gamma: float,
        n_step: int,
        capacity: Mapping[Buffer, int],
        embed: Callable[[Episode], F32] | None = None,
        backbone_id: str = "",
        keep_frames: Sequence[Buffer] = (),
        episode_bytes: int = 2 << 30,
        waiting_bytes: int = 1 << 30,
    ) -> None:
        """Keeps the latest `capacity[buffer]` transitions for `sample`; a buffer without capacity is not mirrored.

        `embed` computes (T + 1, D) readouts where an episode has none of `backbone_id` (empty: any will do); without
        it such an episode cannot be sampled. `keep_frames` names the buffers whose episodes `episodes` gives back, the
        latest `episode_bytes` of them all together. `waiting_bytes` bounds the segments of unfinished episodes.
        """
        _check(buffers, capacity, keep_frames, gamma=gamma, n_step=n_step)
        self.settings, self.schema, self.buffers = settings, schema, tuple(buffers)
        self._embed, self._backbone_id = embed, backbone_id
        self._keep_frames, self._episode_bytes = frozenset(keep_frames), episode_bytes
        self._client = connect(settings)
        self._tails = {buffer: Tail(self._client, Keys(settings.prefix, buffer), schema) for buffer in buffers}
        self._assemblers = {buffer: Assembler(buffer, max_waiting_bytes=waiting_bytes) for buffer in buffers}
        self._mirrors = {buffer: Mirror(size, gamma=gamma, n_step=n_step) for buffer, size in capacity.items()}
        self._episodes: deque[Episode] = deque()
        self._kept_bytes = 0
        self._counts: Counter[str] = Counter()
        self._allowances = Allowances(self._client, settings.prefix)
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to follow the buffers. Raises Unreachable if the replay does not answer now."""
        with reaching(self.settings):
            self._client.execute_command("PING")
        self._thread = threading.Thread(target=self._run, name="replay-reader", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops following; what has been read can still be sampled."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._client.close()

    def __enter__(self) -> "ReplayReader":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def poll(self) -> int:
        """One pass: takes in what is new, up to a bound, and sends allowances; returns the number of segments."""
        with reaching(self.settings):
            self._allowances.send()
            return sum(self._take_in(buffer) for buffer in self.buffers)

    def counts(self) -> dict[Buffer, int]:
        """Transitions that can be sampled now, of mirrored buffers."""
        self._check_thread()
        with self._mutex:
            return {buffer: mirror.transitions for buffer, mirror in self._mirrors.items()}

    def received(self) -> dict[Buffer, int]:
        """Transitions ever committed to each buffer, as far as this reader has come; the scale of `allow`."""
        self._check_thread()
        return {buffer: tail.transitions for buffer, tail in self._tails.items()}

    def episodes(self, buffer: Buffer, where: Callable[[Episode], bool] | None = None) -> list[Episode]:
        """The kept episodes of a buffer, oldest first, with frames."""
        if buffer not in self._keep_frames:
            raise InputError(f"episodes of {buffer!r}: kept are those of {sorted(self._keep_frames)} (keep_frames)")
        self._check_thread()
        with self._mutex:
            kept = [episode for episode in self._episodes if episode.buffer == buffer]
        return [episode for episode in kept if where is None or where(episode)]

    def sample(self, rng: np.random.Generator, sizes: Mapping[Buffer, int]) -> Batch:
        """`sizes[buffer]` transitions of each buffer, uniform with replacement, in the order of `sizes`.

        Raises InputError for a buffer that is not mirrored or has nothing to sample yet.
        """
        self._check_thread()
        batches = []
        with self._mutex:
            for buffer, size in sizes.items():
                if size <= 0:
                    continue
                mirror = self._mirrors.get(buffer)
                if mirror is None or not mirror.transitions:
                    ready = {name: each.transitions for name, each in self._mirrors.items()}
                    raise InputError(f"nothing to sample in buffer {buffer!r}: transitions ready are {ready}")
                batches.append(mirror.sample(rng, size))
        if not batches:
            raise InputError(f"sizes={dict(sizes)}: ask for at least one transition")
        return Batch.join(batches)

    def allow(self, buffer: Buffer, total: int) -> None:
        """Lets writers bring the buffer to `total` transitions ever; sent with the next pass."""
        self._allowances.set(buffer, total)

    def stats(self) -> dict[str, float]:
        """Counts since the start, and what is held now."""
        tails = sum((tail.counts for tail in self._tails.values()), Counter[str]())
        with self._mutex:
            held = {
                "open_episodes": sum(len(each) for each in self._assemblers.values()),
                "cut_short": sum(each.cut_short for each in self._assemblers.values()),
                "kept_episodes": len(self._episodes),
                "kept_bytes": self._kept_bytes,
            }
        names = ("segments", "corrupt", "wrong_schema", "overwritten", "repeated", "missed", "episodes", "unembedded")
        counts = {name: tails[name] + self._counts[name] for name in (*names, "forgotten", "failures")}
        return {name: float(value) for name, value in (counts | held).items()}

    def _take_in(self, buffer: Buffer) -> int:
        arrivals = self._tails[buffer].read()
        for piece in arrivals.pieces:
            for track in self._assemblers[buffer].add(piece):
                self._finish(track)
        return arrivals.entries

    def _finish(self, track: Track) -> None:
        """Puts an episode where it can be sampled and, if wanted, keeps it with its frames."""
        keep = track.buffer in self._keep_frames
        mirror = self._mirrors.get(track.buffer)
        embedding = track.embedding if self._backbone_id in ("", track.backbone_id) else None
        compute = self._embed if mirror is not None and embedding is None else None
        episode = None
        if keep or compute is not None:
            try:
                episode = track.episode(self.schema)
            except CorruptData as error:
                self._counts["corrupt"] += 1
                log.warning("dropped an episode of buffer %s: %s", track.buffer, error)
                return
            if compute is not None:
                embedding = compute(episode)
        with self._mutex:
            self._counts["episodes"] += 1
            if mirror is not None and embedding is not None:
                mirror.add(track, embedding)
            self._counts["unembedded"] += mirror is not None and embedding is None
            if keep and episode is not None:
                self._keep(episode)

    def _keep(self, episode: Episode) -> None:
        self._episodes.append(episode)
        self._kept_bytes += _frame_bytes(episode)
        while self._kept_bytes > self._episode_bytes and len(self._episodes) > 1:
            self._kept_bytes -= _frame_bytes(self._episodes.popleft())
            self._counts["forgotten"] += 1

    def _check_thread(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:  # root of the thread: raised again in the caller's next call
            log.exception("the replay reader stopped")
            self._failure = error

    def _follow(self) -> None:
        away = False
        while not self._stop.is_set():
            try:
                taken = self.poll()
            except Unreachable as error:
                self._counts["failures"] += 1
                if not away:
                    log.warning("%s; trying again until it does", error)
                away = True
                self._stop.wait(RETRY_S)
                continue
            if away:
                log.info("the replay answers again")
                away = False
            if not taken:
                self._stop.wait(POLL_S)


def _frame_bytes(episode: Episode) -> int:
    return episode.observation.side.nbytes + episode.observation.wrist.nbytes


def _check(
    buffers: Sequence[Buffer],
    capacity: Mapping[Buffer, int],
    keep_frames: Sequence[Buffer],
    *,
    gamma: float,
    n_step: int,
) -> None:
    for buffer in (*capacity, *keep_frames):
        if buffer not in buffers:
            raise InputError(f"buffer {buffer!r} has a capacity or keeps frames, but is not followed: {list(buffers)}")
    for buffer, size in capacity.items():
        if size < SEGMENT_STEPS + 1:
            raise InputError(f"capacity of {buffer!r}={size}: at least {SEGMENT_STEPS + 1}")
    if not 0.0 <= gamma <= 1.0:
        raise InputError(f"gamma={gamma}: 0 to 1")
    if n_step < 1:
        raise InputError(f"n_step={n_step}: at least 1")
