"""The policy on the robot's own computer: the newest weights of the learner, or a folder that it wrote."""

import logging
from pathlib import Path
from typing import Any

from actors.interfaces import Decision
from actors.loop import idle_actions
from protos.schema import Observation

log = logging.getLogger(__name__)


class WeightsPolicy:
    """Follows the weights service; a new version takes effect between two control steps, complete or not at all."""

    def __init__(
        self,
        address: str,
        instruction: str,
        *,
        explore: float,
        seed: int,
        first_timeout_s: float,
        token: str | None = None,
    ) -> None:
        """Waits for the first version. Raises Unreachable after `first_timeout_s`."""
        from services.weights import WeightSubscriber

        self._subscriber = WeightSubscriber(address, name="robot", token=token)
        try:
            first = self._subscriber.wait(0, first_timeout_s)
        except BaseException:
            self._subscriber.close()
            raise
        from policy.acting import BatchActor

        self._actor: Any = BatchActor.from_weights(first, instruction)
        self._explore, self._generator = explore, _generator(seed)

    def act(self, observation: Observation) -> Decision:
        newest = self._subscriber.latest()
        if newest is not None and newest.version != self._actor.version:
            self._actor.load(newest)
        return _decide(self._actor, observation, self._explore, self._generator)

    def staleness(self) -> tuple[int, float]:
        """Versions behind the newest, and the age of the one in use [s]."""
        return self._subscriber.staleness()

    def close(self) -> None:
        self._subscriber.close()


class StoredPolicy:
    """A policy from a folder of the learner; it never changes."""

    def __init__(self, folder: Path, instruction: str, *, explore: float, seed: int) -> None:
        from policy.acting import BatchActor
        from policy.checkpoint import load_policy

        self._actor: Any = BatchActor(load_policy(folder), instruction)
        self._explore, self._generator = explore, _generator(seed)

    def act(self, observation: Observation) -> Decision:
        return _decide(self._actor, observation, self._explore, self._generator)

    def close(self) -> None:
        """Nothing is open."""


class NoPolicy:
    """Stands still; for demonstrations, in which the operator acts all the time."""

    def act(self, observation: Observation) -> Decision:
        return Decision(action=idle_actions(len(observation)), embedding=None, version=-1, backbone_id="")

    def close(self) -> None:
        """Nothing is open."""


def _generator(seed: int) -> Any:
    import torch

    torch.set_num_threads(1)  # one observation at a time: more threads only get in each other's way
    return torch.Generator().manual_seed(seed)


def _decide(actor: Any, observation: Observation, explore: float, generator: Any) -> Decision:
    action, embedding = actor.act(observation, explore=explore, generator=generator)
    return Decision(action=action, embedding=embedding, version=actor.version, backbone_id=actor.backbone_id)
