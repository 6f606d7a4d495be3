"""The learner's end of the replay.

    shard 0 ──Follower──┐
    shard 1 ──Follower──┼─ episodes ──► mirror of their buffer ──► sample
    …                   ┘        └────► kept with frames ────────► episodes
                                        damaged, overwritten, of another schema: dropped, counted, logged

Each segment is fetched and decoded once. Its frames are fetched and decoded only if its buffer is in `keep_frames`, if
pictures are kept in memory, or if the readouts that came with it are of another backbone and must be computed again;
otherwise its head is all that is read. A shard that is away
delays nobody: what the others bring is taken in meanwhile, and what is already here can be drawn.
"""

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from protos.episode import Episode
from protos.errors import InputError
from protos.schema import BUFFERS, F32, Buffer, Schema
from services.replay.read.batch import Batch, Field
from services.replay.read.frame_demand import FrameDemand
from services.replay.read.intake import Intake
from services.replay.read.mirror import Mirror
from services.replay.read.position import Position
from services.replay.read.reading import Reading
from services.replay.read.restore import Patience, Restore, Restored
from services.replay.read.shards import Shards
from services.replay.read.snapshot import Snapshot
from services.replay.read.strategies import Strategy
from services.replay.settings import ReplaySettings

log = logging.getLogger(__name__)

_numbers = count()


