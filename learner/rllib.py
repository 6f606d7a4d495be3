"""The RL update inside RLlib: TorchRLModule, TorchLearner, LearnerGroup, outside any Algorithm.

    RllibUpdater.update ─► LearnerGroup ─► TwinLearner._update
                                             ├ TwinModule.forward_train    the losses of `learner.update`
                                             ├ postprocess_gradients       clipping, NaN guard
                                             ├ apply_gradients             both optimizers, or nothing
                                             └ after_gradient_based_update target ← target + τ (critic − target)

The module wraps an `RlAgent`, so that networks, optimizers and random stream are the very objects that the plain step
would use; the two give the same numbers. Checkpoints go through `learner.checkpoint`, never through RLlib's state
files, which hold pickles and skip weights when rolled back in place.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.annotations import override
from torch import Tensor

from learner.settings import UpdateSettings
from learner.update import WARMUP, Losses, Phase, RlAgent, Updated, batch_losses, clip_gradients, follow, set_actor_rate
from policy.model import Policy
from policy.settings import PolicySettings
from protos.errors import TwinRLError
from protos.settings import from_json, to_json

_LOSSES = "losses"


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
        self.phase: Phase = WARMUP
        self.td_error = np.empty(0, np.float32)
        """(n,) of the latest batch."""

    @override(TorchRLModule)
    def _forward(self, batch: Mapping[str, Tensor], **_: Any) -> dict[str, Tensor]:
        """Actions (n, A) for features (n, F)."""
        return {Columns.ACTIONS: self.policy.sample(batch[Columns.OBS], self.agent.generator)}

    @override(TorchRLModule)
    def _forward_train(self, batch: Mapping[str, Tensor], **_: Any) -> dict[str, Losses]:
        agent = self.agent
        found = batch_losses(self.policy, self.critic, self.target, batch, agent.settings, self.phase, agent.generator)
        self.td_error = found.td_error.numpy()
        return {_LOSSES: found}


class TwinLearner(TorchLearner):
    """Runs the update with our own clipping and NaN guard in place of RLlib's."""

    _accepted = True

    @property
    def _twin(self) -> TwinModule:
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        agent = self._twin.agent
        for name, optimizer in (("critic", agent.critic_optimizer), ("actor", agent.actor_optimizer)):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self.register_optimizer(module_id=module_id, optimizer_name=name, optimizer=optimizer, params=parameters)

    @override(TorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: Mapping[str, Tensor], fwd_out: Mapping[str, Losses]
    ) -> Tensor:
        found = fwd_out[_LOSSES]
        self.metrics.log_dict({k: v.detach() for k, v in found.scalars.items()}, key=module_id, window=1)
        self._loss = found.total
        return found.total

    @override(TorchLearner)
    def postprocess_gradients(self, gradients_dict: dict[Any, Tensor]) -> dict[Any, Tensor]:
        agent = self._twin.agent
        norms = clip_gradients(agent.policy, agent.critic, agent.settings)
        self._accepted = agent.guard.accepts([self._loss, *norms])
        return gradients_dict

    @override(TorchLearner)
    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Steps both optimizers; the gradients lie in the parameters already. A refused update steps neither."""
        if self._accepted:
            for _, optimizer in self.get_optimizers_for_module(DEFAULT_MODULE_ID):
                optimizer.step()

    @override(TorchLearner)
    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        agent = self._twin.agent
        if self._accepted:
            follow(agent.target, agent.critic, agent.settings.tau)


class TwinConfig(AlgorithmConfig):
    """The typed configuration RLlib wants; one learner in this process."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.framework("torch")
        self.learners(num_learners=0, num_gpus_per_learner=0)

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> type[TwinLearner]:
        return TwinLearner

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=TwinModule)


def twin_config(policy: PolicySettings, update: UpdateSettings, *, seed: int) -> TwinConfig:
    """The configuration of a learner for this policy. RLlib wants the spaces in two places."""
    observations = gymnasium.spaces.Box(-np.inf, np.inf, (policy.feature_dim,), np.float32)
    actions = gymnasium.spaces.Box(-1.0, 1.0, (policy.action_dim,), np.float32)
    spec = RLModuleSpec(
        module_class=TwinModule,
        observation_space=observations,
        action_space=actions,
        model_config={"policy": to_json(policy), "update": to_json(update), "seed": seed},
    )
    config = TwinConfig().environment(observation_space=observations, action_space=actions)
    return config.rl_module(rl_module_spec=spec)


class RllibUpdater:
    """An `RlAgent` whose updates run in an RLlib LearnerGroup; `agent` is the one inside."""

    def __init__(self, policy: Policy, settings: UpdateSettings, *, seed: int) -> None:
        self._group = twin_config(policy.settings, settings, seed=seed).build_learner_group()
        (self._module,) = self._group.foreach_learner(lambda learner: learner.module[DEFAULT_MODULE_ID].unwrapped())
        self.agent: RlAgent = self._module.get().agent
        self.agent.policy.load_state_dict(policy.state_dict())

    def update(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        """One update through the learner group."""
        set_actor_rate(self.agent.actor_optimizer, self.agent.settings, phase)
        module = self._module.get()
        module.phase = phase
        rows = {name: tensor.numpy() for name, tensor in batch.items()}
        multi = MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(rows)}, env_steps=len(rows["reward"]))
        results = self._group.update(batch=multi)
        if not results:
            raise TwinRLError("RLlib's learner gave no result for an update; its learner is gone")
        found = results[0][DEFAULT_MODULE_ID]
        names = _scalar_names(phase, self.agent.settings)
        metrics = {name: float(found[name].peek()) for name in names}
        return Updated(metrics=metrics | {"skipped": self.agent.guard.skipped}, td_error=module.td_error)

    def close(self) -> None:
        self._group.shutdown()


def _scalar_names(phase: Phase, settings: UpdateSettings) -> tuple[str, ...]:
    names = ("td", "q", "target_q")
    if phase.actor:
        return (*names, "bc", "actor_q")
    return (*names, "calql") if settings.calql_alpha > 0.0 else names
