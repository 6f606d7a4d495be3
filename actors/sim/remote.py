"""What a twin actor's loops talk to: the policy server behind the loop's `Policy`, the replay behind its `Sink`."""

import logging
import threading
import time
from typing import Any

import numpy as np

from actors.interfaces import Decision, EpisodeResult
from protos.episode import Segment
from protos.errors import Unreachable
from protos.schema import Bools, Configuration, Observation
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
