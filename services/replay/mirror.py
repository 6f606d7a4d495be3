"""The transitions of one buffer as flat arrays, and batches drawn from them.

    row        0    1    2    3  |  4    5    6  | …        two episodes of 3 and 2 steps: T + 1 rows each
    ahead      2    2    1    0  |  2    1    0  | …        n-step target of row i is row i + ahead (n = 2)
               transitions   last   transitions  last

Rows form a ring: the oldest are overwritten one by one, and as a target is always newer than its row it is there as
long as the row is. Reading costs the server nothing, however often a transition is drawn.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.schema import F32, Outcome
from services.replay.episodes import Track
from services.replay.returns import monte_carlo, n_step

ENDED = (Outcome.SUCCESS, Outcome.FAILURE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One transition per row, n rows."""

    embedding: F32  # (n, D) readout of the observation
    proprio: F32  # (n, 19) raw units
    action: F32  # (n, 7)
    reward: F32  # (n,) discounted sum over up to n steps
    discount: F32  # (n,) factor of the value of the next observation; 0 after success or failure
    next_embedding: F32  # (n, D) at the end of those steps
    next_proprio: F32  # (n, 19)
    mc_return: F32  # (n,) discounted sum to the end of the episode
    imitate: F32  # (n,) 1 where a person acted or the episode succeeded, else 0
    human: NDArray[np.bool_]  # (n,)
    version: NDArray[np.int64]  # (n,) oldest weight version of the step's segment, -1 for demonstrations

    def __len__(self) -> int:
        return len(self.reward)

    @classmethod
    def join(cls, batches: "list[Batch]") -> "Batch":
        """One batch of all their rows, in order."""
        return cls(**{f.name: np.concatenate([getattr(batch, f.name) for batch in batches]) for f in fields(cls)})


class Mirror:
    """Ring of `capacity` rows. Not thread-safe."""

    def __init__(self, capacity: int, *, gamma: float, n_step: int) -> None:
        self.capacity, self.gamma, self.n_step = capacity, gamma, n_step
        self.transitions = 0
        """Rows that can be drawn."""
        self._head = 0
        self._filled = 0
        self._columns: dict[str, NDArray[Any]] = {}

    def add(self, track: Track, embedding: F32) -> None:
        """Appends an episode with the readouts of its T + 1 observations, (T + 1, D).

        Raises InputError when D differs from that of the rows already here.
        """
        rows = self._rows(track, embedding)
        if not self._columns:
            self._columns = {name: np.zeros((self.capacity, *row.shape[1:]), row.dtype) for name, row in rows.items()}
        width = self._columns["embedding"].shape[1]
        if embedding.shape[1] != width:
            raise InputError(f"embeddings of {embedding.shape[1]} numbers, the mirror holds some of {width}")
        count = min(len(embedding), self.capacity)
        where = (self._head + np.arange(count)) % self.capacity
        self.transitions -= int(np.count_nonzero(self._columns["ahead"][where]))
        for name, row in rows.items():
            self._columns[name][where] = row[-count:]
        self.transitions += int(np.count_nonzero(self._columns["ahead"][where]))
        self._head = (self._head + count) % self.capacity
        self._filled = min(self._filled + count, self.capacity)

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """Uniform over the transitions, with replacement."""
        assert self.transitions, "an empty mirror cannot be sampled"
        ahead = self._columns["ahead"]
        rows = rng.integers(self._filled, size=size)
        while len(last := np.flatnonzero(ahead[rows] == 0)):
            rows[last] = rng.integers(self._filled, size=len(last))
        target = (rows + ahead[rows]) % self.capacity
        drawn = {name: column.take(rows, axis=0) for name, column in self._columns.items() if name != "ahead"}
        return Batch(
            **drawn,
            next_embedding=self._columns["embedding"].take(target, axis=0),
            next_proprio=self._columns["proprio"].take(target, axis=0),
        )

    def _rows(self, track: Track, embedding: F32) -> dict[str, NDArray[Any]]:
        """All columns of T + 1 rows; the last row is an observation only."""
        returns = n_step(track.reward, terminated=track.outcome in ENDED, gamma=self.gamma, n=self.n_step)
        imitate = track.human | (track.outcome is Outcome.SUCCESS)
        steps: dict[str, NDArray[Any]] = {
            "action": track.action,
            "reward": returns.reward,
            "discount": returns.discount,
            "mc_return": monte_carlo(track.reward, self.gamma),
            "imitate": imitate.astype(np.float32),
            "human": track.human,
            "version": track.version,
            "ahead": returns.ahead,
        }
        padded = {name: np.concatenate([column, np.zeros_like(column[:1])]) for name, column in steps.items()}
        return {"embedding": embedding, "proprio": track.proprio} | padded
