"""What a reader gives to learn from: one transition per row."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from protos.schema import ACTION_DIM, F32, PROPRIO_DIM, U8, Bools, Source
from services.replay.read.frame_table import Camera

Field = Literal["embedding", "side", "wrist"]
FIELDS: tuple[Field, ...] = ("embedding", "side", "wrist")
"""What a batch may hold of an observation, beside its numbers."""
SOURCES = tuple(Source)
"""`Batch.source` counts from 0 in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One transition per row, n rows; None for what the reader was not asked for.

    Pictures and proprioception come in windows of W observations, the newest last. Where an episode has no earlier
    observation its first one stands in, marked in `pad`; the next observation always has one before it, so its window
    needs no mark.
    """

    embedding: F32 | None  # (n, D) readout of the observation
    side: U8 | None  # (n, W, px, px, 3)
    wrist: U8 | None  # (n, W, px, px, 3)
    pad: Bools  # (n, W)
    proprio: F32  # (n, 25) raw units; (n, W, 25) where windows hold more than one observation
    action: F32  # (n, 7)
    reward: F32  # (n,) discounted sum over up to n steps
    discount: F32  # (n,) factor of the value of the next observation; 0 after success or failure
    next_embedding: F32 | None  # (n, D) at the end of those steps
    next_side: U8 | None  # (n, W, px, px, 3)
    next_wrist: U8 | None  # (n, W, px, px, 3)
    next_proprio: F32  # as proprio
    mc_return: F32  # (n,) discounted sum to the end of the episode
    imitate: F32  # (n,) 1 where a person acted or the episode succeeded, else 0
    weight: F32  # (n,) importance weight, 1 unless the buffer is drawn by priority
    human: Bools  # (n,)
    success: Bools  # (n,) the episode's
    version: NDArray[np.int64]  # (n,) oldest weight version of the step's segment, -1 for demonstrations
    newest_version: NDArray[np.int64]  # (n,)
    cell: NDArray[np.int32]  # (n,) of the initial configuration, -1 outside the grid
    source: U8  # (n,) index into `SOURCES`
    actor: NDArray[np.int32]  # (n,) index into `ReplayReader.actors()`
    rows: NDArray[np.int64]  # (n,) which transitions these are, for `ReplayReader.update_priorities`

    def __len__(self) -> int:
        return len(self.reward)

    @classmethod
    def empty(cls, size: int, *, embedding_dim: int, cameras: Mapping[Camera, int], window: int) -> "Batch":
        """Arrays of `size` rows to fill; `embedding_dim` 0: none, `cameras`: those wanted, with their pixels."""
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            name: ((size, *shape), dtype) for name, (shape, dtype) in NUMBERS.items()
        }
        moment = (PROPRIO_DIM,) if window == 1 else (window, PROPRIO_DIM)
        shapes |= {f"{when}proprio": ((size, *moment), np.float32) for when in ("", "next_")}
        shapes |= {"pad": ((size, window), np.bool_), "rows": ((size,), np.int64), "weight": ((size,), np.float32)}
        for when in ("", "next_"):
            if embedding_dim:
                shapes[f"{when}embedding"] = (size, embedding_dim), np.float32
            shapes |= {f"{when}{name}": ((size, window, px, px, 3), np.uint8) for name, px in cameras.items()}
        return cls._of({name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()})

    def fits(self, size: int, embedding_dim: int) -> bool:
        """Whether a draw of `size` transitions with such readouts can be filled in here."""
        return len(self) == size and (0 if self.embedding is None else self.embedding.shape[1]) == embedding_dim

    def like(self, size: int) -> "Batch":
        """An unfilled batch of the same arrays with `size` rows."""
        return self._of({n: np.empty((size, *array.shape[1:]), array.dtype) for n, array in self._arrays().items()})

    def put(self, at: NDArray[np.intp], other: "Batch") -> None:
        """Overwrites the rows `at` (m,) with those of a batch of m rows."""
        for name, array in self._arrays().items():
            array[at] = getattr(other, name)

    def part(self, start: int, stop: int) -> "Batch":
        """The rows from `start` to before `stop`, as views."""
        return self._of({name: array[start:stop] for name, array in self._arrays().items()})

    def _arrays(self) -> dict[str, Any]:
        """The arrays that it has."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: array for name, array in found.items() if array is not None}

    @classmethod
    def _of(cls, arrays: Mapping[str, Any]) -> "Batch":
        values: dict[str, Any] = {f.name: arrays.get(f.name) for f in fields(cls)}
        return cls(**values)


NUMBERS: dict[str, tuple[tuple[int, ...], Any]] = {
    "action": ((ACTION_DIM,), np.float32),
    "reward": ((), np.float32),
    "discount": ((), np.float32),
    "mc_return": ((), np.float32),
    "imitate": ((), np.float32),
    "human": ((), np.bool_),
    "success": ((), np.bool_),
    "version": ((), np.int64),
    "newest_version": ((), np.int64),
    "cell": ((), np.int32),
    "source": ((), np.uint8),
    "actor": ((), np.int32),
}
"""Shape and dtype of a batch's numbers that are columns of the index under the same name, per row."""
