"""A twin actor steps several twins in one or two episode loops. It holds no torch: its policy is the policy server's.

    Ray (re)creates it ─► idle ─► fleet: begin(avoid) ─► steps ─► stop, or an error: the fleet kills it ─► Ray …

It begins when the fleet says so, so that one that dies again and again is slowed down there; its segments carry a new
incarnation, which keeps them apart from the ones before. Its twins are divided into groups, each with a loop and a
thread of its own, over one replay writer:

    group 0   step, draw ─► ask the policy server ┄┄┄┄┄┄┄┄ waits ┄┄┄┄┄┄┄► step, draw ─► ask …
    group 1   ┄ waits ┄┄┄┄┄┄► step, draw ─► ask the policy server ┄┄┄┄ waits ┄┄┄┄┄┄► …

While the policy server computes for one group, the other steps its physics and draws: neither waits for the other, and
both release Python's lock in all that takes long. Each group's physics is one batch.

The last `settings.scanning` actors of a fleet scan instead (`actors.sim.scanning`): same twins, same loop, but starts
from the guide service, no exploration, and no writer.
"""

import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from actors.guides import RandomGuide
from actors.interfaces import Decision, Guide, Sink
from actors.loop import EpisodeLoop
from actors.quarantine import Quarantine, key_of
from actors.recorder import EpisodeRecorder
from actors.sim.settings import FleetSettings
from actors.sim.twins import load_scene, make_twin, twin_tags
from actors.sinks import NoSink, TwinSink
from protos.errors import Unreachable
from protos.schema import Bools, Observation
from services.replay import ReplayWriter

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from actors.sim.scanning import ScanGuide
    from twin.env import VectorTwin

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

POLICY_SERVER = "policy-server"
"""Ray name of the node's policy server."""
NICENESS = 19
"""Hundreds of twins on a few cores would starve the policy server that all of them wait for, and the learner. Ray makes
all its workers nice, 15 by default, so anything less would need privileges."""


REST_S = 0.2
"""Pause of an actor's main thread between two looks for calls and signals."""


def rest_between_calls() -> None:
    """Slows the loop of this worker's main thread down, which takes calls and does nothing else; call it there.

    Ray's loop asks Python a hundred times a second whether a signal has come, and has no setting for it: half a percent
    of a core for each actor, so that hundreds of them cost a core. Only what Python then runs can hold the loop up: a
    handler of a signal. Calls to the actor wait for `REST_S` at most; its steps have threads of their own.
    """

    def rest(*_: object) -> None:
        time.sleep(REST_S)
        signal.setitimer(signal.ITIMER_REAL, REST_S / 100)

    signal.signal(signal.SIGALRM, rest)
    signal.setitimer(signal.ITIMER_REAL, REST_S / 100)


def step_aside() -> None:
    """Gives this thread, and those that it starts, the lowest priority."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class RemotePolicy:
    """Asks the policy server, behind the loop's `Policy` interface; waits while the server restarts."""

    def __init__(self, explore: float, timeout_s: float) -> None:
        import ray

        self._server: ActorHandle = ray.get_actor(POLICY_SERVER)
        self._explore, self._timeout_s = explore, timeout_s
        self._window = 0

    def ready(self) -> str:
        """Returns the reason why no episode may begin; empty when one may."""
        import ray

        try:
            return ray.get(self._server.ready.remote(), timeout=self._timeout_s)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            return f"policy server: away ({type(error).__name__})"

    @property
    def window(self) -> int:
        """Number of observations that a decision is made from."""
        if not self._window:
            self._window = int(self._ask("window"))
        return self._window

    def act(self, observation: Observation, pad: Bools | None = None) -> Decision:
        """Returns the server's decision for n observations, or for windows of them with their `pad`."""
        arguments = (observation.side, observation.wrist, observation.proprio, self._explore)
        answer = self._ask("act", *arguments) if pad is None else self._ask("act", *arguments, pad)
        return Decision(action=answer[0], embedding=answer[1], version=answer[2], backbone_id=answer[3])

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Returns the server's answer; asks again while it restarts. Raises Unreachable when it stays away."""
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


