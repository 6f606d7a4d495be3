"""A twin actor: several twins, one episode loop, no torch.

It starts by itself when Ray (re)creates it, so that a killed actor is back without anybody telling it what to do; its
segments carry a new incarnation, which keeps them apart from the ones before.
"""

import logging
import threading
import time
import uuid
from dataclasses import asdict
from typing import Any

import numpy as np

from actors.interfaces import Decision, EpisodeResult
from actors.loop import EpisodeLoop
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sim.settings import FleetSettings
from protos.errors import Unreachable
from protos.schema import Bools, Configuration, Observation, Segment, Source
from protos.space import ConfigurationSpace
from services.replay import ReplayWriter

log = logging.getLogger(__name__)

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


class TwinActor:
    """A Ray actor that runs its loop in a thread and answers `ping` and `stats` meanwhile."""

    def __init__(self, settings: FleetSettings, index: int) -> None:
        self._settings, self._index = settings, index
        self._stop = threading.Event()
        self._error = ""
        self._loop: EpisodeLoop | None = None
        self._thread = threading.Thread(target=self._run, name="episodes", daemon=True)
        self._thread.start()

    def ping(self) -> str:
        return "pong"

    def apply(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """What Ray's FaultTolerantActorManager calls for functions sent to the actor."""
        return func(self, *args, **kwargs)

    def stats(self) -> dict[str, Any]:
        """Counters and seconds of the loop; `error` is empty while it runs."""
        stats = asdict(self._loop.stats) if self._loop is not None else {}
        return {"alive": self._thread.is_alive(), "error": self._error, **stats}

    def stop(self, timeout_s: float) -> dict[str, Any]:
        """Ends the loop after its current control step and flushes the replay writer."""
        self._stop.set()
        self._thread.join(timeout_s)
        return self.stats()

    def _run(self) -> None:
        try:
            self._loop_until_stopped()
        except Exception as error:  # the root of this thread: reported by stats(), the fleet restarts the actor
            self._error = f"{type(error).__name__}: {error}"
            log.exception("twin actor %d stopped", self._index)

    def _loop_until_stopped(self) -> None:
        from twin import tasks
        from twin.env import VectorTwin
        from twin.randomize import DOMAINS
        from twin.scene import Scene

        settings, world = self._settings, self._settings.world
        scene, task = Scene.load(world.scene), tasks.get(world.task)
        incarnation = uuid.uuid4().hex[:8]
        seed = world.seed * 1000 + self._index * 17 + int(incarnation, 16) % 997
        name = f"twin-{self._index}"
        twin = VectorTwin(
            scene,
            task,
            n=settings.twins_per_actor,
            domain=DOMAINS[world.domain],
            seed=seed,
            schema=world.schema,
            physics=world.physics,
        )
        spool = settings.run_dir / "spool" / f"{name}-{incarnation}"
        writer = ReplayWriter(settings.replay, world.schema, actor=name, incarnation=incarnation, spool=spool)
        tags = EpisodeTags(
            actor=name,
            incarnation=incarnation,
            task=task.name,
            scene=scene.name,
            instruction=task.instruction,
            source=Source.TWIN,
        )
        policy = RemotePolicy(settings.explore, settings.call_timeout_s)
        guide = SpaceGuide(task.space, seed)
        self._loop = EpisodeLoop(twin, policy, guide, EpisodeRecorder(tags), ThrottledSink(writer, self._stop))
        try:
            self._loop.run(self._stop.is_set)
        finally:
            writer.flush(1.0)
            writer.close()
            twin.close()
