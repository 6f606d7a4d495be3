"""One buffer in the learner's memory: its index, and the pictures that belong to its rows.

    episode ─┬─ numbers ──► index ──draw──► rows ─► numbers ──┬─► batch
             └─ frames ───► frame store ──take── places ──────┘
                                            └─ gone from the server: drawn again

The lock guards index and frame store together while rows are added, drawn or copied; frames are decoded before it is
taken and fetched after it is released.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError, Unreachable
from protos.schema import F32, Outcome
from services.replay.read.batch import Batch
from services.replay.read.episodes import Track
from services.replay.read.frame_store import Camera, FrameStore, View
from services.replay.read.index import Index, Origin
from services.replay.read.position import EpisodeRef, Mirrored
from services.replay.read.strategies import CellSampler, PrioritySampler, Strategy, sampler_of

MAX_TAKES = 8
"""Draws of rows whose frames turn out to be gone or out of reach, before the caller hears of it."""

NO_FRAMES = "they left the server, or it does not answer; give frames more memory, or the replay more capacity"
RATE_EPISODES = 20
"""Episodes over which a cell's success rate forgets."""


class Mirror:
    """The latest `capacity` observations of one buffer. Thread-safe."""

    def __init__(
        self,
        capacity: int,
        *,
        gamma: float,
        n_step: int,
        strategy: Strategy,
        window: int,
        embeddings: bool,
        frames: FrameStore | None,
        oldest: Callable[[], Sequence[int]],
        away: Callable[[], frozenset[int]],
    ) -> None:
        """`oldest()` tells the oldest slot that each shard still has, `away()` which shards do not answer."""
        self._frames, self._oldest, self._away, self._embeddings = frames, oldest, away, embeddings
        self._avoided = frozenset[int]()
        self._sampler = sampler_of(strategy, capacity)
        self._make = partial(Index, capacity, gamma=gamma, n_step=n_step, sampler=self._sampler, window=window)
        self._index: Index | None = None if embeddings else self._make(embedding_dim=0)
        self._rates: dict[int, float] = {}
        self._capacity, self._resumes = capacity, False
        self._episodes: deque[EpisodeRef] = deque()
        """Those of which some row is in the index."""
        self._mutex = threading.Lock()
        self.gone = 0
        """Rows drawn whose frames had left the server."""

    @property
    def transitions(self) -> int:
        """Rows that can be drawn."""
        return 0 if self._index is None else self._index.transitions

    @property
    def wants_frames(self) -> bool:
        """Whether `add` needs the frames of episodes, not only their heads."""
        return self._frames is not None and self._frames.mirrors

    @property
    def embedding_dim(self) -> int:
        """Numbers of a readout; 0 before the first."""
        return 0 if self._index is None else self._index.embedding_dim

    def add(self, track: Track, embedding: F32 | None, origin: Origin, *, start: int | None = None) -> bool:
        """Appends an episode with the readouts (T + 1, D) of its observations, if the mirror keeps readouts.

        `start` is the count of its first row, where an episode comes back that was here before. False, with nothing
        changed, when D differs from that of the rows already here. Raises CorruptData for frames that do not decode.
        """
        slots = [piece.slot for piece in track.pieces]
        staged = self._frames.stage(track.pieces, shard=origin.shard, slots=slots) if self._frames else None
        dim = embedding.shape[1] if embedding is not None and self._embeddings else 0
        with self._mutex:
            if self._index is None:
                self._index = self._make(embedding_dim=dim)
            if dim != self._index.embedding_dim:
                return False
            self._note_outcome(track)
            if start is not None and self._resumes:
                self._index.go_to(start)
            first = self._index.next
            rows = self._index.add(track, embedding if dim else None, origin)
            self._note_place(EpisodeRef.of(track, origin.shard, start=first, rows=len(rows)), self._index)
            if self._frames is not None and staged is not None:
                self._frames.add(rows, staged)
        return True

    def fill(self, rng: np.random.Generator, out: Batch) -> None:
        """Draws as many transitions as `out` has rows. Raises Unreachable when their frames cannot be had."""
        if self._frames is None:
            with self._mutex:
                self._draw(rng, out)
        else:
            self._fill_with_frames(rng, out, self._frames)
        out.weight[:] /= out.weight.max()

    def weigh_cells(self, weights: Mapping[int, float]) -> None:
        """Sets the weights of configuration cells. Raises InputError where they are not what is drawn by."""
        if not isinstance(self._sampler, CellSampler):
            raise InputError("weights of cells: this buffer is not drawn by cells")
        with self._mutex:
            self._sampler.weigh(weights)

    def anneal(self, progress: float) -> None:
        """How far training has come, 0 to 1."""
        if isinstance(self._sampler, PrioritySampler):
            with self._mutex:
                self._sampler.anneal(progress)

    def success_rates(self) -> dict[int, float]:
        """Of each cell: how often the latest twenty episodes or so succeeded without a person's help."""
        with self._mutex:
            return dict(self._rates)

    def update_priorities(self, counts: NDArray[np.int64], errors: NDArray[np.floating]) -> None:
        """Errors (n,) of rows of earlier batches; rows overwritten since are ignored."""
        with self._mutex:
            if self._index is not None:
                self._index.update_priorities(counts, errors)

    def state(self) -> tuple[Mirrored, list[EpisodeRef], NDArray[np.float64] | None]:
        """What `resume` and `resumed` need, the episodes in order, and priorities where it is drawn by them."""
        with self._mutex:
            state = Mirrored(
                capacity=self._capacity,
                next=0 if self._index is None else self._index.next,
                embedding_dim=self.embedding_dim,
                sampling=self._sampler.state(),
                rates=tuple(self._rates.items()),
            )
            return state, list(self._episodes), None if self._index is None else self._index.masses()

    def resume(self, state: Mirrored) -> None:
        """Before the episodes of an earlier mirror are added again.

        Rows come to lie where they lay, if that one had the same capacity and strategy.
        """
        self._resumes = (state.capacity, state.sampling.strategy) == (self._capacity, self._sampler.state().strategy)
        if self._index is None and state.embedding_dim:
            self._index = self._make(embedding_dim=state.embedding_dim)
        if self._resumes:
            self._sampler.restore(state.sampling)

    def resumed(self, state: Mirrored, masses: NDArray[np.float64] | None) -> None:
        """After they have been added."""
        self._rates = dict(state.rates)
        if self._resumes and self._index is not None:
            self._index.go_to(state.next)
            if masses is not None:
                self._index.set_masses(masses)
        self._resumes = False

    def stats(self) -> dict[str, float]:
        """Memory of the index, and what the frame store says."""
        frames = {} if self._frames is None else self._frames.stats()
        memory = (self._index.nbytes if self._index else 0) + frames.get("memory_bytes", 0.0)
        found = {f"frames_{name}": value for name, value in frames.items()}
        return found | {"memory_bytes": float(memory), "overwritten": float(self.gone)}

    def close(self) -> None:
        """Ends the frame store's connections."""
        if self._frames is not None:
            self._frames.close()

    def _note_place(self, ref: EpisodeRef, index: Index) -> None:
        self._episodes.append(ref)
        while self._episodes[0].start + self._episodes[0].rows <= index.next - self._capacity:
            self._episodes.popleft()

    def _note_outcome(self, track: Track) -> None:
        if track.outcome is Outcome.RUNNING:
            return
        success = float(track.outcome is Outcome.SUCCESS and not track.human.any())
        rate = self._rates.get(track.cell, success)
        self._rates[track.cell] = rate + (success - rate) / RATE_EPISODES

    def _draw(
        self, rng: np.random.Generator, out: Batch, above: NDArray[np.int64] | None = None
    ) -> tuple[Index, NDArray[np.intp]]:
        """Fills the numbers of a batch, under the lock."""
        if self._index is None or not self._index.transitions:
            raise Unreachable(f"no row has frames any more: {NO_FRAMES}")
        rows = self._index.draw(rng, len(out), above)
        self._index.fill(rows, out)
        return self._index, rows

    def _fill_with_frames(self, rng: np.random.Generator, out: Batch, frames: FrameStore) -> None:
        """Draws, and what has no frames again: from newer slots then, as the oldest leave the server first."""
        wanted, part = np.arange(len(out)), out
        above = np.zeros(len(self._oldest()), np.int64)
        for _ in range(MAX_TAKES):
            missing = self._attempt(rng, part, frames, above)
            if part is not out:
                out.put(wanted, part)
            if not len(missing):
                return
            wanted, part = wanted[missing], out.like(len(missing))
        raise Unreachable(f"{len(wanted)} of {len(out)} rows drawn have no frames: {NO_FRAMES}")

    def _attempt(
        self, rng: np.random.Generator, out: Batch, frames: FrameStore, above: NDArray[np.int64]
    ) -> NDArray[np.intp]:
        """Draws all of `out`; returns the rows without frames, and raises `above` to the newest slot that is gone."""
        avoid = self._avoid(frames)
        limit = above.copy()
        limit[list(avoid)] = np.iinfo(np.int64).max
        with self._mutex:
            index, rows = self._draw(rng, out, limit)
            seen = frames.locate(index.windows(rows))
            following = frames.locate(index.windows(index.targets(rows)))
        try:
            there = frames.take(
                View(places=seen, out=_pictures(out, "")), View(places=following, out=_pictures(out, "next_"))
            )
        except Unreachable:
            if self._avoid(frames) <= avoid:
                raise
            return np.arange(len(out))
        gone = np.flatnonzero(~there)
        if len(gone):
            with self._mutex:
                self.gone += len(gone)
                np.maximum(above, index.newest_slots(out.rows[gone], len(above)), out=above)
                index.forget(out.rows[gone], self._oldest())
        return gone

    def _avoid(self, frames: FrameStore) -> frozenset[int]:
        """Shards from which no frames can be read: those that failed a moment ago, or failed and are still away."""
        self._avoided = frames.unreadable() | (self._avoided & self._away())
        return self._avoided


def _pictures(batch: Batch, when: str) -> dict[Camera, NDArray[np.uint8]]:
    cameras: tuple[Camera, ...] = ("side", "wrist")
    arrays = {camera: getattr(batch, when + camera) for camera in cameras}
    return {camera: array for camera, array in arrays.items() if array is not None}
