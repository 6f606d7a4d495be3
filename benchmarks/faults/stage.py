"""Servers, actors under load and a learner, with the means to kill them and to see when work goes on.

FaultActor ×n ──spool──► EmbeddedServer ×shards ──► Learner (a ReplayReader that counts the episodes it gets)
   │ journals                    │ rings                     │ names
   └───────────────────────── compared by id ────────────────┘
"""

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from benchmarks.faults.actor import ActorJob, FaultActor
from benchmarks.faults.journal import BUFFER, Id
from protos.episode import Episode
from protos.errors import InputError, Unreachable
from protos.files import log_tail
from protos.schema import F32, Schema
from services.replay import (
    EmbeddedServer,
    Keys,
    ReaderSettings,
    ReplayReader,
    ReplaySettings,
    connect,
    reaching,
    shard_of,
)

log = logging.getLogger(__name__)

WAIT_TIMEOUT_S = 120.0
POLL_S = 0.01
RING_BYTES = 16 << 30
SPOOL_BYTES = 8 << 30
MIRRORED = 20_000
"""Transitions; the learner only counts."""


class Learner:
    """A reader that notes the name of every episode it is given."""

    def __init__(self, settings: ReplaySettings, px: int) -> None:
        self.ids: Counter[Id] = Counter()
        self._mutex = threading.Lock()
        self.reader = ReplayReader(
            settings,
            Schema(side_px=px, wrist_px=px),
            ReaderSettings(capacity={BUFFER: MIRRORED}, gamma=0.99, n_step=1),
            embed=self._note,
        )

    def received(self) -> Counter[Id]:
        """Counts how often each episode has come."""
        self.reader.stats()
        with self._mutex:
            return self.ids.copy()

    def _note(self, episode: Episode) -> F32:
        actor, incarnation, seq = episode.name.split("=")
        with self._mutex:
            self.ids[actor, incarnation, int(seq)] += 1
        return np.zeros((len(episode.observation), 1), np.float32)


class Stage:
    """One scenario's processes, in a folder of its own."""

    def __init__(self, folder: Path, *, shards: int, actors: int, segments_per_s: float, px: int) -> None:
        self.folder = folder
        self.servers = [EmbeddedServer(folder / f"server{shard}") for shard in range(shards)]
        self.settings = ReplaySettings(
            urls=tuple(server.url for server in self.servers),
            prefix="faults",
            capacity_bytes=RING_BYTES,
            spool_bytes=SPOOL_BYTES,
        )
        self.actors = [
            FaultActor(
                ActorJob(
                    replay=self.settings,
                    actor=name,
                    incarnation="",
                    folder=folder,
                    segments_per_s=segments_per_s,
                    px=px,
                )
            )
            for name in _spread(actors, shards)
        ]
        self.learner = Learner(self.settings, px)

    def __enter__(self) -> Self:
        for server in self.servers:
            server.start()
        self.learner.reader.start()
        for actor in self.actors:
            actor.start()
        for actor in self.actors:
            self.await_first_commit(actor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self.actors:
            actor.kill()
        self.learner.reader.close()
        for server in self.servers:
            server.stop()

    def load(self, seconds: float) -> None:
        """Lets the actors write."""
        time.sleep(seconds)

    def kill_server(self, shard: int = 0) -> None:
        """SIGKILL; what it had not written to its log is gone."""
        server = self.servers[shard]
        os.kill(server.pid, signal.SIGKILL)
        self._wait("the server's end", lambda: not server.running())

    def restart_server(self, shard: int = 0) -> float:
        """Starts it on its log; seconds until a new segment is committed.

        Starts it again, as a supervisor would, while a process that the killed one had forked still holds the folder.
        """
        begin = time.monotonic()
        self._wait("the server's folder", lambda: self._started(shard))
        latest = self._latest(shard)
        self._wait("a commit on the restarted server", lambda: self._latest(shard) != latest)
        return time.monotonic() - begin

    def restart_actor(self, actor: FaultActor) -> float:
        """Starts its next incarnation on its spool; seconds until the first commit of that."""
        begin = time.monotonic()
        actor.start()
        self.await_first_commit(actor)
        return time.monotonic() - begin

    def restart_all(self) -> float:
        """Starts the first server and every actor; seconds until the last of them goes on."""
        begin = time.monotonic()
        for actor in self.actors:
            actor.start()
        self.restart_server()
        for actor in self.actors:
            self.await_first_commit(actor)
        return time.monotonic() - begin

    def received_from(self, shard: int) -> int:
        """Segments of one server's actors that the learner has."""
        received = self.learner.received()
        return sum(times for (actor, _, _), times in received.items() if shard_of(actor, len(self.servers)) == shard)

    def await_first_commit(self, actor: FaultActor) -> None:
        shard = shard_of(actor.name, len(self.servers))
        writer = f"{actor.name}/{actor.incarnation}"
        self._wait(
            f"the first commit of {writer}", lambda: self._ask(shard, "HGET", self._keys.seen, writer) is not None
        )

    def finish(self, accepted: Callable[[], set[Id]]) -> None:
        """Ends the load; returns when all that was accepted is sent and the learner has it, or could have had it."""
        for actor in self.actors:
            actor.finish()
        stuck = [actor.name for actor in self.actors if not actor.wait()]
        if stuck:
            words = log_tail(self.folder / f"{stuck[0]}.log", 1)
            raise Unreachable(f"{', '.join(stuck)} could not send all they had: {words}")
        expected, give_up = accepted(), time.monotonic() + WAIT_TIMEOUT_S
        while expected - self.learner.received().keys() and time.monotonic() < give_up:
            time.sleep(10 * POLL_S)

    def _started(self, shard: int) -> bool:
        try:
            self.servers[shard].start()
        except InputError as error:
            log.warning("%s", error)
            return False
        return True

    @property
    def _keys(self) -> Keys:
        return Keys(self.settings.prefix, BUFFER)

    def _latest(self, shard: int) -> object:
        """The newest index entry."""
        return self._ask(shard, "XREVRANGE", self._keys.index, "+", "-", "COUNT", 1)

    def _ask(self, shard: int, *command: object) -> object:
        with reaching(self.settings, shard), closing(connect(self.settings, shard)) as client:
            return client.execute_command(*command)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + WAIT_TIMEOUT_S
        while not condition():
            if time.monotonic() > give_up:
                raise Unreachable(f"waited {WAIT_TIMEOUT_S:g} s for {what}")
            time.sleep(POLL_S)


def _spread(actors: int, shards: int) -> list[str]:
    """Names of actors, the same number on each shard."""
    names: list[list[str]] = [[] for _ in range(shards)]
    number = 0
    while any(len(each) < actors // shards for each in names):
        name = f"actor{number}"
        here = names[shard_of(name, shards)]
        if len(here) < actors // shards:
            here.append(name)
        number += 1
    return [name for each in names for name in each]
