"""This module is the learner's end of the replay: a reader that follows it and draws batches.

    shard 0 ──Follower──┐
    shard 1 ──Follower──┼─ episodes ──► Intake ──► Mirror of the buffer ──► sample
    …                   ┘   damaged, overwritten, of another schema: dropped, counted, logged

Each segment is fetched and decoded once. Its images are fetched and decoded only if they are kept in memory, or if the
readouts that came with it are of another backbone and must be computed again; otherwise its head is all that is read.
A shard that is away delays nobody: what the others bring is taken in meanwhile, and what is already here can be drawn.
"""

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.schema import BUFFERS, Buffer, Schema
from services.replay.read.buffer import Embed, Intake, Mirror
from services.replay.read.fetching import image_bytes, pixels
from services.replay.read.images import ImageStore
from services.replay.read.index import Batch, row_bytes
from services.replay.read.log import ImageDemand
from services.replay.read.position import Position, Restore, Restored, RestoreSettings
from services.replay.read.settings import ReaderSettings
from services.replay.read.shards import Following, Shards
from services.replay.read.wire import SlotReader
from services.replay.settings import Keys, ReplaySettings

log = logging.getLogger(__name__)

_MIB = 1 << 20
_numbers = count()


class ReplayReader:
    """A reader follows some buffers of a replay. Call `start` for threads of its own, or `poll` by hand; never both.

    It begins with the oldest segment that the servers still have, so a learner that starts again finds its data. It
    keeps what it has read, also when somebody empties the buffer on the servers.
    """

    def __init__(
        self,
        replay: ReplaySettings,
        schema: Schema,
        settings: ReaderSettings,
        *,
        embed: Embed | None = None,
        name: str | None = None,
        resume: Position | None = None,
        lease: Callable[[], int] = lambda: 0,
    ) -> None:
        """`embed` computes (T + 1, D) readouts where an episode has none of the settings' backbone; without it such an
        episode cannot be sampled. `name` is what others see of this reader. `lease` gives the number of the
        lease under which it sets allowances, 0 for none.

        `resume` is the position of an earlier reader with the same arguments: `restore` goes back to it.
        """
        self.replay, self.schema, self.settings = replay, schema, settings
        self._mirrors = {buffer: Mirror(buffer, settings, self._store(buffer)) for buffer in settings.buffers}
        self._intake = Intake(schema, settings, self._mirrors, embed)
        following = Following(
            replay=replay,
            schema=schema,
            demands={
                buffer: ImageDemand(
                    always=mirror.wants_images,
                    recompute=embed is not None and settings.embeddings,
                    backbone_id=settings.backbone_id,
                )
                for buffer, mirror in self._mirrors.items()
            },
            waiting_bytes=settings.waiting_bytes,
            deliver=self._intake.take,
            name=name or f"{socket.gethostname()}:{os.getpid()}:{next(_numbers)}",
            stats=self.stats,
            lease=lease,
        )
        self._shards = Shards(following)
        self._resume = resume

    def restore(self, settings: RestoreSettings | None = None) -> Restored:
        """Reads again what the earlier reader had at `resume`, in the same order, and nothing newer.

        Rows, priorities, weights of cells and `received` are then what they were; `start` and `poll`, which do this by
        themselves, go on from there. One warning says how many episodes the servers no longer have. Raises Unreachable
        when a shard that has some does not answer in time; the reader can then only be closed.
        """
        if self._resume is None:
            return Restored()
        settings = settings or RestoreSettings()
        restored = Restore(self._resume, self._shards.followers, self._mirrors, self._intake, settings).run()
        self._resume = self._resume if settings.stop() else None
        return restored

    def position(self) -> Position:
        """Returns how far this reader has come, for the `resume` of a later one.

        Waits for the episode that is being taken in. While `restore` is still to come, or was stopped, it is where that
        is to go back to.
        """
        if self._resume is not None:
            return self._resume
        with self._shards.held():
            return Position.of(self._shards.followers, self._mirrors, self._intake)

    def start(self) -> None:
        """Begins to follow the buffers. Raises Unreachable if no shard answers now.

        Raises SchemaMismatch when a shard holds data of another schema; a later shard raises it in the next call.
        """
        plan = "; ".join(self._plan_of(buffer) for buffer in self.settings.buffers) or "no buffer is kept"
        log.info("replay memory: %s", plan)
        try:
            self.restore()
            self._shards.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops following; what has been read can still be sampled, except images that are not in memory."""
        self._shards.close()
        for mirror in self._mirrors.values():
            mirror.close()

    def __enter__(self) -> "ReplayReader":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def poll(self) -> int:
        """Makes one pass over the shards: takes in what is new, up to a bound, and sends allowances.

        Returns the number of segments. Raises Unreachable when no shard answers; one of several that does not is asked
        again from time to time.
        """
        self.restore()
        return self._shards.poll()

    def caught_up(self) -> bool:
        """Tells whether all that was there at the start has been read, on every shard that answers."""
        return self._shards.caught_up()

    def counts(self) -> dict[Buffer, int]:
        """Returns the transitions that can be sampled now."""
        self._shards.check()
        return {buffer: mirror.transitions for buffer, mirror in self._mirrors.items()}

    def received(self) -> dict[Buffer, int]:
        """Returns the transitions ever committed to each buffer, as far as this reader has come; see `allow`.

        Raises LeaseLost when another learner leads now.
        """
        self._shards.check()
        return {buffer: self._shards.received(buffer) for buffer in self._mirrors}

    def actors(self) -> list[str]:
        """Returns the names of the actors, in the order in which `Batch.actor` numbers them."""
        return self._intake.actors()

    def sample(self, rng: np.random.Generator, sizes: Mapping[Buffer, int], *, out: Batch | None = None) -> Batch:
        """Draws `sizes[buffer]` transitions of each buffer, with replacement, in the order of `sizes`.

        `out` is a batch of an earlier call with the same total whose arrays may be filled again; it is returned then.
        Raises InputError for a buffer that is not followed or has nothing to sample yet, and Unreachable when images
        that are not in memory cannot be read.
        """
        self._shards.check()
        wanted = {buffer: size for buffer, size in sizes.items() if size > 0}
        if not wanted:
            raise InputError(f"sizes={dict(sizes)}: ask for at least one transition")
        mirrors = {buffer: self._ready(buffer) for buffer in wanted}
        batch = self._batch(mirrors, sum(wanted.values()), out)
        first = 0
        for buffer, size in wanted.items():
            part = batch.part(first, first + size)
            mirrors[buffer].fill(rng, part, self._shards)
            part.rows[:] = part.rows * len(BUFFERS) + BUFFERS.index(buffer)
            first += size
        return batch

    def update_priorities(self, batch: Batch, errors: NDArray[np.floating]) -> None:
        """Takes the errors (n,) of a batch's rows; only buffers drawn by priority heed them.

        Rows that have been overwritten since, and errors that are not finite, are ignored.
        """
        for buffer, mirror in self._mirrors.items():
            of_buffer = batch.rows % len(BUFFERS) == BUFFERS.index(buffer)
            if of_buffer.any():
                mirror.update_priorities(batch.rows[of_buffer] // len(BUFFERS), errors[of_buffer])

    def anneal(self, progress: float) -> None:
        """Sets the progress of training, 0 to 1: importance weights go from `Priority.beta` to `beta_end`."""
        for mirror in self._mirrors.values():
            mirror.anneal(progress)

    def weigh_cells(self, buffer: Buffer, weights: Mapping[int, float]) -> None:
        """Sets how often each configuration cell of a buffer is drawn; a cell that is not named counts as 1.

        Raises InputError for a buffer that is not drawn by cells, and for weights below 0.
        """
        self._mirror(buffer).weigh_cells(weights)

    def success_rates(self, buffer: Buffer) -> dict[int, float]:
        """Returns by cell how often the latest twenty episodes or so succeeded without a person's help."""
        return self._mirror(buffer).success_rates()

    def allow(self, buffer: Buffer, total: int) -> None:
        """Lets writers bring the buffer to `total` transitions ever, over all shards; sent with the next pass."""
        self._shards.allow(buffer, total)

    def stats(self) -> dict[str, float]:
        """Returns counts since the start, what is held now, and how far behind the servers this reader is."""
        found = Counter(self._shards.stats())
        found.update({name: float(value) for name, value in self._intake.counts.items()})
        found["memory_bytes"] = found.pop("waiting_bytes")
        for mirror in self._mirrors.values():
            found.update(mirror.stats())
        return dict(found)

    def _store(self, buffer: Buffer) -> ImageStore | None:
        if not self.settings.cameras:
            return None
        keys = Keys(self.replay.prefix, buffer)
        return ImageStore(
            self.schema,
            cameras=self.settings.cameras,
            capacity=self.settings.capacity[buffer],
            memory_bytes=self.settings.image_memory(buffer),
            readers=[SlotReader(self.replay, shard, keys) for shard in range(self.replay.shards)],
            folder=self.settings.image_folder,
        )

    def _batch(self, mirrors: Mapping[Buffer, Mirror], size: int, out: Batch | None) -> Batch:
        """Returns a batch to fill: `out` where it fits, else a new one. Raises InputError where none fits all."""
        dims = {buffer: mirror.embedding_dim for buffer, mirror in mirrors.items()}
        if len(set(dims.values())) > 1:
            raise InputError(f"buffers whose readouts differ in size cannot share a batch: {dims}")
        dim = next(iter(dims.values()))
        if out is not None and out.fits(size, dim):
            return out
        cameras = {camera: pixels(self.schema, camera) for camera in self.settings.cameras}
        return Batch.empty(size, embedding_dim=dim, cameras=cameras, window=self.settings.window)

    def _mirror(self, buffer: Buffer) -> Mirror:
        if buffer not in self._mirrors:
            raise InputError(f"buffer {buffer!r} has no capacity; those that have are {sorted(self._mirrors)}")
        return self._mirrors[buffer]

    def _ready(self, buffer: Buffer) -> Mirror:
        mirror = self._mirrors.get(buffer)
        if mirror is None or not mirror.transitions:
            ready = {name: each.transitions for name, each in self._mirrors.items()}
            raise InputError(f"nothing to sample in buffer {buffer!r}: transitions ready are {ready}")
        return mirror

    def _plan_of(self, buffer: Buffer) -> str:
        """Says what of a buffer is going to be in memory, and what will be read from the servers."""
        rows, cameras = self.settings.capacity[buffer], self.settings.cameras
        numbers = f"{buffer}: {rows} rows, numbers {rows * row_bytes() / _MIB:.0f} MiB"
        if self.settings.embeddings:
            numbers += f" and {rows * 4 / _MIB:.2g} MiB per number of a readout"
        if not cameras:
            return numbers
        size = sum(image_bytes(self.schema, camera) for camera in cameras)
        kept = min(rows, self.settings.image_memory(buffer) // size)
        place = "" if self.settings.image_folder is None else f" in {self.settings.image_folder}"
        images = f"{numbers}, images of {kept} rows {kept * size / _MIB:.0f} MiB{place}"
        return images if kept == rows else f"{images}, those of {rows - kept} rows read from the server when drawn"
