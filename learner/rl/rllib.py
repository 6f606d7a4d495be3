"""This module runs the RL update in RLlib's LearnerGroup: one learner in this process, or several in their own.

    RllibUpdater.update ─ noise ─► LearnerGroup ─► one TwinLearner here                        learners = 0
                                                └► TwinLearner 0 … k−1, equal parts of a batch  learners = k, own Ray

    TwinLearner.train ─┬ RlAgent.gradients
                       ├ mean of gradients and loss over all learners (gloo, nccl)
                       └ RlAgent.step      clipping, NaN guard, optimizers, target

The RLlib module wraps an `RlAgent`, whose networks and optimizers are the very objects that the plain update would
use; the two give the same numbers. With several learners the gradients travel as one vector after the backward pass,
with the loss as its last number. So all learners clip, accept or refuse the same gradients, and it does not matter
which parameters a phase trains, which DistributedDataParallel would have to be told.

RLlib's own behaviour, and what is done about it here:

* Its `set_state` keeps newer weights beside older optimizers. State goes in and out as our own tensors.
* A learner that died gives one error, later updates do nothing and say nothing. Answers are counted: once one is
  missing every call raises a TwinRLError, and the stage goes on from its last checkpoint with `--resume`.
* Its `update` converts batches and sums up metrics of its own at every step. `train` goes to the agent directly.
* Asynchronous updates are dropped when learners are busy. Updates are synchronous, with a deadline of their own.
* Its treatment of NaN changes weights. The agent's own guard decides, on the mean gradients of all learners.
"""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import numpy as np
import ray
import torch
import torch.distributed
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.annotations import override
from torch import Tensor

from learner.augment import torch_stream
from learner.rl.batches import Phase, complete, phase_of, split
from learner.rl.settings import UpdateSettings
from learner.rl.update import COUNTERS, RlAgent, Updated
from policy.model import Parts, Policy
from policy.settings import PolicySettings
from protos.errors import InputError, TwinRLError
from protos.files import RAY_SOCKET_BYTES, short_folder
from protos.settings import from_json, to_json
from services.net import start_own_ray

T = TypeVar("T")
Arrays = dict[str, NDArray[np.generic]]
Handed = Any
"""`Arrays`, or Ray's reference to them (a foreign type)."""
UPDATE_TIMEOUT_S = 900.0
"""Deadline of one update; the first may have to compile, and a learner waits for the others."""
CALL_TIMEOUT_S = 300.0
"""Deadline of other calls: the state of a large network takes a while to travel."""
_REASON_LENGTH = 120
COLLECTIVE_TIMEOUT_S = 300.0
"""Deadline of a learner for the gradients of the others; the first update may have to compile."""
_STORE_BYTES = 256 << 20
"""Room for batches and answers in Ray's store."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A learner's answer to an update."""

    rank: int
    """Number of the learner, and of its part of the batch."""
    updated: Updated | None = None
    error: str = ""
    """The reason to end the run, in place of an update."""


class TwinModule(TorchRLModule):
    """An RLlib module with policy, critics and target critics of one `RlAgent`."""

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
        """Returns actions (n, A) for features (n, F)."""
        return {Columns.ACTIONS: self.agent.policy.sample(batch[Columns.OBS])}


