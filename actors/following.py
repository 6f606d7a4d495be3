"""Following the learner: the newest weights that are what they claim to be and can be acted with here.

    subscriber.latest() ──► version not seen yet? ──► id as promised, network fits, its T5 is here? ──► acted with
                                                            │ no
                                                            └──► refused: no episode begins until a later version comes

An episode that is under way goes on with the weights before.
"""

import logging
from typing import Any, Protocol

from protos.errors import CorruptData, InputError

log = logging.getLogger(__name__)


class Subscriber(Protocol):
    """Knows the newest complete weights (`services.weights.WeightSubscriber`)."""

    def latest(self) -> Any: ...


class NewestWeights:
    """A `BatchActor` that follows a subscriber. One thread at a time."""

    def __init__(self, subscriber: Subscriber, instruction: str) -> None:
        self._subscriber, self._instruction = subscriber, instruction
        self._actor: Any = None
        self._seen = 0
        self.refusal = ""
        """Why the newest version is not acted with, in one line; empty when it is."""

    def refresh(self) -> None:
        """Swaps in the newest version if there is another one than last time."""
        newest = self._subscriber.latest()
        if newest is None or newest.version == self._seen:
            return
        try:
            self._load(newest)
            self.refusal = ""
        except (CorruptData, InputError) as error:
            self.refusal = f"weights: refused, {error}"
            log.error("%s", self.refusal)
        self._seen = newest.version

    @property
    def actor(self) -> Any:
        """The `BatchActor`. Raises CorruptData when there was no version yet that could be acted with."""
        if self._actor is None:
            raise CorruptData(self.refusal or "weights: no version yet")
        return self._actor

    @property
    def version(self) -> int:
        """What is acted with, -1 before the first."""
        return -1 if self._actor is None else int(self._actor.version)

    def _load(self, weights: Any) -> None:
        if self._actor is None:
            from policy.acting import BatchActor

            self._actor = BatchActor.from_weights(weights, self._instruction)
        else:
            self._actor.load(weights)
