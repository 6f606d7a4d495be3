"""This module defines the policy, Octo's readout, proprioception and an action head, and gives it another head.

policy ─┬─ octo, language folder ────────────► kept
        └─ its head, its dataset's units ────► dropped      (`consistency_settings`, `on_backbone`)
consistency head, proprioception, auxiliary ─► new, as in the presets "small" and "base"
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from policy.heads import ConsistencyHead, ContinuousHead, DiffusionHead
from policy.normalize import Normalization
from policy.octo.model import Octo
from policy.settings import PROPRIO_WIDTH, PolicySettings, with_octo
from protos.errors import InputError
from protos.schema import ACTION_DIM
from protos.tensors import part_sha256

Parts = Mapping[str, Mapping[str, NDArray[np.float32]]]
Head = ConsistencyHead | DiffusionHead | ContinuousHead
_PARTS = {"backbone": ("octo",), "head": ("head", "auxiliary", "normalization", "proprio")}
"""Submodules that travel together: the backbone is frozen in RL and sent once, the head is sent often."""
PARTS = tuple(_PARTS)
_UNIT_FLOOR = 1e-8
"""Added to a scale that divides, as Octo does: a number that never moved has none."""


class Policy(nn.Module):
    """Joins Octo, normalization, action head and auxiliary head."""

    unit_scale: Tensor
    unit_offset: Tensor

    def __init__(self, settings: PolicySettings) -> None:
        super().__init__()
        self.settings = settings
        self.octo = Octo(settings.octo)
        self.normalization = Normalization()
        self.head = _head(settings)
        self.auxiliary = nn.Linear(settings.octo.dim, settings.auxiliary_labels)
        self.proprio = _proprio_encoder(settings)
        if settings.action_units is not None:
            self.register_buffer("unit_scale", torch.tensor(settings.action_units.scale), persistent=False)
            self.register_buffer("unit_offset", torch.tensor(settings.action_units.offset), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.auxiliary.weight.device

    def embed(self, side: Tensor, wrist: Tensor, language: Tensor, timestep_mask: Tensor | None = None) -> Tensor:
        """Returns the readout embedding (n, D) of images (n, P, P, 3), or (n, window, P, P, 3), in 0..255.

        `language` (n, L, language_dim), or (1, L, language_dim) for all rows; `timestep_mask` (n, window) is false
        where an observation is padding.
        """
        images = 5  # dimensions with a window
        if side.dim() < images:
            side, wrist = side[:, None], wrist[:, None]
        self._check_images(side, wrist)
        return self.octo(side, wrist, language.expand(len(side), -1, -1), timestep_mask)

    def _check_images(self, side: Tensor, wrist: Tensor) -> None:
        octo = self.settings.octo
        expected = [(octo.window, px, px, 3) for px in (octo.side_px, octo.wrist_px)]
        found = [tuple(side.shape[1:]), tuple(wrist.shape[1:])]
        if found != expected:
            raise InputError(f"images of shape {found}: this policy takes (window, height, width, 3) = {expected}")

    def features(self, embedding: Tensor, proprio: Tensor) -> Tensor:
        """Returns features (n, F): the embedding and the chosen, normalized numbers of raw proprioception.

        `proprio` is (n, 25), or (n, window, 25) with the newest observation last; the "mlp" encoder of a policy with a
        longer window needs the latter.
        """
        steps = 1 if self.settings.proprio_encoder == "plain" else self.settings.octo.window
        windows = proprio if proprio.dim() > 2 else proprio[:, None]
        if windows.shape[1] < steps:
            raise InputError(
                f"proprioception of shape {tuple(proprio.shape)}: this policy's encoder takes (n, window, 25) with "
                f"window={steps}"
            )
        chosen = self.normalization(windows[:, -steps:])[..., list(self.settings.proprio_indices)]
        return torch.cat([embedding, self.proprio(chosen.flatten(1))], dim=1)

    @property
    def action_horizon(self) -> int:
        """Actions that the head predicts at once."""
        return self.settings.action_horizon

    @property
    def action_limit(self) -> float:
        """Largest magnitude of a predicted number."""
        kind, settings = self.settings.action_head, self.settings
        if kind == "consistency":
            return 1.0
        return settings.diffusion.max_action if kind == "diffusion" else settings.continuous.max_action

    @property
    def consistency(self) -> ConsistencyHead:
        """The consistency head. Raises InputError when there is another."""
        if not isinstance(self.head, ConsistencyHead):
            raise InputError(
                f"action_head={self.settings.action_head!r}: reinforcement learning and consistency behaviour cloning "
                "need 'consistency'"
            )
        return self.head

    def sample(self, features: Tensor, generator: Generator | None = None, *, noise: Tensor | None = None) -> Tensor:
        """Returns one action per row, (n, A) within ±`action_limit`; the first of a chunk.

        `noise` of N(0, 1) takes the place of what would be drawn first: (n, A), or (n, h·A) for a diffusion head.
        """
        action = self.head.sample(features, generator, noise=noise)
        return action if action.dim() == features.dim() else action[:, 0]

    def to_wire(self, action: Tensor) -> Tensor:
        """Returns actions (n, A) as they travel, (n, 7), zeros where the policy does not act."""
        if self.settings.action_units is not None:
            action = action * self.unit_scale + self.unit_offset
        wire = action.new_zeros(*action.shape[:-1], ACTION_DIM)
        wire[..., list(self.settings.active_action_dims)] = action
        return wire

    def from_wire(self, wire: Tensor) -> Tensor:
        """Returns the numbers (..., A) of actions (..., 7) that the head is to predict."""
        action = wire[..., list(self.settings.active_action_dims)]
        if self.settings.action_units is None:
            return action
        return (action - self.unit_offset) / (self.unit_scale + _UNIT_FLOOR)

    def set_normalization(self, normalization: Normalization) -> None:
        """Takes over the statistics of `normalization`."""
        self.normalization.load_state_dict(normalization.state_dict())

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Yields the parameters that train with a frozen backbone: the head and its proprioception encoder."""
        return chain(self.head.parameters(), self.proprio.parameters())

    def freeze_backbone(self) -> None:
        """Stops the training of Octo and of the auxiliary head that shaped it; its embeddings may be cached now."""
        self.octo.requires_grad_(False)
        self.auxiliary.requires_grad_(False)

    def train_backbone(self, blocks: int | None = None) -> None:
        """Lets Octo train: all of it, or only its last `blocks` transformer blocks and the final norm."""
        stack = self.octo.transformer
        if blocks is not None and not 1 <= blocks <= len(stack.blocks):
            raise InputError(f"blocks={blocks}: this backbone has {len(stack.blocks)} transformer blocks to train")
        self.octo.requires_grad_(blocks is None)
        if blocks is not None:
            for module in (*stack.blocks[-blocks:], stack.norm):
                module.requires_grad_(True)
        self.auxiliary.requires_grad_(True)

    def sha256(self, part: str) -> str:
        """Returns the name of a part's tensors as they are now (`protos.tensors`); every call reads all of them.

        A part that travels as float32, as a frozen backbone does, arrives under this name. The backbone's is the
        `backbone_id` of the readouts that it gives.
        """
        return part_sha256(self.parts([part])[part])

    def parts(self, names: Collection[str] = PARTS) -> dict[str, dict[str, NDArray[np.float32]]]:
        """Returns the tensors of the parts named; on a CPU they are views of the network's."""
        return {part: {name: tensor.detach().cpu().numpy() for name, tensor in self._tensors(part)} for part in names}

    @torch.no_grad()
    def load_parts(self, parts: Parts) -> None:
        """Takes over the parts given; a part must be complete and fit, else nothing changes."""
        for part, arrays in parts.items():
            if part not in _PARTS:
                raise InputError(f"weights part {part!r}: choose one of {', '.join(_PARTS)}")
            _check_tensors(part, dict(self._tensors(part)), arrays)
        for part, arrays in parts.items():
            for name, tensor in self._tensors(part):
                tensor.copy_(torch.from_numpy(np.array(arrays[name], np.float32)))

    def _tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        for module in _PARTS[part]:
            for name, tensor in cast("nn.Module", getattr(self, module)).state_dict().items():
                yield f"{module}.{name}", tensor


