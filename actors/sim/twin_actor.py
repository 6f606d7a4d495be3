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
from actors.sim.settings import FleetSettings
from actors.sim.twins import load_scene, make_twin
from protos.schema import Source
from services.replay import ReplayWriter

if TYPE_CHECKING:
    from twin.env import VectorTwin
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np

from actors.interfaces import Decision, EpisodeResult
from protos.episode import Segment
from protos.errors import Unreachable
from protos.schema import Bools, Configuration, Observation
from protos.space import ConfigurationSpace

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


def shares(twins: int, groups: int) -> list[int]:
    """Twins of each group, as equal as they can be; no group is empty."""
    count = min(groups, twins)
    return [twins // count + (index < twins % count) for index in range(count)]


class LoopGroup:
    """Runs loops side by side until told to stop, or until one of them fails."""

    def __init__(self, loops: list[EpisodeLoop]) -> None:
        self.loops = loops
        self._failed = threading.Event()

    def run(self, stop: Callable[[], bool]) -> None:
        """Raises the first error of any loop once all have ended."""
        if len(self.loops) == 1:
            self.loops[0].run(stop)
            return
        with ThreadPoolExecutor(len(self.loops), "group") as pool:
            runs = [pool.submit(self._run, loop, stop) for loop in self.loops]
        for run in runs:
            run.result()

    def _run(self, loop: EpisodeLoop, stop: Callable[[], bool]) -> None:
        try:
            loop.run(lambda: stop() or self._failed.is_set())
        except BaseException:
            self._failed.set()
            raise

    def stats(self) -> dict[str, Any]:
        """Counters and seconds of all loops together, their faults, and how far each group is."""
        each = [asdict(loop.stats) for loop in self.loops]
        held = [one.pop("waits_for") for one in each]
        seconds = [one.pop("seconds") for one in each]
        totals: dict[str, Any] = {name: sum(one[name] for one in each) for name in each[0]}
        quarantines = [loop.quarantine for loop in self.loops]
        return totals | {
            "waits_for": next(filter(None, held), ""),
            "seconds": {name: sum(one[name] for one in seconds) for name in seconds[0]},
            "turns": [loop.stats.turns for loop in self.loops],
            "faults": sum(quarantine.count for quarantine in quarantines),
            "quarantined": [fault.line() for quarantine in quarantines for fault in quarantine.slots.values()],
        }


POLICY_SERVER = "policy-server"
"""Ray name of the node's policy server."""


class SpaceGuide:
    """Starts drawn uniformly from the whole space: the twin explores regions A and B alike."""

    def __init__(self, space: ConfigurationSpace, seed: int) -> None:
        self._space, self._rng = space, np.random.default_rng(seed)

    def next(self) -> Configuration:
        return self._space.sample(self._rng)

    def report(self, result: EpisodeResult) -> None:
        """Nothing to learn: twin starts do not depend on outcomes."""


class RemotePolicy:
    """The policy server behind the loop's `Policy` interface; rides out a restart of the server."""

    def __init__(self, explore: float, timeout_s: float) -> None:
        import ray

        self._server = ray.get_actor(POLICY_SERVER)
        self._explore, self._timeout_s = explore, timeout_s
        self._window = 0

    def ready(self) -> str:
        import ray

        try:
            return ray.get(self._server.ready.remote(), timeout=self._timeout_s)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            return f"policy server: away ({type(error).__name__})"

    @property
    def window(self) -> int:
        if not self._window:
            self._window = int(self._ask("window"))
        return self._window

    def act(self, observation: Observation, pad: Bools | None = None) -> Decision:
        arguments = (observation.side, observation.wrist, observation.proprio, self._explore)
        answer = self._ask("act", *arguments) if pad is None else self._ask("act", *arguments, pad)
        return Decision(action=answer[0], embedding=answer[1], version=answer[2], backbone_id=answer[3])

    def _ask(self, method: str, *arguments: Any) -> Any:
        """The server's answer; asks again while it restarts. Raises Unreachable when it stays away."""
        import ray

        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return ray.get(getattr(self._server, method).remote(*arguments), timeout=self._timeout_s)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
                if time.monotonic() > deadline:
                    raise Unreachable(f"policy server: no answer within {self._timeout_s:.0f} s") from error
                log.warning("policy server is away (%s); asking again", type(error).__name__)
                time.sleep(0.2)


class ThrottledSink:
    """Replay, at the pace that the learner allows."""

    def __init__(self, writer: ReplayWriter, stop: threading.Event) -> None:
        self._writer, self._stop = writer, stop

    def add(self, segment: Segment) -> None:
        self._writer.add(segment, ("twin",))
        self._writer.wait_for_allowance("twin", self._stop.is_set)
