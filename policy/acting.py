"""This module acts on batches: observations in, actions on the wire and readout embeddings out."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from policy.language import encode_instruction
from policy.model import PARTS, Parts, Policy
from policy.settings import PolicySettings
from protos.errors import CorruptData, InputError
from protos.schema import F32, GRIPPER_ACTION, Bools, Observation
from protos.settings import from_json


class PublishedWeights(Protocol):
    """Is one version of published weights (`services.weights.Weights`)."""

    @property
    def version(self) -> int: ...
    @property
    def parts(self) -> Parts: ...
    @property
    def sha256(self) -> Mapping[str, str]:
        """The name of each part, which its bytes have passed."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """`policy`: its PolicySettings; `backbone_id`: the name of the backbone that the learner means, if frozen."""
        ...


class BatchActor:
    """Acts with a policy on one instruction."""

    def __init__(self, policy: Policy, instruction: str, *, version: int = 0) -> None:
        self._adopt(policy, instruction)
        self.version = version
        self._held = {"backbone": policy.sha256("backbone")}

    @classmethod
    def from_weights(cls, weights: PublishedWeights, instruction: str) -> "BatchActor":
        """Returns an actor for weights just received, before any policy is at hand; raises as `load` does."""
        actor = cls.__new__(cls)
        actor._adopt(Policy(_settings(weights)), instruction)
        actor._held = {}
        actor.load(weights)
        return actor

    @property
    def window(self) -> int:
        """Observations that a decision is made from."""
        return self.policy.settings.octo.window

    @property
    def backbone_id(self) -> str:
        """The sha256 of the backbone that the embeddings are readouts of, as it arrived."""
        return self._held["backbone"]

    def load(self, weights: PublishedWeights) -> None:
        """Takes published weights into use; another network replaces this one when the settings differ.

        Raises CorruptData when the backbone is not the one that the settings name, InputError when the weights do not
        fit their settings; the actor then keeps what it had. Parts that it holds already are not looked at.
        """
        settings = _settings(weights)
        _check_parts(weights)
        same = settings == self.policy.settings
        held = self._held if same else {}
        policy = self.policy if same else Policy(settings).to(self.policy.device)
        policy.load_parts(
            {name: part for name, part in weights.parts.items() if held.get(name) != weights.sha256[name]}
        )
        if policy is not self.policy:
            self._adopt(policy, self.instruction)
        self.version, self._held = weights.version, {**held, **weights.sha256}

    def _adopt(self, policy: Policy, instruction: str) -> None:
        tokens = encode_instruction(instruction, policy.settings)
        self.policy, self.instruction = policy.eval(), instruction
        self._language = torch.from_numpy(tokens)[None].to(policy.device)

    @torch.inference_mode()
    def act(
        self,
        observation: Observation,
        pad: Bools | None = None,
        *,
        explore: float | F32 = 0.0,
        generator: Generator | None = None,
    ) -> tuple[F32, F32]:
        """Returns actions (n, 7) and embeddings (n, D).

        A policy with a longer window than 1 takes windows: images (n, W, P, P, 3) and proprioception (n, W, 25), the
        newest last; `pad` (n, W) marks observations that stand in for those before the episode began. Of a chunk of
        actions the first is taken. `explore` is the deviation of Gaussian noise on every predicted number but the
        gripper command, one for all rows or one per row (n,). Raises InputError for an observation with a NaN, which
        must never reach an arm.
        """
        finite = np.isfinite(observation.proprio).reshape(len(observation), -1).all(axis=1)
        if not finite.all():
            rows = np.flatnonzero(~finite).tolist()
            raise InputError(f"NaN or infinity in the proprioception of observation rows {rows}")
        policy = self.policy
        side, wrist, proprio = (
            torch.from_numpy(array).to(policy.device)
            for array in (observation.side, observation.wrist, observation.proprio)
        )
        seen = None if pad is None or not pad.any() else torch.from_numpy(~pad).to(policy.device)
        embedding = policy.embed(side, wrist, self._language, seen)
        action = policy.sample(policy.features(embedding, proprio), generator)
        deviation = torch.as_tensor(explore, dtype=action.dtype, device=action.device).reshape(-1, 1)
        if bool((deviation > 0.0).any()):
            action = self._explore(action, deviation, generator)
        return policy.to_wire(action).cpu().numpy(), embedding.cpu().numpy()

    def _explore(self, action: Tensor, deviation: Tensor, generator: Generator | None) -> Tensor:
        """Adds noise to the rows (n, A) whose deviation (n, 1) or (1, 1) is above 0."""
        moves = [i for i, dim in enumerate(self.policy.settings.active_action_dims) if dim != GRIPPER_ACTION]
        noise = torch.randn(len(action), len(moves), generator=generator, device=action.device)
        action, limit = action.clone(), self.policy.action_limit
        noisy = (action[:, moves] + deviation * noise).clamp(-limit, limit)
        action[:, moves] = torch.where(deviation > 0.0, noisy, action[:, moves])
        return action


def _settings(weights: PublishedWeights) -> PolicySettings:
    if "policy" not in weights.settings:
        raise InputError("the published weights carry no policy settings under the key 'policy'")
    return from_json(PolicySettings, weights.settings["policy"], "policy")


def _check_parts(weights: PublishedWeights) -> None:
    if missing := [part for part in PARTS if part not in weights.parts]:
        raise InputError(f"version {weights.version} holds no part {missing[0]!r}, only {', '.join(weights.parts)}")
    promised, found = weights.settings.get("backbone_id"), weights.sha256["backbone"]
    if promised is not None and promised != found:
        raise CorruptData(
            f"version {weights.version} holds backbone {found[:16]}…, its settings promise {promised[:16]}…"
        )
