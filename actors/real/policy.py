"""The policy on the robot's own computer that follows the learner's newest weights."""

import logging
from typing import Any

from actors.interfaces import Decision
from actors.policies import decide, generator_of
from protos.schema import Observation
from services.credentials import LOOPBACK, Credentials
from services.staleness import StalenessBound

log = logging.getLogger(__name__)


class WeightsPolicy:
    """Follows the weights service; a new version takes effect between two control steps, complete or not at all.

    With weights beyond `bound` no episode begins; one that is under way is finished with what there is.
    """

    def __init__(
        self,
        address: str,
        instruction: str,
        *,
        explore: float,
        seed: int,
        first_timeout_s: float,
        bound: StalenessBound,
        credentials: Credentials = LOOPBACK,
    ) -> None:
        """Waits for the first version. Raises Unreachable after `first_timeout_s`."""
        from services.weights import WeightSubscriber

        self._subscriber = WeightSubscriber(address, name="robot", credentials=credentials)
        try:
            first = self._subscriber.wait(0, first_timeout_s)
        except BaseException:
            self._subscriber.close()
            raise
        from policy.acting import BatchActor

        self._actor: Any = BatchActor.from_weights(first, instruction)
        self._explore, self._generator = explore, generator_of(seed)
        self._bound = bound

    def ready(self) -> str:
        return self._bound.reason_to_hold(self._subscriber)

    def act(self, observation: Observation) -> Decision:
        newest = self._subscriber.latest()
        if newest is not None and newest.version != self._actor.version:
            self._actor.load(newest)
        return decide(self._actor, observation, self._explore, self._generator)

    def close(self) -> None:
        self._subscriber.close()