def _head(settings: PolicySettings) -> Head:
    if settings.action_head == "consistency":
        return ConsistencyHead(settings.feature_dim, settings.action_dim, settings.head)
    if settings.action_head == "diffusion":
        return DiffusionHead(settings.feature_dim, settings.diffusion)
    return ContinuousHead(settings.feature_dim, settings.continuous, settings.action_head)


def _proprio_encoder(settings: PolicySettings) -> nn.Module:
    """Returns ConRFT's encoder of the stacked proprioception, or the identity."""
    if settings.proprio_encoder == "plain":
        return nn.Identity()
    numbers = settings.octo.window * len(settings.proprio_indices)
    return nn.Sequential(nn.Linear(numbers, PROPRIO_WIDTH), nn.LayerNorm(PROPRIO_WIDTH, eps=1e-6), nn.Tanh())


def _check_tensors(part: str, own: Mapping[str, Tensor], given: Mapping[str, NDArray[np.float32]]) -> None:
    wrong = sorted(own.keys() ^ given.keys()) or [
        name for name, tensor in own.items() if tuple(tensor.shape) != given[name].shape
    ]
    if wrong:
        raise InputError(
            f"weights part {part!r} is of another network: {len(wrong)} tensors differ, first {wrong[0]!r}"
        )


def consistency_settings(settings: PolicySettings) -> PolicySettings:
    """Returns settings with the same backbone and a consistency head. Raises InputError where it is one already.

    Such a policy predicts all seven numbers of the action as they are on the wire: there are no units to undo.
    """
    if settings.action_head == "consistency":
        raise InputError("the policy has a consistency head already, and a new one would know nothing: keep it")
    return replace(with_octo(settings.octo), language_folder=settings.language_folder)


def on_backbone(policy: Policy, settings: PolicySettings, *, seed: int) -> Policy:
    """Returns a policy with the backbone of `policy` and everything else new, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = Policy(settings)
    new.octo.load_state_dict(policy.octo.state_dict())
    return new.to(policy.device)


def described(old: PolicySettings, new: PolicySettings) -> str:
    """Returns one line that says which parts of a policy are kept and which are new."""
    octo, window = new.octo, new.octo.window
    language = "language encoder" if new.language_folder else "no language encoder (a stand-in)"
    dropped = f"{old.action_head} head" + ("" if old.action_units is None else " and its units")
    return (
        f"kept: backbone of {octo.layers} × {octo.dim}, window {window}; {language}. New: consistency head for "
        f"{new.action_dim} numbers, encoder of {window} × {len(new.proprio_indices)} numbers of proprioception, "
        f"auxiliary head. Dropped: {dropped}."
    )
