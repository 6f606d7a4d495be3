"""What a reader keeps of each buffer, checked, and the mirrors that keep it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from protos.errors import InputError
from protos.schema import SEGMENT_STEPS, Buffer, Schema
from services.replay.read.batch import FIELDS, Batch, Field
from services.replay.read.frame_store import Camera, FrameStore
from services.replay.read.index import row_bytes
from services.replay.read.mirror import Mirror
from services.replay.read.strategies import Strategy, Uniform
from services.replay.read.wire import SlotReader
from services.replay.settings import Keys, ReplaySettings, check_buffer

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The arguments of `ReplayReader` that say what is kept for batches."""

    schema: Schema
    buffers: Sequence[Buffer]
    capacity: Mapping[Buffer, int]
    gamma: float
    n_step: int
    sampling: Mapping[Buffer, Strategy] = field(default_factory=dict)
    fields: Sequence[Field] = ("embedding",)
    window: int = 1
    frame_memory_bytes: int = 0

    def __post_init__(self) -> None:
        for buffer in self.buffers:
            check_buffer(buffer)
        for buffer in (*self.capacity, *self.sampling):
            if buffer not in self.buffers:
                raise InputError(f"buffer {buffer!r} has a capacity or sampling, but is not followed: {self.buffers}")
        for buffer, size in self.capacity.items():
            if size < SEGMENT_STEPS + 1:
                raise InputError(f"capacity of {buffer!r}={size}: at least {SEGMENT_STEPS + 1}")
        if not 0.0 <= self.gamma <= 1.0:
            raise InputError(f"gamma={self.gamma}: 0 to 1")
        if self.n_step < 1:
            raise InputError(f"n_step={self.n_step}: at least 1")
        if self.window not in (1, 2):
            raise InputError(f"window={self.window}: 1 or 2 observations")
        if not self.fields or not set(self.fields) <= set(FIELDS):
            raise InputError(f"fields={list(self.fields)}: choose from {', '.join(FIELDS)}")

    @property
    def embeddings(self) -> bool:
        return "embedding" in self.fields

    @property
    def cameras(self) -> dict[Camera, int]:
        """Pixels of the cameras whose pictures batches hold."""
        pixels: dict[Camera, int] = {"side": self.schema.side_px, "wrist": self.schema.wrist_px}
        return {camera: px for camera, px in pixels.items() if camera in self.fields}

    def mirrors(
        self,
        settings: ReplaySettings,
        oldest: Callable[[Buffer], Sequence[int]],
        away: Callable[[], frozenset[int]],
    ) -> dict[Buffer, Mirror]:
        """A mirror for every buffer with a capacity; `oldest(buffer)` tells each shard's oldest slot."""
        return {
            buffer: Mirror(
                size,
                gamma=self.gamma,
                n_step=self.n_step,
                strategy=self.sampling.get(buffer, Uniform()),
                window=self.window,
                embeddings=self.embeddings,
                frames=self._store(settings, buffer),
                oldest=partial(oldest, buffer),
                away=away,
            )
            for buffer, size in self.capacity.items()
        }

    def batch(self, dims: Mapping[Buffer, int], size: int, out: Batch | None) -> Batch:
        """A batch to fill from buffers whose readouts have these `dims`: `out` where it fits, else a new one.

        Raises InputError for buffers that cannot share one.
        """
        if len(set(dims.values())) > 1:
            raise InputError(f"buffers whose readouts differ in size cannot share a batch: {dims}")
        dim = next(iter(dims.values()))
        if out is not None and out.fits(size, dim):
            return out
        return Batch.empty(size, embedding_dim=dim, cameras=self.cameras, window=self.window)

    def plan(self) -> str:
        """What is going to be in memory, and what will be read from the servers, in one line."""
        return "; ".join(self._plan_of(buffer) for buffer in self.capacity) or "no buffer is mirrored"

    def _plan_of(self, buffer: Buffer) -> str:
        rows = self.capacity[buffer]
        numbers = f"{buffer}: {rows} rows, numbers {rows * row_bytes() / _MIB:.0f} MiB"
        if self.embeddings:
            numbers += f" and {rows * 4 / _MIB:.2g} MiB per number of a readout"
        if not self.cameras:
            return numbers
        kept = min(rows, self._frame_bytes(buffer) // self._picture_bytes)
        pictures = f"{numbers}, pictures of {kept} rows {kept * self._picture_bytes / _MIB:.0f} MiB"
        return pictures if kept == rows else f"{pictures}, those of {rows - kept} rows read from the server when drawn"

    @property
    def _picture_bytes(self) -> int:
        """Of one observation."""
        return sum(3 * px * px for px in self.cameras.values())

    def _frame_bytes(self, buffer: Buffer) -> int:
        """A buffer's part of the memory, by its capacity."""
        return self.frame_memory_bytes * self.capacity[buffer] // sum(self.capacity.values())

    def _store(self, settings: ReplaySettings, buffer: Buffer) -> FrameStore | None:
        if not self.cameras:
            return None
        keys = Keys(settings.prefix, buffer)
        return FrameStore(
            self.schema,
            cameras=tuple(self.cameras),
            capacity=self.capacity[buffer],
            memory_bytes=self._frame_bytes(buffer),
            fetchers=[SlotReader(settings, shard, keys) for shard in range(settings.shards)],
        )
