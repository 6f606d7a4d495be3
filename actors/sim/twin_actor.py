"""A twin actor: several twins, one or two episode loops, no torch.

    Ray (re)creates it ─► idle ─► fleet: begin(avoid) ─► steps ─► stop, or an error: the fleet kills it ─► Ray …

It begins when the fleet says so, so that one that dies again and again is slowed down there; its segments carry a new
incarnation, which keeps them apart from the ones before.
"""

import logging
import os
import threading
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from actors.loop import EpisodeLoop
from actors.quarantine import Quarantine, key_of
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sim.groups import LoopGroup, shares
from actors.sim.remote import RemotePolicy, SpaceGuide, ThrottledSink
from actors.sim.settings import FleetSettings
from actors.sim.worlds import load_scene, make_twin
from protos.schema import Source
from services.replay import ReplayWriter

if TYPE_CHECKING:
    from twin.env import VectorTwin

log = logging.getLogger(__name__)

NICENESS = 19
"""Hundreds of twins on a few cores would starve the policy server that all of them wait for, and the learner. Ray makes
all its workers nice, 15 by default, so anything less would need privileges."""


def step_aside() -> None:
    """Lowest priority for this thread and those that it starts."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class TwinActor:
    """A Ray actor that runs its loops in threads and answers `ping` and `stats` meanwhile."""

    def __init__(self, settings: FleetSettings, index: int) -> None:
        self._settings, self._index = settings, index
        self._incarnation = uuid.uuid4().hex[:8]
        self._stop = threading.Event()
        self._error = ""
        self._group: LoopGroup | None = None
        self._writer: ReplayWriter | None = None
        self._thread: threading.Thread | None = None
        self._began = threading.Lock()
        self._twins: list[VectorTwin] = []

    def begin(self, avoid: Sequence[str] = ()) -> bool:
        """Starts the loops, once; `avoid` are keys of starts that broke worlds before. True in the first call."""
        with self._began:
            if self._thread is not None:
                return False
            self._thread = threading.Thread(target=self._run, args=(avoid,), name="episodes", daemon=True)
            self._thread.start()
        return True

    def ping(self) -> str:
        return "pong"

    def apply(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """What Ray's FaultTolerantActorManager calls for functions sent to the actor."""
        return func(self, *args, **kwargs)

    def stats(self) -> dict[str, Any]:
        """Counters and seconds of the loops; `error` is empty while they run."""
        counters = self._group.stats() if self._group is not None else {}
        return {
            "pid": os.getpid(),
            "incarnation": self._incarnation,
            "began": self._thread is not None,
            "error": self._error,
            "throttled": self._writer.waiting_for() if self._writer is not None else "",
            **counters,
        }

    def faults(self) -> list[dict[str, Any]]:
        """The newest broken worlds, with the keys by which other lives of this actor may avoid their starts."""
        if self._group is None:
            return []
        name = f"twin-{self._index}"
        faults = [fault for loop in self._group.loops for fault in loop.quarantine.faults]
        return [{"actor": name, "key": key_of(fault.configuration)} | fault.entry() for fault in faults]

    def standing(self) -> list[list[str]]:
        """Of each group, where its slots' present episodes started."""
        if self._group is None:
            return []
        return [
            [f"slot {slot} cell {start.cell}" for slot, start in sorted(loop.starts.items())]
            for loop in self._group.loops
        ]

    def stop(self, timeout_s: float) -> dict[str, Any]:
        """Ends the loops after their current control step and flushes the replay writer."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self.stats()

    def _run(self, avoid: Sequence[str]) -> None:
        step_aside()
        try:
            self._loop_until_stopped(avoid)
        except Exception as error:  # the root of this thread: reported by stats(), the fleet restarts the actor
            last_words = str(error).strip().splitlines()[-1:]  # an error of the policy server is a whole traceback
            self._error = ": ".join([type(error).__name__, *last_words])
            log.exception("twin actor %d stopped", self._index)

    def _loop_until_stopped(self, avoid: Sequence[str]) -> None:
        settings = self._settings
        name = f"twin-{self._index}"
        self._writer = writer = ReplayWriter(
            settings.replay,
            settings.world.schema,
            actor=name,
            incarnation=self._incarnation,
            spool=settings.run_dir / "spool" / name,
        )
        loops: list[EpisodeLoop] = []
        try:
            for twins in shares(settings.twins_per_actor, settings.groups):
                loops.append(self._make_loop(len(loops), twins, writer, avoid))
            self._group = LoopGroup(loops)
            self._group.run(self._stop.is_set)
        finally:
            writer.flush(1.0)
            writer.close()
            for twin in self._twins:
                twin.close()

    def _make_loop(self, group: int, twins: int, writer: ReplayWriter, avoid: Sequence[str]) -> EpisodeLoop:
        """The loop over one group's twins; its seed is new in every life, so that a bad one is not lived again."""
        settings, world = self._settings, self._settings.world
        seed = world.seed * 1000 + self._index * 17 + int(self._incarnation, 16) % 997 + group * 1_000_003
        twin = make_twin(world, n=twins, seed=seed, threads=settings.threads)
        self._twins.append(twin)
        tags = EpisodeTags(
            actor=writer.actor,
            incarnation=f"{self._incarnation}.{group}",
            task=twin.task.name,
            scene=load_scene(world.scene).name,
            instruction=twin.task.instruction,
            source=Source.TWIN,
        )
        first = sum(shares(settings.twins_per_actor, settings.groups)[:group])
        return EpisodeLoop(
            twin,
            RemotePolicy(settings.explore, settings.call_timeout_s),
            SpaceGuide(twin.task.space, seed),
            EpisodeRecorder(tags),
            ThrottledSink(writer, self._stop),
            quarantine=Quarantine(seed=seed, first=first, explain=twin.fault, avoid=avoid),
        )
