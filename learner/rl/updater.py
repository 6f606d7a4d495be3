"""What runs the updates, whatever runs them: this process, or learners in processes of their own.

    OnlineLoop ─batch, phase─► Updater ─► PlainUpdater   the agent in this process
                                       └► RllibUpdater   the same agent inside RLlib's learners (learner.rl.rllib)

A checkpoint holds `tensors()`: networks, optimizers and counters of the agent, all that an update changes. As every
random number of an update depends on the seed and the update's index alone, they are the whole state.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learner.rl.update import Phase, RlAgent, Updated
from policy.model import Parts
from protos.errors import CorruptData

_COUNTERS = "counters"
"""Beside the names of networks and optimizers: updates so far, and those among them that were skipped."""


class Updater(Protocol):
    """Runs updates on one agent and gives its tensors out."""

    def fit_normalization(self, batch: Mapping[str, Tensor]) -> None:
        """Sets the critics' feature statistics from a batch of demonstrations, once, before the first update."""

    def update(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        """One update. Raises TwinRLError when updates keep failing, or when a learner is gone."""
        ...

    def parts(self, names: Collection[str]) -> Parts:
        """The policy's parts as they are now, for publishing; to be copied before the next update."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all that updates change, on the CPU, by name."""
        ...

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes back, or forward, to what `tensors` returned. Raises CorruptData when they are of another agent."""

    def close(self) -> None:
        """Ends what was started for the updates."""


class PlainUpdater:
    """Updates an agent in this process."""

    def __init__(self, agent: RlAgent) -> None:
        self.agent = agent

    def fit_normalization(self, batch: Mapping[str, Tensor]) -> None:
        self.agent.fit_critic_normalization(batch)

    def update(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        return self.agent.update(batch, phase)

    def parts(self, names: Collection[str]) -> Parts:
        return self.agent.policy.parts(names)

    def tensors(self) -> dict[str, Tensor]:
        return agent_tensors(self.agent)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        load_agent(self.agent, tensors)

    def close(self) -> None:
        """Nothing was started."""


def agent_tensors(agent: RlAgent) -> dict[str, Tensor]:
    """Copies of an agent's networks, optimizer states and counters, on the CPU, as `<owner>.<name>`."""
    found: dict[str, Tensor] = {}
    for owner, module in _modules(agent).items():
        found |= {f"{owner}.{name}": tensor for name, tensor in module.state_dict().items()}
    for owner, optimizer in _optimizers(agent).items():
        found |= {f"{owner}.{name}": tensor for name, tensor in optimizer_tensors(optimizer).items()}
    found[_COUNTERS] = torch.tensor([agent.updates, agent.guard.skipped])
    return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}


def load_agent(agent: RlAgent, tensors: Mapping[str, Tensor]) -> None:
    """Puts `agent_tensors` back, in place."""
    try:
        for owner, module in _modules(agent).items():
            module.load_state_dict(under(tensors, owner))
        for owner, optimizer in _optimizers(agent).items():
            load_optimizer(optimizer, under(tensors, owner))
        agent.updates, agent.guard.skipped = map(int, tensors[_COUNTERS])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CorruptData(f"these tensors are of another network or stage: {error}") from error


def updates_of(tensors: Mapping[str, Tensor]) -> int:
    """How many updates made them."""
    return int(tensors[_COUNTERS][0])


def with_critics(tensors: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` with the critics and target critics of another agent."""
    critics = {name: tensor for name, tensor in other.items() if name.startswith(("critic.", "target."))}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(("critic.", "target."))} | critics


def under(tensors: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
    """The tensors of one owner, by their own names."""
    prefix = f"{owner}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts as `<parameter index>.<what>`; nothing before the first step."""
    return {
        f"{index}.{what}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for what, value in entries.items()
    }


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Moments and step counts; learning rates and other settings stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, what = key.split(".", 1)
        state.setdefault(int(index), {})[what] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _modules(agent: RlAgent) -> dict[str, nn.Module]:
    return {"policy": agent.policy, "critic": agent.critic, "target": agent.target}


def _optimizers(agent: RlAgent) -> dict[str, Optimizer]:
    return {"critic_optimizer": agent.critic_optimizer, "actor_optimizer": agent.actor_optimizer}