class ReplayReader:
    """Follows some buffers of a replay. Call `start` for threads of its own, or `poll` by hand; never both.

    It begins with the oldest segment that the servers still have, so a learner that starts again finds its data. It
    keeps what it has read, also when somebody empties the buffer on the servers.
    """

    def __init__(
        self,
        settings: ReplaySettings,
        schema: Schema,
        *,
        buffers: Sequence[Buffer],
        gamma: float,
        n_step: int,
        capacity: Mapping[Buffer, int],
        sampling: Mapping[Buffer, Strategy] | None = None,
        fields: Sequence[Field] = ("embedding",),
        window: int = 1,
        frame_memory_bytes: int = 4 << 30,
        embed: Callable[[Episode], F32] | None = None,
        backbone_id: str = "",
        keep_frames: Sequence[Buffer] = (),
        episode_bytes: int = 2 << 30,
        waiting_bytes: int = 1 << 30,
        name: str | None = None,
        resume: Position | None = None,
    ) -> None:
        """Keeps the latest `capacity[buffer]` observations for `sample`; a buffer without capacity is not mirrored.

        `sampling` says how a buffer is drawn from, uniformly where it is not named. `fields` says what batches hold
        beside numbers; pictures come in a window of 1 or 2 observations, the newest `frame_memory_bytes` of them stay
        decoded in memory, older ones are read from the server when they are drawn.

        `embed` computes (T + 1, D) readouts where an episode has none of `backbone_id` (empty: any will do); without
        it such an episode cannot be sampled. `keep_frames` names the buffers whose episodes `episodes` gives back, the
        latest `episode_bytes` of them all together. `waiting_bytes` bounds the segments of unfinished episodes, per
        shard and buffer. `name` is what others see of this reader.

        `resume` is the position of an earlier reader with the same arguments: `restore` goes back to it.
        """
        self.settings, self.schema, self.buffers = settings, schema, tuple(buffers)
        self._reading = Reading(
            schema=schema,
            buffers=self.buffers,
            capacity=capacity,
            gamma=gamma,
            n_step=n_step,
            sampling=sampling or {},
            fields=fields,
            window=window,
            frame_memory_bytes=frame_memory_bytes,
        )
        if strangers := set(keep_frames) - set(buffers):
            raise InputError(f"keep_frames of {min(strangers)!r}: it is not followed, those that are: {self.buffers}")
        self._mirrors = self._reading.mirrors(settings, self._oldest, self._away)
        self._intake = Intake(
            schema,
            self._mirrors,
            embed=embed,
            backbone_id=backbone_id,
            embeddings=self._reading.embeddings,
            keep_frames=keep_frames,
            episode_bytes=episode_bytes,
        )
        self._shards = Shards(
            settings,
            schema,
            buffers=self.buffers,
            demands={buffer: self._demand(buffer, embed, backbone_id, keep_frames) for buffer in self.buffers},
            waiting_bytes=waiting_bytes,
            deliver=self._intake.take,
            name=name or f"{socket.gethostname()}:{os.getpid()}:{next(_numbers)}",
            tell=self.stats,
        )
        self._resume = resume

    def restore(self, patience: Patience | None = None) -> Restored:
        """Reads again what the earlier reader had at `resume`, in the same order, and nothing newer.

        Rows, priorities, weights of cells and `received` are then what they were; `start` and `poll`, which do this by
        themselves, go on from there. One warning says how many episodes the servers no longer have. Raises Unreachable
        when a shard that has some does not answer for as long as `patience` says; the reader can then only be closed.
        """
        if self._resume is None:
            return Restored()
        patience = patience or Patience()
        restored = Restore(self._resume, self._shards.followers, self._mirrors, self._intake, patience).run()
        self._resume = self._resume if patience.stop() else None
        return restored

    def position(self) -> Position:
        """How far this reader has come, for the `resume` of a later one; waits for the episode that is being taken in.

        While `restore` is still to come, or was stopped, it is where that is to go back to.
        """
        if self._resume is not None:
            return self._resume
        with self._shards.held():
            snapshot = Snapshot.of(self._shards.followers, self._mirrors, self._intake)
        return snapshot.position()

    def start(self) -> None:
        """Begins to follow the buffers. Raises Unreachable if no shard answers now.

        Raises SchemaMismatch when a shard holds data of another schema; a later shard raises it in the next call.
        """
        log.info("replay memory: %s", self._reading.plan())
        try:
            self.restore()
            self._shards.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stops following; what has been read can still be sampled, except pictures that are not in memory."""
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
        """One pass over the shards: takes in what is new, up to a bound, and sends allowances.

        Returns the number of segments. Raises Unreachable when no shard answers; one of several that does not is asked
        again from time to time.
        """
        self.restore()
        return self._shards.poll()

    def caught_up(self) -> bool:
        """Whether all that was there at the start has been read, on every shard that answers."""
        return self._shards.caught_up()

    def counts(self) -> dict[Buffer, int]:
        """Transitions that can be sampled now, of mirrored buffers."""
        self._shards.check()
        return {buffer: mirror.transitions for buffer, mirror in self._mirrors.items()}

    def received(self) -> dict[Buffer, int]:
        """Transitions ever committed to each buffer, as far as this reader has come; the scale of `allow`."""
        self._shards.check()
        return {buffer: self._shards.received(buffer) for buffer in self.buffers}

    def actors(self) -> list[str]:
        """Names of the actors, in the order in which `Batch.actor` numbers them."""
        return self._intake.actors()

    def episodes(self, buffer: Buffer, where: Callable[[Episode], bool] | None = None) -> list[Episode]:
        """The kept episodes of a buffer, oldest first, with frames."""
        kept = sorted(self._intake.keep_frames)
        if buffer not in kept:
            raise InputError(f"episodes of {buffer!r}: kept are those of {kept} (keep_frames)")
        self._shards.check()
        return self._intake.kept.of(buffer, where)

    def sample(self, rng: np.random.Generator, sizes: Mapping[Buffer, int], *, out: Batch | None = None) -> Batch:
        """`sizes[buffer]` transitions of each buffer, with replacement, in the order of `sizes`.

        `out` is a batch of an earlier call with the same total whose arrays may be filled again; it is returned then.
        Raises InputError for a buffer that is not mirrored or has nothing to sample yet, and Unreachable when pictures
        that are not in memory cannot be read.
        """
        self._shards.check()
        wanted = {buffer: size for buffer, size in sizes.items() if size > 0}
        if not wanted:
            raise InputError(f"sizes={dict(sizes)}: ask for at least one transition")
        mirrors = {buffer: self._ready(buffer) for buffer in wanted}
        dims = {buffer: mirror.embedding_dim for buffer, mirror in mirrors.items()}
        batch = self._reading.batch(dims, sum(wanted.values()), out)
        first = 0
        for buffer, size in wanted.items():
            part = batch.part(first, first + size)
            mirrors[buffer].fill(rng, part)
            part.rows[:] = part.rows * len(BUFFERS) + BUFFERS.index(buffer)
            first += size
        return batch

    def update_priorities(self, batch: Batch, errors: NDArray[np.floating]) -> None:
        """Tells the errors (n,) of a batch's rows; only buffers drawn by priority heed it.

        Rows that have been overwritten since, and errors that are not finite, are ignored.
        """
        for buffer, mirror in self._mirrors.items():
            of_buffer = batch.rows % len(BUFFERS) == BUFFERS.index(buffer)
            if of_buffer.any():
                mirror.update_priorities(batch.rows[of_buffer] // len(BUFFERS), errors[of_buffer])

    def anneal(self, progress: float) -> None:
        """How far training has come, 0 to 1: importance weights go from `Priority.beta` to `beta_end`."""
        for mirror in self._mirrors.values():
            mirror.anneal(progress)

    def weigh_cells(self, buffer: Buffer, weights: Mapping[int, float]) -> None:
        """Sets how often each configuration cell of a buffer is drawn; a cell that is not named counts as 1.

        Raises InputError for a buffer that is not drawn by cells, and for weights below 0.
        """
        self._mirror(buffer).weigh_cells(weights)

    def success_rates(self, buffer: Buffer) -> dict[int, float]:
        """By configuration cell: how often the latest twenty episodes or so succeeded without a person's help."""
        return self._mirror(buffer).success_rates()

    def allow(self, buffer: Buffer, total: int) -> None:
        """Lets writers bring the buffer to `total` transitions ever, over all shards; sent with the next pass."""
        self._shards.allow(buffer, total)

    def stats(self) -> dict[str, float]:
        """Counts since the start, what is held now, and how far behind the servers this reader is."""
        found = Counter(self._shards.stats())
        kept = self._intake.kept
        found.update({name: float(value) for name, value in self._intake.counts.items()})
        found.update({"kept_episodes": len(kept), "kept_bytes": kept.bytes, "forgotten": kept.forgotten})
        found["memory_bytes"] = found.pop("waiting_bytes") + kept.bytes
        for mirror in self._mirrors.values():
            found.update(mirror.stats())
        return dict(found)

    def _oldest(self, buffer: Buffer) -> list[int]:
        return self._shards.oldest(buffer)

    def _away(self) -> frozenset[int]:
        return self._shards.away()

    def _demand(self, buffer: Buffer, embed: object, backbone_id: str, keep_frames: Sequence[Buffer]) -> FrameDemand:
        mirror = self._mirrors.get(buffer)
        return FrameDemand(
            always=buffer in keep_frames or (mirror is not None and mirror.wants_frames),
            recompute=embed is not None and mirror is not None and self._reading.embeddings,
            backbone_id=backbone_id,
        )

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
