"""The policy: Octo's readout, proprioception, the consistency head."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from policy.heads import ConsistencyHead
from policy.normalize import Normalization
from policy.octo.model import Octo
from policy.settings import PolicySettings
from protos.errors import InputError
from protos.schema import ACTION_DIM

Parts = Mapping[str, Mapping[str, NDArray[np.float32]]]
_PARTS = {"backbone": ("octo",), "head": ("head", "auxiliary", "normalization")}
"""Which submodules travel together: the backbone is frozen in RL and sent once, the head is sent often."""


class Policy(nn.Module):
    """Octo, normalisation, consistency head, auxiliary head."""

    def __init__(self, settings: PolicySettings) -> None:
        super().__init__()
        self.settings = settings
        self.octo = Octo(settings.octo)
        self.normalization = Normalization()
        self.head = ConsistencyHead(settings.feature_dim, settings.action_dim, settings.head)
        self.auxiliary = nn.Linear(settings.octo.dim, settings.auxiliary_labels)

    @property
    def device(self) -> torch.device:
        return self.auxiliary.weight.device

    def embed(self, side: Tensor, wrist: Tensor, language: Tensor, timestep_mask: Tensor | None = None) -> Tensor:
        """The readout embedding (n, D) of pictures (n, P, P, 3), or (n, window, P, P, 3), holding 0..255.

        `language` (n, L, 768), or (1, L, 768) for all rows.
        """
        pictures = 5  # dimensions with a window
        if side.dim() < pictures:
            side, wrist = side[:, None], wrist[:, None]
        self._check_pictures(side, wrist)
        return self.octo(side, wrist, language.expand(len(side), -1, -1), timestep_mask)

    def _check_pictures(self, side: Tensor, wrist: Tensor) -> None:
        octo = self.settings.octo
        expected = [(octo.window, px, px, 3) for px in (octo.side_px, octo.wrist_px)]
        found = [tuple(side.shape[1:]), tuple(wrist.shape[1:])]
        if found != expected:
            raise InputError(f"pictures of shape {found}: this policy takes (window, height, width, 3) = {expected}")

    def features(self, embedding: Tensor, proprio: Tensor) -> Tensor:
        """(n, F): the embedding and the chosen, normalised numbers of raw proprioception (n, 19)."""
        chosen = self.normalization(proprio)[:, list(self.settings.proprio_indices)]
        return torch.cat([embedding, chosen], dim=1)

    def sample(self, features: Tensor, generator: Generator | None = None) -> Tensor:
        """One action per row, (n, A) in [-1, 1]."""
        return self.head.sample(features, generator)

    def to_wire(self, action: Tensor) -> Tensor:
        """(n, A) → (n, 7), zeros where the policy does not act."""
        wire = action.new_zeros(len(action), ACTION_DIM)
        wire[:, list(self.settings.active_action_dims)] = action
        return wire

    def from_wire(self, wire: Tensor) -> Tensor:
        """(n, 7) → (n, A)."""
        return wire[:, list(self.settings.active_action_dims)]

    def set_normalization(self, normalization: Normalization) -> None:
        self.normalization.load_state_dict(normalization.state_dict())

    def freeze_backbone(self) -> None:
        """Stops the training of Octo and of the auxiliary head that shaped it; its embeddings may be cached now."""
        self.octo.requires_grad_(False)
        self.auxiliary.requires_grad_(False)

    @property
    def backbone_id(self) -> str:
        """16 hex digits of the sha256 over the backbone's tensors."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.octo.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        return digest.hexdigest()[:16]

    def parts(self, names: Collection[str] = tuple(_PARTS)) -> dict[str, dict[str, NDArray[np.float32]]]:
        """The tensors of the parts named, grouped by how often they travel; views of the network's on a CPU."""
        return {part: {name: tensor.detach().cpu().numpy() for name, tensor in self._tensors(part)} for part in names}

    @torch.no_grad()
    def load_parts(self, parts: Parts) -> None:
        """Takes over the parts given; a part must be complete and fit."""
        for part, arrays in parts.items():
            if part not in _PARTS:
                raise InputError(f"weights part {part!r}: choose one of {', '.join(_PARTS)}")
            own = dict(self._tensors(part))
            _check_tensors(part, own, arrays)
            for name, tensor in own.items():
                tensor.copy_(torch.from_numpy(np.array(arrays[name], np.float32)))

    def _tensors(self, part: str) -> Iterator[tuple[str, Tensor]]:
        for module in _PARTS[part]:
            for name, tensor in cast("nn.Module", getattr(self, module)).state_dict().items():
                yield f"{module}.{name}", tensor


def _check_tensors(part: str, own: Mapping[str, Tensor], given: Mapping[str, NDArray[np.float32]]) -> None:
    wrong = sorted(own.keys() ^ given.keys()) or [
        name for name, tensor in own.items() if tuple(tensor.shape) != given[name].shape
    ]
    if wrong:
        raise InputError(
            f"weights part {part!r} is of another network: {len(wrong)} tensors differ, first {wrong[0]!r}"
        )
