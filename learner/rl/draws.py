"""The batches of a stage: which rows, from which buffers, in which order, drawn ahead where they take long.

    seed, "batch", k ─► random stream ─► reader.sample ─► batch k

Batch k depends on the seed, on k and on what the reader holds when it is drawn, not on the batches before it. So those
that were drawn ahead when a learner ends are simply drawn again by the next one.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from learner.settings import LoopSettings
from learner.stage.streams import numpy_stream
from protos.errors import Unreachable
from protos.schema import Buffer
from services.replay.read.prefetch import Prefetcher


class Experience(Protocol):
    """What drawing needs of the replay reader."""

    def counts(self) -> Mapping[Buffer, int]: ...
    def sample(self, rng: np.random.Generator, sizes: Mapping[Buffer, int], *, out: Any = None) -> Any: ...


class Draws:
    """Draws the batches of one stage; close it to end its thread."""

    def __init__(self, experience: Experience, settings: LoopSettings, *, seed: int, ahead: bool) -> None:
        """`ahead` draws in a thread, while the update before runs.

        Where draws depend on updates, by priorities or by weights of cells, batches drawn ahead would depend on how
        fast each is; so there they are not.
        """
        self._experience, self._settings, self._seed = experience, settings, seed
        self._ahead = ahead and not settings.drawn_by("priority") and not settings.drawn_by("cells")
        self._purpose, self._next = "", -1
        self._prefetcher: Prefetcher[Any] | None = None

    def sample(self, rows: int, purpose: str) -> Any:
        """Some rows of demonstrations, drawn now."""
        return self.draw(purpose, 0, rows, None)

    def warmup(self, k: int) -> Any:
        """Batch number k of the critic warm-up: demonstrations alone."""
        return self._get("warm-up", k)

    def online(self, k: int) -> Any:
        """Batch number k of the online stage; it stays as it is until the second one after it."""
        return self._get("batch", k)

    def close(self) -> None:
        """Ends the thread that draws ahead."""
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None

    def _get(self, purpose: str, k: int) -> Any:
        rows = self._settings.batch_size
        if not self._ahead:
            return self.draw(purpose, k, rows, None)
        if self._prefetcher is None or (purpose, k) != (self._purpose, self._next):
            self.close()
            self._purpose, self._next = purpose, k
            self._prefetcher = Prefetcher(_Counted(self, purpose, k, rows))
        self._next += 1
        return self._prefetcher.next(self._settings.data_timeout_s)

    def draw(self, purpose: str, k: int, rows: int, out: Any) -> Any:
        sides = (self._settings.online, self._settings.demo) if purpose == "batch" else (self._settings.demo,)
        sizes = batch_sizes(rows, sides, self._experience.counts())
        return self._experience.sample(numpy_stream(self._seed, purpose, k), sizes, out=out)


class _Counted:
    """Draws one batch after the other; one that failed is tried again under its number."""

    def __init__(self, draws: Draws, purpose: str, first: int, rows: int) -> None:
        self._draws, self._purpose, self._k, self._rows = draws, purpose, first, rows

    def __call__(self, old: Any) -> Any:
        batch = self._draws.draw(self._purpose, self._k, self._rows, old)
        self._k += 1
        return batch


def batch_sizes(rows: int, sides: tuple[Mapping[Buffer, int], ...], counts: Mapping[Buffer, int]) -> dict[Buffer, int]:
    """How many rows to draw from each buffer, `rows` in all.

    Each side keeps its share of the batch while any of its buffers has data; inside a side an empty buffer's share goes
    to the others in proportion.
    """
    filled = [{buffer: share for buffer, share in side.items() if counts.get(buffer, 0)} for side in sides]
    weights: dict[Buffer, float] = {}
    for side, present in zip(sides, filled, strict=True):
        for buffer, share in present.items():
            weights[buffer] = share * sum(side.values()) / sum(present.values())
    if not weights:
        names = ", ".join(buffer for side in sides for buffer in side)
        raise Unreachable(f"the replay has no transition in {names}; write demonstrations before this stage starts")
    return _apportion(rows, weights)


def _apportion(rows: int, weights: Mapping[Buffer, float]) -> dict[Buffer, int]:
    """Whole numbers in proportion to `weights` that sum to `rows` (largest remainder)."""
    total = sum(weights.values())
    exact = {buffer: rows * weight / total for buffer, weight in weights.items()}
    sizes = {buffer: int(value) for buffer, value in exact.items()}
    by_remainder = sorted(exact, key=lambda buffer: sizes[buffer] - exact[buffer])
    for buffer in by_remainder[: rows - sum(sizes.values())]:
        sizes[buffer] += 1
    return sizes
