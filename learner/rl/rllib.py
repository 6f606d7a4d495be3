"""The RL update in RLlib's LearnerGroup: one learner in this process, or several in processes of their own.

    RllibUpdater.update ─ noise ─► LearnerGroup ─► one TwinLearner here                        learners = 0
                                                └► TwinLearner 0 … k−1, equal parts of a batch  learners = k, own Ray

What RLlib does on its own, and what is done about it here:

* Its `set_state` keeps newer weights beside older optimizers. State goes in and out as our own tensors.
* A learner that died gives one error, later updates do nothing and say nothing. Answers are counted: once one is
  missing every call raises a TwinRLError, and the stage goes on from its last checkpoint with `--resume`.
* Asynchronous updates are dropped when learners are busy. Updates are synchronous, with a deadline of their own.
* Its treatment of NaN changes weights. The agent's own guard decides, on the mean gradients of all learners.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.rllib.core.learner.learner_group import LearnerGroup
from torch import Tensor

from learner.rl.rllib_learner import Answer, TwinLearner, rank, twin_config
from learner.rl.rllib_ray import LocalRay
from learner.rl.update import Phase, RlAgent, Updated, complete, split, turn
from learner.rl.updater import agent_tensors, load_agent, updates_of
from learner.settings import UpdateSettings
from learner.stage.streams import torch_stream
from policy.model import Parts, Policy
from protos.errors import InputError, TwinRLError

T = TypeVar("T")
Arrays = dict[str, NDArray[np.generic]]
Handed = Any
"""`Arrays`, or Ray's reference to them."""
UPDATE_TIMEOUT_S = 900.0
"""For one update; the first may have to compile, and a learner waits for the others."""
CALL_TIMEOUT_S = 300.0
"""For other calls: the state of a large network takes a while to travel."""
_REASON_LENGTH = 120


class RllibUpdater:
    """An `RlAgent` whose updates run in an RLlib LearnerGroup; a `learner.rl.updater.Updater`."""

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
        start = agent_tensors(RlAgent(policy, settings, seed=seed))
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
        """On every learner alike."""
        self._each(partial(_fit, batch=self._handed(batch)))

    def update(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        """One update on a batch of `learner.rl.update.columns`, its rows spread evenly over the learners."""
        phase = turn(phase, self._settings, self._updates)
        noise = torch_stream(self._seed, "noise", self._updates)
        whole = complete(batch, self._policy, self._settings, phase, noise)
        parts = [self._handed(part) for part in split(whole, max(1, self._learners))]
        answers = self._each(partial(_train, parts=parts, phase=phase), timeout_s=UPDATE_TIMEOUT_S)
        self._updates += 1
        return _joined(sorted(answers, key=lambda answer: answer.rank))

    def parts(self, names: Collection[str]) -> Parts:
        """Of the first learner; all hold the same."""
        (parts,) = self._each(lambda learner: learner.agent.policy.parts(names), first=True)
        if not self._learners:
            return parts
        return {part: {name: np.array(array) for name, array in arrays.items()} for part, arrays in parts.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Of the first learner; all hold the same."""
        return _tensors(self._each(lambda learner: _arrays(agent_tensors(learner.agent)), first=True)[0])

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Into every learner, weights and optimizers alike."""
        self._each(partial(_load, state=self._handed(tensors)))
        self._updates = updates_of(tensors)

    def pids(self) -> list[int]:
        """Process ids of the learners."""
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
        """In Ray's store, where learners in other processes take it from without copies."""
        return ray.put(_arrays(tensors)) if self._learners else _arrays(tensors)

    def _each(
        self, call: Callable[[TwinLearner], T], *, first: bool = False, timeout_s: float = CALL_TIMEOUT_S
    ) -> list[T]:
        """What `call` returns on every learner, or on the first.

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
    """One update on the learner's own part; this and what follows runs on every learner."""
    return learner.train(_taken(parts[rank()]), phase)


def _load(learner: TwinLearner, state: Handed) -> None:
    load_agent(learner.agent, _tensors(_taken(state)))


def _fit(learner: TwinLearner, batch: Handed) -> None:
    learner.agent.fit_critic_normalization(_tensors(_taken(batch)))


def _taken(handed: Handed) -> Arrays:
    return ray.get(handed) if isinstance(handed, ray.ObjectRef) else handed


def _reason(errors: Sequence[Exception], timeout_s: float) -> str:
    """Why answers are missing, in one line: the death of a process, before what the others say of it."""
    if not errors:
        return f"no answer within {timeout_s:g} s"
    error = next((each for each in errors if isinstance(each, RayActorError)), errors[0])
    cause = getattr(error, "cause", None) or error
    first = next(iter(str(cause).strip().splitlines()), "no reason given")
    return f"{type(cause).__name__}: {first[:_REASON_LENGTH]}"


def _joined(answers: list[Answer]) -> Updated:
    """The update of the whole batch from those of its equal parts, in their order."""
    updates = [answer.updated for answer in answers if answer.updated is not None]
    if len(updates) < len(answers):
        raise TwinRLError(next(answer.error for answer in answers if answer.updated is None))
    metrics = {name: float(np.mean([each.metrics[name] for each in updates])) for name in updates[0].metrics}
    return Updated(metrics=metrics, td_error=np.concatenate([each.td_error for each in updates]))


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    """What Ray carries without copies."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _tensors(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Copies: what came through Ray is read-only."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
