"""The policy on the robot's own computer that follows the learner's newest weights."""

from actors.following import NewestWeights
from actors.interfaces import Decision
from actors.policies import decide, generator_of
from protos.schema import Bools, Observation
from services.net import LOOPBACK, Credentials
from services.weights.staleness import StalenessBound


class WeightsPolicy:
    """Follows the weights service; a new version takes effect between two control steps, complete or not at all.

    With weights beyond `bound`, or that are not what they claim to be, no episode begins; one that is under way is
    finished with what there is.
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
            self._subscriber.wait(0, first_timeout_s)
            self._newest = NewestWeights(self._subscriber, instruction)
            self._newest.refresh()
        except BaseException:
            self._subscriber.close()
            raise
        self._explore, self._generator = explore, generator_of(seed)
        self._bound = bound

    @property
    def window(self) -> int:
        return int(self._newest.actor.window)

    def ready(self) -> str:
        self._newest.refresh()
        return self._newest.refusal or self._bound.reason_to_hold(self._subscriber)

    def act(self, observation: Observation, pad: Bools | None = None) -> Decision:
        self._newest.refresh()
        return decide(self._newest.actor, observation, pad, self._explore, self._generator)

    def close(self) -> None:
        self._subscriber.close()
