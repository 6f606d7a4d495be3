"""This module keeps the episodes of a replay's buffers in the learner's memory, to be drawn from.

    episode ──Intake──┬─ readouts of another backbone, or none ──► embed(images)
                      └─► Mirror of its buffer ─┬─ numbers ──► index ──draw──► rows ─► numbers ──┬─► batch
                                                └─ images ───► image store ──take── places ──────┘
                                                                    └─ gone from the server: drawn again

A mirror's lock guards index and image store together while rows are added, drawn or copied; images are decoded before
it is taken and fetched after it is released.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos.episode import Episode
from protos.errors import CorruptData, InputError, Unreachable
from protos.schema import F32, U8, Buffer, Outcome, Schema
from services.replay.read.images import ImageStore, View
from services.replay.read.index import Batch, Index
from services.replay.read.log import SegmentRef, StoredEpisode
from services.replay.read.sampling import CellSampler, PrioritySampler, Rows, Uniform, sampler_of
from services.replay.read.settings import CAMERAS, Camera, ReaderSettings
from services.replay.read.shards import Shards

log = logging.getLogger(__name__)

MAX_TAKES = 8
"""Draws of rows whose images turn out to be gone or out of reach, before the caller hears of it."""
NO_IMAGES = "they left the server, or it does not answer; give images more memory, or the replay more capacity"
RATE_EPISODES = 20
"""Episodes over which a cell's success rate forgets."""
COUNTS = ("episodes", "corrupt", "wrong_schema", "unembedded")

Embed = Callable[[Episode], F32]
"""Computes readouts (T + 1, D) from an episode's images."""


class Placed(NamedTuple):
    """The place of an episode: its segments on a server, and its rows in the index."""

    shard: int
    start: int
    """Number of its first row, as the index counts them for ever."""
    rows: int
    segments: Sequence[SegmentRef]


