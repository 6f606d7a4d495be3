"""Batched acting: observations in, actions on the wire and readout embeddings out."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from policy.language import encode_instruction
from policy.model import Parts, Policy
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.schema import F32, GRIPPER_ACTION, Observation
from protos.settings import from_json


class PublishedWeights(Protocol):
    """What the weights service hands out."""

    @property
    def version(self) -> int: ...
    @property
    def parts(self) -> Parts: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...


class BatchActor:
    """A policy with one instruction. Takes window-1 policies: the frozen backbone sees one observation at a time."""

    def __init__(self, policy: Policy, instruction: str, *, version: int = 0) -> None:
        self.instruction = instruction
        self._adopt(policy)
        self.version = version

    @classmethod
    def from_weights(cls, weights: PublishedWeights, instruction: str) -> "BatchActor":
        """An actor for weights just received, before any policy is at hand."""
        actor = cls(Policy(_settings(weights)), instruction)
        actor.load(weights)
        return actor

    def load(self, weights: PublishedWeights) -> None:
        """Swaps in published weights; another network takes the place of this one when the settings differ."""
        settings = _settings(weights)
        if settings != self.policy.settings:
            self._adopt(Policy(settings).to(self.policy.device))
        self.policy.load_parts(weights.parts)
        self.version, self.backbone_id = weights.version, self.policy.backbone_id

    def _adopt(self, policy: Policy) -> None:
        if policy.settings.octo.window != 1:
            raise InputError(f"octo.window={policy.settings.octo.window}: acting takes policies with window 1")
        self.policy = policy.eval()
        self.backbone_id = policy.backbone_id
        tokens = encode_instruction(self.instruction, policy.settings)
        self._language = torch.from_numpy(tokens)[None].to(policy.device)

    @torch.inference_mode()
    def act(
        self, observation: Observation, *, explore: float = 0.0, generator: Generator | None = None
    ) -> tuple[F32, F32]:
        """Actions (n, 7) and embeddings (n, D).

        `explore` is the deviation of Gaussian noise on every predicted number but the gripper command. An observation
        with a NaN is an `InputError`: it must never reach an arm.
        """
        bad = observation.bad_rows()
        if len(bad):
            raise InputError(f"NaN or infinity in the proprioception of observation rows {bad.tolist()}")
        policy = self.policy
        side, wrist, proprio = (
            torch.from_numpy(array).to(policy.device)
            for array in (observation.side, observation.wrist, observation.proprio)
        )
        embedding = policy.embed(side, wrist, self._language)
        action = policy.sample(policy.features(embedding, proprio), generator)
        if explore > 0.0:
            action = self._explore(action, explore, generator)
        return policy.to_wire(action).cpu().numpy(), embedding.cpu().numpy()

    def _explore(self, action: Tensor, explore: float, generator: Generator | None) -> Tensor:
        moves = [i for i, dim in enumerate(self.policy.settings.active_action_dims) if dim != GRIPPER_ACTION]
        noise = torch.randn(len(action), len(moves), generator=generator, device=action.device)
        action = action.clone()
        action[:, moves] = (action[:, moves] + explore * noise).clamp(-1.0, 1.0)
        return action


def _settings(weights: PublishedWeights) -> PolicySettings:
    if "policy" not in weights.settings:
        raise InputError("the published weights carry no policy settings under the key 'policy'")
    return from_json(PolicySettings, weights.settings["policy"], "policy")
