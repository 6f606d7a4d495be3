"""What becomes of an episode that has arrived.

track ─┬─ readouts of another backbone, or none ──► embed(frames)
       ├─► mirror of its buffer ──► batches
       └─► kept with its frames ──► episodes(…)
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from protos.episode import Episode
from protos.errors import CorruptData
from protos.schema import F32, Buffer, Schema
from services.replay.read.episodes import Track
from services.replay.read.index import Origin
from services.replay.read.kept import KeptEpisodes
from services.replay.read.mirror import Mirror
from services.replay.read.position import EpisodeRef

log = logging.getLogger(__name__)

COUNTS = ("episodes", "corrupt", "wrong_schema", "unembedded")


class Intake:
    """Takes episodes from any number of threads."""

    def __init__(
        self,
        schema: Schema,
        mirrors: Mapping[Buffer, Mirror],
        *,
        embed: Callable[[Episode], F32] | None,
        backbone_id: str,
        embeddings: bool,
        keep_frames: Sequence[Buffer],
        episode_bytes: int,
    ) -> None:
        """`embeddings`: the mirrors want readouts; see `ReplayReader` for the rest."""
        self._schema, self._mirrors = schema, mirrors
        self._embed, self._backbone_id, self._embeddings = embed, backbone_id, embeddings
        self.keep_frames, self.kept = frozenset(keep_frames), KeptEpisodes(episode_bytes)
        self.counts = Counter(dict.fromkeys(COUNTS, 0))
        self._actors: dict[str, int] = {}
        self._mutex = threading.Lock()

    def take(self, track: Track, shard: int) -> None:
        """Puts an episode where it can be sampled and, if wanted, keeps it with its frames."""
        self._try(track, shard, self._mirrors.get(track.buffer), keep=track.buffer in self.keep_frames)

    def put_back(self, track: Track, ref: EpisodeRef, *, keep: bool) -> bool:
        """As `take`, for an episode that was here before: either it was kept, or it had rows in the mirror.

        False where it cannot be had any more.
        """
        return self._try(track, ref.shard, None if keep else self._mirrors[ref.buffer], keep=keep, start=ref.start)

    def name_actors(self, names: Sequence[str]) -> None:
        """Gives actors the numbers that they had."""
        self._actors = {name: number for number, name in enumerate(names)}

    def _try(self, track: Track, shard: int, mirror: Mirror | None, *, keep: bool, start: int | None = None) -> bool:
        try:
            return self._take(track, shard, mirror, keep=keep, start=start)
        except CorruptData as error:
            self._count("corrupt")
            log.warning("dropped an episode of buffer %s: %s", track.buffer, error)
            return False

    def _take(self, track: Track, shard: int, mirror: Mirror | None, *, keep: bool, start: int | None) -> bool:
        """Whether it is now everywhere where it is wanted."""
        wanted = mirror is not None and self._embeddings
        embedding = track.embedding if self._backbone_id in ("", track.backbone_id) else None
        compute = self._embed if wanted and embedding is None and track.has_frames else None
        episode = track.episode(self._schema) if keep or compute is not None else None
        if compute is not None and episode is not None:
            embedding = compute(episode)
        added = mirror is None
        if wanted and embedding is None:
            self._count("unembedded")
        elif mirror is not None:
            added = mirror.add(track, embedding, self._origin(track, shard), start=start)
            if not added:
                self._count("wrong_schema")
                log.warning("dropped an episode of %s: its readouts are of another size than earlier ones", track.actor)
        if keep and episode is not None:
            self.kept.add(episode, EpisodeRef.of(track, shard))
        self._count("episodes")
        return added

    def actors(self) -> list[str]:
        """Names of the actors, in the order of their numbers."""
        with self._mutex:
            return list(self._actors)

    def _origin(self, track: Track, shard: int) -> Origin:
        with self._mutex:
            return Origin(shard=shard, actor=self._actors.setdefault(track.actor, len(self._actors)))

    def _count(self, name: str) -> None:
        with self._mutex:
            self.counts[name] += 1