class Mirror:
    """A mirror keeps the latest `capacity` observations of one buffer in memory. Thread-safe."""

    def __init__(self, buffer: Buffer, settings: ReaderSettings, images: ImageStore | None) -> None:
        self.buffer, self.capacity = buffer, settings.capacity[buffer]
        self.sampler = sampler_of(settings.sampling.get(buffer, Uniform()), self.capacity)
        self._settings, self._images = settings, images
        self._avoided = frozenset[int]()
        self._index: Index | None = None if settings.embeddings else self._make(embedding_dim=0)
        self._rates: dict[int, float] = {}
        self._episodes: deque[Placed] = deque()
        """Those of which some row is in the index."""
        self._mutex = threading.Lock()
        self.gone = 0
        """Rows drawn whose images had left the server."""

    @property
    def transitions(self) -> int:
        """Rows that can be drawn."""
        return 0 if self._index is None else self._index.transitions

    @property
    def wants_images(self) -> bool:
        """True when `add` needs the images of episodes, not only their heads."""
        return self._images is not None and self._images.mirrors

    @property
    def embedding_dim(self) -> int:
        """Numbers of a readout; 0 before the first."""
        return 0 if self._index is None else self._index.embedding_dim

    @property
    def next(self) -> int:
        """Rows ever added."""
        return 0 if self._index is None else self._index.next

    def add(self, stored: StoredEpisode, embedding: F32 | None, actor: int) -> bool:
        """Appends an episode with the readouts (T + 1, D) of its observations, if the mirror keeps readouts.

        False, with nothing changed, when D differs from that of the rows already here. Raises CorruptData for images
        that do not decode.
        """
        staged = None if self._images is None else self._images.stage(stored.segments, shard=stored.shard)
        dim = embedding.shape[1] if embedding is not None and self._settings.embeddings else 0
        with self._mutex:
            if self._index is None:
                self._index = self._make(embedding_dim=dim)
            if dim != self._index.embedding_dim:
                return False
            self._note_outcome(stored.numbers)
            first = self._index.next
            rows = self._index.add(stored, embedding if dim else None, actor)
            refs = [segment.ref for segment in stored.segments]
            self._episodes.append(Placed(shard=stored.shard, start=first, rows=len(rows), segments=refs))
            while self._episodes[0].start + self._episodes[0].rows <= self._index.next - self.capacity:
                self._episodes.popleft()
            if self._images is not None and staged is not None:
                self._images.add(rows, staged)
        return True

    def fill(self, rng: np.random.Generator, out: Batch, shards: Shards) -> None:
        """Draws as many transitions as `out` has rows. Raises Unreachable when their images cannot be had.

        `shards` tells the oldest slot that each shard still has, and which do not answer.
        """
        if self._images is None:
            with self._mutex:
                self._draw(rng, out)
        else:
            self._fill_with_images(rng, out, self._images, shards)
        out.weight[:] /= out.weight.max()

    def weigh_cells(self, weights: Mapping[int, float]) -> None:
        """Sets how often each configuration cell is drawn. Raises InputError unless it is drawn by cells."""
        if not isinstance(self.sampler, CellSampler):
            raise InputError("weights of cells: this buffer is not drawn by cells")
        with self._mutex:
            self.sampler.weigh(weights)

    def anneal(self, progress: float) -> None:
        """Sets the progress of training, 0 to 1; only a buffer drawn by priority heeds it."""
        if isinstance(self.sampler, PrioritySampler):
            with self._mutex:
                self.sampler.anneal(progress)

    def success_rates(self) -> dict[int, float]:
        """Returns by cell how often the latest twenty episodes or so succeeded without a person's help."""
        with self._mutex:
            return dict(self._rates)

    def update_priorities(self, counts: NDArray[np.int64], errors: NDArray[np.floating]) -> None:
        """Takes errors (n,) of rows (n,), by their counts."""
        with self._mutex:
            if self._index is not None:
                self._index.update_priorities(counts, errors)

    def episodes(self) -> list[Placed]:
        """Returns the places of the episodes of which some row is in the index, in order."""
        with self._mutex:
            return list(self._episodes)

    def masses(self) -> NDArray[np.float64] | None:
        """Returns the priorities of all rows of the ring, (capacity,), where it is drawn by priority."""
        with self._mutex:
            return None if self._index is None else self._index.masses()

    def skip_to(self, count: int, *, embedding_dim: int) -> None:
        """Makes `count` the next row; those up to there stay empty."""
        with self._mutex:
            if self._index is None:
                self._index = self._make(embedding_dim=embedding_dim)
            self._index.skip_to(count)

    def put_back(self, rates: Mapping[int, float], masses: NDArray[np.float64] | None) -> None:
        """Puts success rates and the priorities of rows back, after their episodes have been added again."""
        with self._mutex:
            self._rates = dict(rates)
            if masses is not None and self._index is not None:
                self._index.set_masses(masses)

    def stats(self) -> dict[str, float]:
        """Returns the memory of the index, and what the image store says."""
        images = {} if self._images is None else self._images.stats()
        memory = (self._index.nbytes if self._index else 0) + images.get("memory_bytes", 0.0)
        found = {f"images_{name}": value for name, value in images.items()}
        return found | {"memory_bytes": float(memory), "overwritten": float(self.gone)}

    def close(self) -> None:
        """Ends the image store's connections."""
        if self._images is not None:
            self._images.close()

    def _make(self, *, embedding_dim: int) -> Index:
        settings = self._settings
        return Index(
            self.capacity,
            gamma=settings.gamma,
            n_step=settings.n_step,
            sampler=self.sampler,
            window=settings.window,
            embedding_dim=embedding_dim,
        )

    def _note_outcome(self, episode: Episode) -> None:
        if episode.outcome in (Outcome.RUNNING, Outcome.STOPPED, Outcome.UNKNOWN):
            return
        cell = episode.configuration.cell
        success = float(episode.outcome is Outcome.SUCCESS and not episode.human.any())
        rate = self._rates.get(cell, success)
        self._rates[cell] = rate + (success - rate) / RATE_EPISODES

    def _draw(self, rng: np.random.Generator, out: Batch, above: NDArray[np.int64] | None = None) -> tuple[Index, Rows]:
        """Fills the numbers of a batch, under the lock."""
        if self._index is None or not self._index.transitions:
            raise Unreachable(f"no row has images any more: {NO_IMAGES}")
        rows = self._index.draw(rng, len(out), above)
        self._index.fill(rows, out)
        return self._index, rows

    def _fill_with_images(self, rng: np.random.Generator, out: Batch, images: ImageStore, shards: Shards) -> None:
        """Draws, and what has no images again: from newer slots then, as the oldest leave the server first."""
        wanted, part = np.arange(len(out)), out
        above = np.zeros(len(shards.followers), np.int64)
        for _ in range(MAX_TAKES):
            missing = self._attempt(rng, part, images, above, shards)
            if part is not out:
                out.put(wanted, part)
            if not len(missing):
                return
            wanted, part = wanted[missing], out.like(len(missing))
        raise Unreachable(f"{len(wanted)} of {len(out)} rows drawn have no images: {NO_IMAGES}")

    def _attempt(
        self, rng: np.random.Generator, out: Batch, images: ImageStore, above: NDArray[np.int64], shards: Shards
    ) -> Rows:
        """Draws all of `out`; returns the rows without images, and raises `above` to the newest slot that is gone."""
        avoid = self._avoid(images, shards)
        limit = above.copy()
        limit[list(avoid)] = np.iinfo(np.int64).max
        with self._mutex:
            index, rows = self._draw(rng, out, limit)
            seen = images.locate(index.windows(rows))
            following = images.locate(index.windows(index.targets(rows)))
        try:
            there = images.take(
                View(places=seen, out=_images_of(out, "")), View(places=following, out=_images_of(out, "next_"))
            )
        except Unreachable:
            if self._avoid(images, shards) <= avoid:
                raise
            return np.arange(len(out))
        gone = np.flatnonzero(~there)
        if len(gone):
            with self._mutex:
                self.gone += len(gone)
                np.maximum(above, index.newest_slots(out.rows[gone], len(above)), out=above)
                index.forget(out.rows[gone], shards.oldest(self.buffer))
        return gone

    def _avoid(self, images: ImageStore, shards: Shards) -> frozenset[int]:
        """Names shards that cannot be read from: those that failed a moment ago, or failed and are still away."""
        self._avoided = images.unreadable() | (self._avoided & shards.away())
        return self._avoided