def shares(twins: int, groups: int) -> list[int]:
    """Returns the number of twins of each group, as equal as they can be; no group is empty."""
    count = min(groups, twins)
    return [twins // count + (index < twins % count) for index in range(count)]


class LoopGroup:
    """Runs loops side by side until told to stop, or until one of them fails."""

    def __init__(self, loops: list[EpisodeLoop]) -> None:
        self.loops = loops
        self._failed = threading.Event()

    def run(self, stop: Callable[[], bool]) -> None:
        """Runs the loops to their end. Raises the first error of any loop once all have ended."""
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
        """Returns counters and seconds of all loops together, their faults, and the turns of each group."""
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


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A job says what the loops of an actor are for: to collect transitions, or to scan."""

    sink: Sink
    explore: float
    guide: Guide | None = None
    """The starts; random ones with None."""


class TwinActor:
    """A Ray actor that runs its loops in threads and answers `ping` and `stats` meanwhile."""

    def __init__(self, settings: FleetSettings, index: int) -> None:
        self._settings, self._index = settings, index
        self._name = f"twin-{index}"
        self._scans = index >= settings.actors - settings.scanning
        self._incarnation = uuid.uuid4().hex[:8]
        self._stop = threading.Event()
        self._error = ""
        self._group: LoopGroup | None = None
        self._writer: ReplayWriter | None = None
        self._scan: ScanGuide | None = None
        self._thread: threading.Thread | None = None
        self._began = threading.Lock()
        self._twins: list[VectorTwin] = []
        rest_between_calls()

    def begin(self, avoid: Sequence[str] = ()) -> bool:
        """Starts the loops, once; `avoid` are keys of starts that broke worlds before. True in the first call."""
        with self._began:
            if self._thread is not None:
                return False
            self._thread = threading.Thread(target=self._run, args=(avoid,), name="episodes", daemon=True)
            self._thread.start()
        return True

    def ping(self) -> str:
        """Answers the probes of Ray's FaultTolerantActorManager."""
        return "pong"

    def apply(self, func: "Callable[Concatenate[TwinActor, P], T]", *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function on this actor; Ray's FaultTolerantActorManager sends such functions."""
        return func(self, *args, **kwargs)

    def stats(self) -> dict[str, Any]:
        """Returns counters and seconds of the loops; `error` is empty while they run."""
        counters = self._group.stats() if self._group is not None else {}
        if self._scan is not None:
            done = {"scans": self._scan.scans, "successes": self._scan.successes, "steps": self._scan.steps}
            counters |= {"scan": done}
        return {
            "pid": os.getpid(),
            "incarnation": self._incarnation,
            "began": self._thread is not None,
            "error": self._error,
            "throttled": self._throttled(),
            **counters,
        }

    def _throttled(self) -> str:
        """Returns what a healthy actor waits for between two steps; empty while it steps."""
        if self._scan is not None:
            return self._scan.waits_for
        return "" if self._writer is None else self._writer.waiting_for()

    def faults(self) -> list[dict[str, Any]]:
        """Returns the newest faults, with the keys by which later incarnations avoid their starts."""
        if self._group is None:
            return []
        faults = [fault for loop in self._group.loops for fault in loop.quarantine.faults]
        return [{"actor": self._name, "key": key_of(fault.configuration)} | fault.entry() for fault in faults]

    def standing(self) -> list[list[str]]:
        """Returns the starts of the slots' present episodes, group by group."""
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
            if self._scans:
                self._scan_until_stopped(avoid)
            else:
                self._collect_until_stopped(avoid)
        except Exception as error:  # the root of this thread: reported by stats(), the fleet restarts the actor
            last_line = str(error).strip().splitlines()[-1:]  # an error of the policy server is a whole traceback
            self._error = ": ".join([type(error).__name__, *last_line])
            log.exception("twin actor %d stopped", self._index)

    def _collect_until_stopped(self, avoid: Sequence[str]) -> None:
        settings = self._settings
        self._writer = writer = ReplayWriter(
            settings.replay,
            settings.world.schema,
            actor=self._name,
            incarnation=self._incarnation,
            spool=settings.run_dir / "spool" / self._name,
            neighbours="twin-*",
        )
        try:
            self._run_loops(_Job(sink=TwinSink(writer, self._stop.is_set), explore=settings.explore), avoid)
        finally:
            writer.flush(1.0)
            writer.close()

    def _scan_until_stopped(self, avoid: Sequence[str]) -> None:
        from actors.sim.scanning import ScanGuide
        from services.guide import GuideClient

        credentials = self._settings.guide_credentials or self._settings.credentials
        with closing(GuideClient(self._settings.guide, credentials=credentials)) as client:
            self._scan = ScanGuide(client)
            self._run_loops(_Job(sink=NoSink(), explore=0.0, guide=self._scan), avoid)

    def _run_loops(self, job: _Job, avoid: Sequence[str]) -> None:
        settings = self._settings
        loops: list[EpisodeLoop] = []
        try:
            for twins in shares(settings.twins_per_actor, settings.groups):
                loops.append(self._make_loop(len(loops), twins, job, avoid))
            self._group = LoopGroup(loops)
            if self._scan is None:
                self._group.run(self._stop.is_set)
            else:
                while self._scan.wait(self._stop):
                    self._group.run(self._stop.is_set)
        finally:
            for twin in self._twins:
                twin.close()

    def _make_loop(self, group: int, twins: int, job: _Job, avoid: Sequence[str]) -> EpisodeLoop:
        """Returns the loop over one group's twins; its seed differs in every incarnation: a bad one is not repeated."""
        settings, world = self._settings, self._settings.world
        seed = world.seed * 1000 + self._index * 17 + int(self._incarnation, 16) % 997 + group * 1_000_003
        twin = make_twin(world, n=twins, seed=seed, threads=settings.threads)
        self._twins.append(twin)
        scene, incarnation = load_scene(world.scene).name, f"{self._incarnation}.{group}"
        tags = twin_tags(twin.task, scene, actor=self._name, incarnation=incarnation)
        first = sum(shares(settings.twins_per_actor, settings.groups)[:group])
        return EpisodeLoop(
            twin,
            RemotePolicy(job.explore, settings.call_timeout_s),
            job.guide or RandomGuide(twin.task.space, seed),
            EpisodeRecorder(tags),
            job.sink,
            quarantine=Quarantine(seed=seed, first=first, explain=twin.fault, avoid=avoid),
        )
