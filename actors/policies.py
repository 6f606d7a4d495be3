"""Policies that the episode loop can ask: one read from a folder, and none at all.

The twin fleet asks its policy server (`actors.sim`), the arm may follow the weights service (`actors.real.policy`).
"""

from pathlib import Path
from typing import Any

from actors.interfaces import Decision
from actors.loop import idle_actions
from protos.schema import Bools, Observation


class StoredPolicy:
    """A policy from a folder of the learner; it never changes."""

    def __init__(self, folder: Path, instruction: str, *, explore: float, seed: int) -> None:
        from policy.acting import BatchActor
        from policy.checkpoint import load_policy

        self._actor: Any = BatchActor(load_policy(folder), instruction)
        self._explore, self._generator = explore, generator_of(seed)
        self.window: int = self._actor.window

    def seed(self, seed: int) -> None:
        """Starts the policy's random numbers anew."""
        self._generator = generator_of(seed)

    def ready(self) -> str:
        return ""

    def act(self, observation: Observation, pad: Bools | None = None) -> Decision:
        return decide(self._actor, observation, pad, self._explore, self._generator)

    def close(self) -> None:
        """Nothing is open."""


class NoPolicy:
    """Stands still; for demonstrations, in which the operator acts all the time."""

    window = 1

    def ready(self) -> str:
        return ""

    def act(self, observation: Observation, pad: Bools | None = None) -> Decision:
        return Decision(action=idle_actions(len(observation)), embedding=None, version=-1, backbone_id="")

    def close(self) -> None:
        """Nothing is open."""


def generator_of(seed: int) -> Any:
    """The random stream of a policy; also keeps torch to one thread, as it acts on one observation at a time."""
    import torch

    torch.set_num_threads(1)  # more threads only get in each other's way
    return torch.Generator().manual_seed(seed)


def decide(actor: Any, observation: Observation, pad: Bools | None, explore: float, generator: Any) -> Decision:
    """What a `BatchActor` answers, as the loop wants it."""
    action, embedding = actor.act(observation, pad, explore=explore, generator=generator)
    return Decision(action=action, embedding=embedding, version=actor.version, backbone_id=actor.backbone_id)
