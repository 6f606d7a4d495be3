"""Where a reader is at one moment: taken quickly, while nothing moves, and packed into a position after that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.schema import Buffer
from services.replay.read.follower import Follower
from services.replay.read.intake import Intake
from services.replay.read.mirror import Mirror
from services.replay.read.position import EpisodeRef, EpisodeTable, Followed, Mirrored, Position, Record

MirrorState = tuple[Mirrored, list[EpisodeRef], NDArray[np.float64] | None]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Of all parts of a reader."""

    actors: tuple[str, ...]
    shards: tuple[Mapping[Buffer, Followed], ...]
    mirrors: Mapping[Buffer, MirrorState]
    kept: list[EpisodeRef]

    @classmethod
    def of(cls, followers: Sequence[Follower], mirrors: Mapping[Buffer, Mirror], intake: Intake) -> "Snapshot":
        """Nothing may be on its way between them meanwhile."""
        return cls(
            actors=tuple(intake.actors()),
            shards=tuple(follower.position() for follower in followers),
            mirrors={buffer: mirror.state() for buffer, mirror in mirrors.items()},
            kept=intake.kept.refs(),
        )

    def position(self) -> Position:
        """Takes about 5 µs per episode."""
        table = EpisodeTable()
        arrays: dict[str, NDArray[Any]] = {}
        for buffer, (_, episodes, masses) in self.mirrors.items():
            arrays |= table.arrays(buffer, episodes) | ({} if masses is None else {f"{buffer}.masses": masses})
        arrays |= table.arrays("kept", self.kept)
        record = Record(
            actors=self.actors,
            writers=table.writers,
            shards=self.shards,
            mirrors={buffer: state for buffer, (state, _, _) in self.mirrors.items()},
        )
        return Position(record=record, arrays=arrays)
