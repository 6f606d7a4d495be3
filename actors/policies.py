"""This module holds the policies that the episode loop asks: one read from a folder, one that follows, and none.

    StoredPolicy    a policy folder; it never changes
    named_policy    a policy of another package, by the name of its entry point
    NoPolicy        stands still, for demonstrations
    WeightsPolicy   the learner's newest weights, on the robot's own computer
    NewestWeights   the following itself, which the twin fleet's policy server uses too (`actors.sim`)

    subscriber.latest() ──► version not seen yet? ──► backbone as promised, network fits, its T5 is here? ──► in use
                                                            │ no
                                                            └──► refused: no episode begins until a later version comes

An episode that is under way goes on with the weights before. torch and the weights service are imported where they are
needed: twin actors do without them.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from actors.interfaces import Decision, Policy
from actors.loop import idle_actions
from protos.errors import CorruptData, InputError
from protos.schema import Bools, Observation, Schema
from services.net import LOOPBACK, Credentials
from twin.plugins import Registry

if TYPE_CHECKING:
    from torch import Generator

    from policy.acting import BatchActor, PublishedWeights
    from services.weights import StalenessBound
    from twin.scene import Scene
    from twin.tasks import Task

log = logging.getLogger(__name__)
MakePolicy = Callable[["Scene", "Task", Schema], Policy]
"""Function, or class, that makes a policy for a scene, a task and an observation layout."""


def _opened(name: str, make: Any) -> MakePolicy:
    if not callable(make):
        raise TypeError(f"it is {make!r}; a function of scene, task and schema that makes a policy is needed")
    return make


_NAMED: Registry[MakePolicy] = Registry("policy", "twinrl.policies", {}, _opened)
policy_names = _NAMED.names


def named_policy(name: str, scene: "Scene", task: "Task", schema: Schema) -> Policy:
    """Makes the policy that a package brings by an entry point of the group `twinrl.policies`."""
    return _NAMED.get(name)(scene, task, schema)


class NoPolicy:
    """Stands still, for demonstrations, in which the operator acts all the time."""

    window = 1

    def ready(self) -> str:
        return ""

    def act(self, observation: Observation, pad: Bools | None = None) -> Decision:
        return Decision(action=idle_actions(len(observation)), embedding=None, version=-1, backbone_id="")

    def close(self) -> None:
        """Does nothing."""


class StoredPolicy:
    """Acts with a policy from a folder of the learner, which never changes."""

    def __init__(self, folder: Path, instruction: str, *, explore: float, seed: int) -> None:
        from policy.acting import BatchActor
        from policy.checkpoint import load_policy

        self._actor = BatchActor(load_policy(folder), instruction)
        self._explore, self._generator = explore, _generator(seed)
        self.window = self._actor.window

    def seed(self, seed: int) -> None:
        """Starts the policy's random numbers anew."""
        self._generator = _generator(seed)

    def ready(self) -> str:
        return ""

    def act(self, observation: Observation, pad: Bools | None = None) -> Decision:
        return _decide(self._actor, observation, pad, self._explore, self._generator)

    def close(self) -> None:
        """Does nothing."""


class WeightsPolicy:
    """Follows the weights service; a new version takes effect between two control steps, complete or not at all.

    With weights beyond `bound`, or that do not hold what they promise, no episode begins; one that is under way is
    finished with the weights at hand.
    """

    def __init__(
        self,
        address: str,
        instruction: str,
        *,
        explore: float,
        seed: int,
        first_timeout_s: float,
        bound: "StalenessBound",
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
        self._explore, self._generator = explore, _generator(seed)
        self._bound = bound

    @property
    def window(self) -> int:
        return self._newest.actor.window

    def ready(self) -> str:
        self._newest.refresh()
        return self._newest.refusal or self._bound.reason_to_hold(self._subscriber)

    def act(self, observation: Observation, pad: Bools | None = None) -> Decision:
        self._newest.refresh()
        return _decide(self._newest.actor, observation, pad, self._explore, self._generator)

    def close(self) -> None:
        self._subscriber.close()


class Subscriber(Protocol):
    """A source of the newest complete weights (`services.weights.WeightSubscriber`)."""

    def latest(self) -> "PublishedWeights | None": ...


class NewestWeights:
    """Keeps a `BatchActor` at the newest weights of a subscriber. One thread at a time."""

    def __init__(self, subscriber: Subscriber, instruction: str) -> None:
        self._subscriber, self._instruction = subscriber, instruction
        self._actor: BatchActor | None = None
        self._seen = 0
        self.refusal = ""
        """The reason why the newest version is not in use, in one line; empty when it is."""

    def refresh(self) -> None:
        """Takes the newest version into use if there is another one than last time."""
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
    def actor(self) -> "BatchActor":
        """The actor. Raises CorruptData when there was no version yet that could be acted with."""
        if self._actor is None:
            raise CorruptData(self.refusal or "weights: no version yet")
        return self._actor

    @property
    def version(self) -> int:
        """The version in use, -1 before the first."""
        return -1 if self._actor is None else self._actor.version

    def _load(self, weights: "PublishedWeights") -> None:
        if self._actor is None:
            from policy.acting import BatchActor

            self._actor = BatchActor.from_weights(weights, self._instruction)
        else:
            self._actor.load(weights)


def _generator(seed: int) -> "Generator":
    """Returns the random stream of a policy and keeps torch to one thread, as it acts on one observation."""
    import torch

    torch.set_num_threads(1)  # more threads only get in each other's way
    return torch.Generator().manual_seed(seed)


def _decide(
    actor: "BatchActor", observation: Observation, pad: Bools | None, explore: float, generator: "Generator"
) -> Decision:
    action, embedding = actor.act(observation, pad, explore=explore, generator=generator)
    return Decision(action=action, embedding=embedding, version=actor.version, backbone_id=actor.backbone_id)
