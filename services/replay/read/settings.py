"""This module holds the settings of a replay reader, checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from protos.errors import InputError
from protos.schema import SEGMENT_STEPS, Buffer
from services.replay.read.sampling import Strategy
from services.replay.settings import check_buffer

Camera = Literal["side", "wrist"]
CAMERAS: tuple[Camera, ...] = ("side", "wrist")
Field = Literal["embedding", "side", "wrist"]
FIELDS: tuple[Field, ...] = ("embedding", "side", "wrist")


@dataclass(frozen=True, kw_only=True)
class ReaderSettings:
    """The settings of a `ReplayReader`: what it follows and keeps, and what its batches hold."""

    capacity: Mapping[Buffer, int]
    """The buffers that are followed, and how many of each one's latest observations are kept for `sample`."""
    gamma: float
    """Discount per step, 0 to 1."""
    n_step: int
    """Steps over which rewards are summed before the value of the next observation counts."""
    sampling: Mapping[Buffer, Strategy] = field(default_factory=dict)
    """Sampling strategy of each buffer; uniform where it is not named."""
    fields: Sequence[Field] = ("embedding",)
    """Fields of an observation that batches hold beside its numbers."""
    window: int = 1
    """Observations per row of a batch, 1 or 2, for images and proprioception."""
    image_memory_bytes: int = 4 << 30
    """The newest images that fit stay decoded in memory; older ones are read from the server when they are drawn."""
    image_folder: Path | None = None
    """Folder on a local disk: decoded images lie in a file without a name there, which ends with the reader, instead of
    in memory. The system keeps as much of the file in memory as it has free."""
    backbone_id: str = ""
    """Backbone whose readouts batches hold; empty: any one's."""
    waiting_bytes: int = 1 << 30
    """Most bytes of unfinished episodes, per shard and buffer."""

    def __post_init__(self) -> None:
        for buffer, size in self.capacity.items():
            check_buffer(buffer)
            if size < SEGMENT_STEPS + 1:
                raise InputError(f"capacity of {buffer!r}={size}: at least {SEGMENT_STEPS + 1}")
        for buffer in self.sampling:
            if buffer not in self.capacity:
                raise InputError(f"sampling of {buffer!r}: it has no capacity; those that have: {self.buffers}")
        if not 0.0 <= self.gamma <= 1.0:
            raise InputError(f"gamma={self.gamma}: 0 to 1")
        if self.n_step < 1:
            raise InputError(f"n_step={self.n_step}: at least 1")
        if self.window not in (1, 2):
            raise InputError(f"window={self.window}: 1 or 2 observations")
        if not self.fields or not set(self.fields) <= set(FIELDS):
            raise InputError(f"fields={list(self.fields)}: choose from {', '.join(FIELDS)}")
        if self.image_memory_bytes < 0:
            raise InputError(f"image_memory_bytes={self.image_memory_bytes}: 0 or more")

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(self.capacity)

    @property
    def embeddings(self) -> bool:
        return "embedding" in self.fields

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """Cameras whose images batches hold."""
        return tuple(camera for camera in CAMERAS if camera in self.fields)

    def image_memory(self, buffer: Buffer) -> int:
        """Returns a buffer's part of the memory for images, by its capacity."""
        return self.image_memory_bytes * self.capacity[buffer] // sum(self.capacity.values())
