"""Whole episodes with their frames, the latest that fit a number of bytes."""

import threading
from collections import deque
from collections.abc import Callable

from protos.episode import Episode
from protos.schema import Buffer
from services.replay.read.position import EpisodeRef


class KeptEpisodes:
    """Of any number of buffers together. Thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.bytes, self.forgotten = limit_bytes, 0, 0
        self._episodes: deque[tuple[Episode, EpisodeRef]] = deque()
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        return len(self._episodes)

    def add(self, episode: Episode, ref: EpisodeRef) -> None:
        """Keeps an episode; the oldest go when there are too many bytes, but never this one."""
        with self._mutex:
            self._episodes.append((episode, ref))
            self.bytes += _frame_bytes(episode)
            while self.bytes > self.limit_bytes and len(self._episodes) > 1:
                self.bytes -= _frame_bytes(self._episodes.popleft()[0])
                self.forgotten += 1

    def of(self, buffer: Buffer, where: Callable[[Episode], bool] | None) -> list[Episode]:
        """A buffer's episodes, oldest first."""
        with self._mutex:
            kept = [episode for episode, ref in self._episodes if ref.buffer == buffer]
        return [episode for episode in kept if where is None or where(episode)]

    def refs(self) -> list[EpisodeRef]:
        """All of them, oldest first."""
        with self._mutex:
            return [ref for _, ref in self._episodes]


def _frame_bytes(episode: Episode) -> int:
    return episode.observation.side.nbytes + episode.observation.wrist.nbytes