class TwinLearner(TorchLearner):
    """Runs our update in RLlib's learner, with our own clipping and NaN guard in place of RLlib's."""

    @property
    def agent(self) -> RlAgent:
        """The agent that this learner trains."""
        return self.module[DEFAULT_MODULE_ID].unwrapped().agent

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        agent = self.agent
        for name, optimizer in (("critic", agent.critic_optimizer), ("actor", agent.actor_optimizer)):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            self.register_optimizer(module_id=module_id, optimizer_name=name, optimizer=optimizer, params=parameters)

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        """Does nothing: gradients are averaged by hand."""

    def train(self, columns: Mapping[str, NDArray[np.generic]], phase: Phase) -> Answer:
        """Makes one update on this learner's part of a batch."""
        agent = self.agent
        try:
            found = agent.gradients({name: _tensor(column) for name, column in columns.items()}, phase)
            agent.step(self._averaged(found.total), phase)
        except TwinRLError as error:  # of the guard, the same in every learner; the driver raises it again
            return Answer(rank=rank(), error=str(error))
        metrics = {name: float(value) for name, value in found.scalars.items()} | {"skipped": agent.guard.skipped}
        return Answer(rank=rank(), updated=Updated(metrics=metrics, td_error=found.td_error.cpu().numpy()))

    @override(TorchLearner)
    def _update(self, batch: dict[str, Any], **_: Any) -> tuple[Any, Any, Any]:
        raise NotImplementedError("`train` makes updates: RLlib's way to them costs a tenth of a small one")

    @override(TorchLearner)
    def compute_loss_for_module(self, **_: Any) -> Tensor:
        raise NotImplementedError("the losses of both networks are computed together, by the agent")

    def _averaged(self, loss: Tensor) -> Tensor:
        """Returns the loss; it and all gradients are means over the learners from here on."""
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
    """Returns the number of the learner in this process, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


class TwinConfig(AlgorithmConfig):
    """An RLlib configuration with our learner and module."""

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
    """Makes the configuration of `learners` learners with `gpus` each. RLlib wants the spaces in two places."""
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


class RllibUpdater:
    """Runs the updates of an `RlAgent` in an RLlib LearnerGroup; a `learner.rl.loop.Updater`."""

    def __init__(
        self, policy: Policy, settings: UpdateSettings, *, seed: int, learners: int = 0, threads: int = 1
    ) -> None:
        """Starts the learners; with `learners` ≥ 1 a Ray of their own, which takes some seconds.

        They compute on GPUs, one each, when the policy is on one. Raises InputError when there are too few.
        """
        gpus = int(policy.device.type == "cuda")
        if gpus and learners > torch.cuda.device_count():
            raise InputError(f"learners={learners}: each takes a GPU, here are {torch.cuda.device_count()}")
        self._policy, self._settings, self._seed, self._learners = policy.settings, settings, seed, learners
        self._lost = ""
        self._updates = 0
        start = RlAgent(policy, settings, seed=seed).tensors()
        size = sum(tensor.nbytes for tensor in start.values())
        self._ray = LocalRay(learners, threads=threads, state_bytes=size) if learners else None
        self._group: LearnerGroup | None = None
        try:
            config = twin_config(self._policy, settings, seed=seed, learners=learners, gpus=gpus)
            self._group = config.build_learner_group()
            self.load_tensors(start)
        except BaseException:
            self.close()
            raise

    def fit_normalization(self, batch: Mapping[str, Tensor]) -> None:
        """Sets the critics' feature statistics on every learner alike."""
        self._each(partial(_fit, batch=self._handed(batch)))

    def update(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        """Makes one update on a batch of `learner.rl.batches.columns`, its rows spread evenly over the learners."""
        phase = phase_of(phase, self._settings, self._updates)
        noise = torch_stream(self._seed, "noise", self._updates)
        whole = complete(batch, self._policy, self._settings, phase, noise)
        parts = [self._handed(part) for part in split(whole, max(1, self._learners))]
        answers = self._each(partial(_train, parts=parts, phase=phase), timeout_s=UPDATE_TIMEOUT_S)
        self._updates += 1
        return _joined(sorted(answers, key=lambda answer: answer.rank))

    def parts(self, names: Collection[str]) -> Parts:
        """Returns the policy's parts of the first learner; all hold the same."""
        (parts,) = self._each(lambda learner: learner.agent.policy.parts(names), first=True)
        if not self._learners:
            return parts
        return {part: {name: np.array(array) for name, array in arrays.items()} for part, arrays in parts.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Returns copies of the state of the first learner; all hold the same."""
        return _tensors(self._each(lambda learner: _arrays(learner.agent.tensors()), first=True)[0])

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Loads a state into every learner, weights and optimizers alike."""
        self._each(partial(_load, state=self._handed(tensors)))
        self._updates = int(tensors[COUNTERS][0])

    def pids(self) -> list[int]:
        """Returns the process ids of the learners."""
        return self._each(lambda _: os.getpid())

    def close(self) -> None:
        """Ends the learners, and their Ray."""
        if self._group is not None:
            self._group.shutdown()
            self._group = None
        if self._ray is not None:
            self._ray.close()
            self._ray = None

    def _handed(self, tensors: Mapping[str, Tensor]) -> Handed:
        """Puts tensors into Ray's store, from which learners in other processes take them without copies."""
        return ray.put(_arrays(tensors)) if self._learners else _arrays(tensors)

    def _each(
        self, call: Callable[[TwinLearner], T], *, first: bool = False, timeout_s: float = CALL_TIMEOUT_S
    ) -> list[T]:
        """Returns what `call` returns on every learner, or on the first.

        Raises TwinRLError, now and ever after, when an answer is missing.
        """
        assert self._group is not None, "the learners were closed"
        if self._lost:
            raise TwinRLError(self._lost)
        ids = [0] if first and self._learners else None
        found = self._group.foreach_learner(call, remote_actor_ids=ids, timeout_seconds=timeout_s)
        answers: list[T] = [each.get() for each in found.ignore_errors()]
        expected = 1 if first else max(1, self._learners)
        if len(answers) < expected:
            self._lost = (
                f"a learner is gone ({_reason([each.get() for each in found if not each.ok], timeout_s)}); the updates "
                "since the last checkpoint are lost, --resume goes on from it"
            )
            raise TwinRLError(self._lost)
        return answers


def _train(learner: TwinLearner, parts: Sequence[Handed], phase: Phase) -> Answer:
    """Makes one update on the learner's own part; this and what follows runs on every learner."""
    return learner.train(_taken(parts[rank()]), phase)


def _load(learner: TwinLearner, state: Handed) -> None:
    learner.agent.load_tensors(_tensors(_taken(state)))


def _fit(learner: TwinLearner, batch: Handed) -> None:
    learner.agent.fit_normalization(_tensors(_taken(batch)))


def _taken(handed: Handed) -> Arrays:
    return ray.get(handed) if isinstance(handed, ray.ObjectRef) else handed


def _reason(errors: Sequence[Exception], timeout_s: float) -> str:
    """Says in one line why answers are missing: the death of a process comes before what the others say of it."""
    if not errors:
        return f"no answer within {timeout_s:g} s"
    error = next((each for each in errors if isinstance(each, RayActorError)), errors[0])
    cause = getattr(error, "cause", None) or error
    first = next(iter(str(cause).strip().splitlines()), "no reason given")
    return f"{type(cause).__name__}: {first[:_REASON_LENGTH]}"


def _joined(answers: list[Answer]) -> Updated:
    """Joins the updates of the equal parts of a batch, in their order."""
    updates = [answer.updated for answer in answers if answer.updated is not None]
    if len(updates) < len(answers):
        raise TwinRLError(next(answer.error for answer in answers if answer.updated is None))
    metrics = {name: float(np.mean([each.metrics[name] for each in updates])) for name in updates[0].metrics}
    return Updated(metrics=metrics, td_error=np.concatenate([each.td_error for each in updates]))


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """Returns arrays, which Ray carries without copies."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Returns a tensor on an array, or on a copy where that came through Ray and is read-only."""
    return torch.from_numpy(array if array.flags.writeable else np.array(array))


def _tensors(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Returns copies: what came through Ray is read-only."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


class LocalRay:
    """Runs a Ray for the learners of one stage, on this machine alone, in a folder that no other Ray uses."""

    def __init__(self, learners: int, *, threads: int, state_bytes: int) -> None:
        """`threads` of each learner; Ray's store has room for a state of `state_bytes`.

        Raises Unreachable when Ray does not start, by its own deadlines.
        """
        self._folder = str(short_folder("twinrl-learner-", RAY_SOCKET_BYTES))
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        # torch.distributed talks over loopback: the gradients of one machine's learners are nobody else's business
        variables = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"}
        options: dict[str, Any] = {
            "num_cpus": learners + 1,
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES + 3 * state_bytes,
            "logging_level": "ERROR",
            "log_to_driver": False,
            "runtime_env": {"env_vars": variables},
        }
        logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)  # the updater says who is gone
        try:
            start_own_ray(_temp_dir=self._folder, **options)
        except TwinRLError:
            self.close()
            raise

    def close(self) -> None:
        """Ends Ray and its processes."""
        ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)