def _images_of(batch: Batch, when: str) -> dict[Camera, U8]:
    arrays = {camera: getattr(batch, when + camera) for camera in CAMERAS}
    return {camera: array for camera, array in arrays.items() if array is not None}


class Intake:
    """The intake takes episodes from any number of threads and puts each into the mirror of its buffer."""

    def __init__(
        self, schema: Schema, settings: ReaderSettings, mirrors: Mapping[Buffer, Mirror], embed: Embed | None
    ) -> None:
        """`embed` computes readouts where an episode has none of the settings' backbone."""
        self._schema, self._settings, self._mirrors, self._embed = schema, settings, mirrors, embed
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        self._actors: dict[str, int] = {}
        self._mutex = threading.Lock()

    def take(self, stored: StoredEpisode) -> bool:
        """Puts an episode where it can be sampled; False, counted and logged, where that is not possible."""
        try:
            added = self._take(stored)
        except CorruptData as error:
            self._count("corrupt")
            log.warning("dropped an episode of buffer %s: %s", stored.buffer, error)
            return False
        self._count("episodes")
        return added

    def actors(self) -> list[str]:
        """Returns the names of the actors, in the order of their numbers."""
        with self._mutex:
            return list(self._actors)

    def name_actors(self, names: Sequence[str]) -> None:
        """Gives actors the numbers that they had."""
        self._actors = {name: number for number, name in enumerate(names)}

    def _take(self, stored: StoredEpisode) -> bool:
        embedding = self._embedding(stored)
        if self._settings.embeddings and embedding is None:
            self._count("unembedded")
            return False
        if not self._mirrors[stored.buffer].add(stored, embedding, self._number_of(stored.actor)):
            self._count("wrong_schema")
            log.warning("dropped an episode of %s: its readouts are of another size than earlier ones", stored.actor)
            return False
        return True

    def _embedding(self, stored: StoredEpisode) -> F32 | None:
        """Returns the episode's own readouts or computes them; None where they are not wanted or cannot be had."""
        episode = stored.numbers
        if not self._settings.embeddings:
            return None
        if episode.embedding is not None and self._settings.backbone_id in ("", episode.backbone_id):
            return episode.embedding
        if self._embed is None or not stored.has_images:
            return None
        return self._embed(stored.decoded(self._schema))

    def _number_of(self, actor: str) -> int:
        with self._mutex:
            return self._actors.setdefault(actor, len(self._actors))

    def _count(self, name: str) -> None:
        with self._mutex:
            self.counts[name] += 1
