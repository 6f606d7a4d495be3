"""Batched acting: observations in, actions on the wire and readout embeddings out."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from policy.identity import joined_id, part_digest
from policy.language import encode_instruction
from policy.model import Parts, Policy
from policy.settings import PolicySettings
from protos.errors import CorruptData, InputError
from protos.schema import F32, GRIPPER_ACTION, Bools, Observation
from protos.settings import from_json


class PublishedWeights(Protocol):
    """What the weights service hands out. A part that did not change is the same object in the next version."""

    @property
    def version(self) -> int: ...
    @property
    def parts(self) -> Parts: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...


class _Part(NamedTuple):
    """A part as it was loaded."""

    arrays: Mapping[str, NDArray[np.float32]]
    digest: str


class BatchActor:
    """A policy with one instruction."""

    def __init__(self, policy: Policy, instruction: str, *, version: int = 0) -> None:
        self.instruction = instruction
        self._held: dict[str, _Part] = {}
        self._adopt(policy)
        self.version = version

    @classmethod
    def from_weights(cls, weights: PublishedWeights, instruction: str) -> "BatchActor":
        """An actor for weights just received, before any policy is at hand."""
        actor = cls(Policy(_settings(weights)), instruction)
        actor.load(weights)
        return actor

    @property
    def window(self) -> int:
        """Observations that a decision is made from."""
        return self.policy.settings.octo.window

    def load(self, weights: PublishedWeights) -> None:
        """Swaps in published weights; another network takes the place of this one when the settings differ.

        Raises CorruptData when the weights are not those that their settings name (`weights_id`), InputError when they
        do not fit their settings; the actor then keeps what it had.
        """
        settings = _settings(weights)
        held = self._held if settings == self.policy.settings else {}
        new = {
            name: _Part(arrays, part_digest(arrays))
            for name, arrays in weights.parts.items()
            if name not in held or held[name].arrays is not arrays
        }
        parts = {**held, **new}
        _check_identity(weights, parts)
        policy = self.policy if settings == self.policy.settings else Policy(settings).to(self.policy.device)
        policy.load_parts({name: part.arrays for name, part in new.items()})
        if policy is not self.policy:
            self._adopt(policy)
        elif "backbone" in new:
            self.backbone_id = policy.backbone_id
        self.version, self._held = weights.version, parts

    def _adopt(self, policy: Policy) -> None:
        tokens = encode_instruction(self.instruction, policy.settings)
        self.policy = policy.eval()
        self.backbone_id = policy.backbone_id
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
        """Actions (n, 7) and embeddings (n, D).

        A policy with a longer window than 1 takes windows: pictures (n, W, P, P, 3) and proprioception (n, W, 25), the
        newest last; `pad` (n, W) marks observations that stand in for those before the episode began. Of a chunk of
        actions the first is taken. `explore` is the deviation of Gaussian noise on every predicted number but the
        gripper command, one for all rows or one per row (n,). An observation with a NaN is an `InputError`: it must
        never reach an arm.
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


def _check_identity(weights: PublishedWeights, parts: Mapping[str, _Part]) -> None:
    promised = weights.settings.get("weights_id")
    found = joined_id({name: part.digest for name, part in parts.items()})
    if promised is not None and promised != found:
        raise CorruptData(f"version {weights.version} holds weights {found}, its settings promise {promised}")
