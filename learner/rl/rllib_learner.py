"""The RL update as RLlib runs it: TorchRLModule, TorchLearner, AlgorithmConfig, outside any Algorithm.

    TwinLearner.train ─► update ─► _update ─┬ RlAgent.gradients
                                            ├ mean of gradients and loss over all learners (gloo, nccl)
                                            └ RlAgent.step      clipping, NaN guard, optimizers, target

The module wraps an `RlAgent`, whose networks and optimizers are the very objects that the plain step would use; the two
give the same numbers. Where there are several learners the gradients travel as one vector after the backward pass, with
the loss as its last number. So all learners clip, accept or refuse the same gradients, and it does not matter which
parameters a phase trains, which DistributedDataParallel would have to be told.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.annotations import override
from torch import Tensor

from learner.rl.update import Phase, RlAgent, Updated
from learner.settings import UpdateSettings
from policy.model import Policy
from policy.settings import PolicySettings
from protos.errors import TwinRLError
from protos.settings import from_json, to_json

COLLECTIVE_TIMEOUT_S = 300.0
"""How long a learner waits for the gradients of the others; the first update may have to compile."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a learner says about an update."""

    rank: int
    """Which learner, and which part of the batch."""
    updated: Updated | None = None
    error: str = ""
    """Why the run must end, in place of an update."""


class TwinModule(TorchRLModule):
    """Policy, critics and target critics of one `RlAgent`."""

    @override(TorchRLModule)
    def setup(self) -> None:
        config = self.model_config
        self.agent = RlAgent(
            Policy(from_json(PolicySettings, config["policy"])),
            from_json(UpdateSettings, config["update"]),
            seed=config["seed"],
        )
        self.policy, self.critic, self.target = self.agent.policy, self.agent.critic, self.agent.target

    @override(TorchRLModule)
    def _forward(self, batch: Mapping[str, Tensor], **_: Any) -> dict[str, Tensor]:
        """Actions (n, A) for features (n, F)."""
        return {Columns.ACTIONS: self.agent.policy.sample(batch[Columns.OBS])}


class TwinLearner(TorchLearner):
    """Runs our update inside RLlib's life cycle, with our own clipping and NaN guard in place of RLlib's."""

    @property
    def agent(self) -> RlAgent:
        """The one that this learner trains."""
        return self.module[DEFAULT_MODULE_ID].unwrapped().agent

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        agent = self.agent
        for name, optimizer in (("critic", agent.critic_optimizer), ("actor", agent.actor_optimizer)):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self.register_optimizer(module_id=module_id, optimizer_name=name, optimizer=optimizer, params=parameters)

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        """Never: gradients are averaged by hand."""

    def train(self, columns: Mapping[str, NDArray[np.generic]], phase: Phase) -> Answer:
        """One update on this learner's part of a batch, by RLlib's `update`, which calls `_update`."""
        rows = len(columns["reward"])
        self._phase = phase
        self._shared = {name: column for name, column in columns.items() if len(column) != rows}
        own = SampleBatch({name: column for name, column in columns.items() if name not in self._shared})
        try:
            self.update(batch=MultiAgentBatch({DEFAULT_MODULE_ID: own}, env_steps=rows))
        except TwinRLError as error:  # of the guard, the same in every learner; the driver raises it again
            return Answer(rank=rank(), error=str(error))
        return Answer(rank=rank(), updated=self._updated)

    @override(TorchLearner)
    def _update(self, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        agent = self.agent
        shared = {name: torch.from_numpy(np.array(column)) for name, column in self._shared.items()}
        found = agent.gradients(dict(batch[DEFAULT_MODULE_ID]) | shared, self._phase)
        loss = self._averaged(found.total)
        agent.step(loss, self._phase)
        metrics = {name: float(value) for name, value in found.scalars.items()} | {"skipped": agent.guard.skipped}
        self._updated = Updated(metrics=metrics, td_error=found.td_error.cpu().numpy())
        return {}, {DEFAULT_MODULE_ID: loss}, {}

    @override(TorchLearner)
    def compute_loss_for_module(self, **_: Any) -> Tensor:
        raise NotImplementedError("the losses of both networks are computed together, in _update")

    def _averaged(self, loss: Tensor) -> Tensor:
        """The loss; it and all gradients are means over the learners from here on."""
        if self.config.num_learners < 2:
            return loss
        gradients = [p.grad for p in self._params.values() if p.grad is not None]
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss.reshape(1)])
        torch.distributed.all_reduce(flat, async_op=True).wait(timedelta(seconds=COLLECTIVE_TIMEOUT_S))
        flat /= self.config.num_learners
        *parts, mean = flat.split([*(gradient.numel() for gradient in gradients), 1])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return mean[0]


def rank() -> int:
    """The number of the learner in this process, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


class TwinConfig(AlgorithmConfig):
    """The typed configuration RLlib wants."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.framework("torch")

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> type[TwinLearner]:
        return TwinLearner

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=TwinModule)


def twin_config(
    policy: PolicySettings, update: UpdateSettings, *, seed: int, learners: int, gpus: int = 0
) -> TwinConfig:
    """The configuration of `learners` learners with `gpus` each. RLlib wants the spaces in two places."""
    observations = gymnasium.spaces.Box(-np.inf, np.inf, (policy.feature_dim,), np.float32)
    actions = gymnasium.spaces.Box(-1.0, 1.0, (policy.action_dim,), np.float32)
    spec = RLModuleSpec(
        module_class=TwinModule,
        observation_space=observations,
        action_space=actions,
        model_config={"policy": to_json(policy), "update": to_json(update), "seed": seed},
    )
    config = TwinConfig().environment(observation_space=observations, action_space=actions)
    config.learners(num_learners=learners, num_cpus_per_learner=1, num_gpus_per_learner=gpus)
    return config.rl_module(rl_module_spec=spec)
