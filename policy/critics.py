"""This module holds the critics: an ensemble evaluated by batched matrix products, on readouts or on images.

CriticEnsemble takes features that the frozen backbone gave. ImageCritic has a small convolutional encoder of its own:

    side  ─► 4 × [conv 3×3 /2, GroupNorm, ReLU] ─► spatial embedding ─► Linear, LayerNorm, tanh ─┐
    wrist ─► the same with other weights ────────────────────────────────────────────────────────┼─► CriticEnsemble
    proprioception ──────────────────────────────────────────────────────────────────────────────┘

The encoder's layout follows SERL (arXiv 2401.16013), whose encoder is a pretrained ResNet-10; this one is trained from
scratch by the critic's loss, as in DrQ (arXiv 2004.13649).
"""

import itertools
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from protos.errors import InputError

_LIMIT = 5.0
_CAMERAS = ("side", "wrist")


class CriticEnsemble(nn.Module):
    """Computes Q_k(features, action) for k = 1 .. E: MLPs with LayerNorm and GELU on normalized features."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, action_dim: int, *, members: int = 2, width: int = 192) -> None:
        super().__init__()
        self.members = members
        sizes = (features + action_dim, width, width, 1)
        self.weights = nn.ParameterList(_uniform(members, into, out) for into, out in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(members, 1, out) for out in sizes[1:])
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def fit_normalization(self, features: Tensor) -> None:
        """Sets the feature statistics from rows (n, F); once, before training."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + 1e-3)

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """Returns Q (E, n) of features (n, F) and action (n, A)."""
        return self._evaluate(features, action, list(self.weights), list(self.biases))

    def fixed(self, features: Tensor, action: Tensor) -> Tensor:
        """Returns Q (E, n) whose gradient reaches the action and not the critic, for the actor's loss."""
        weights, biases = ([p.detach() for p in group] for group in (self.weights, self.biases))
        return self._evaluate(features, action, weights, biases)

    def _evaluate(self, features: Tensor, action: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        normed = ((features - self.mean) / self.std).clamp(-_LIMIT, _LIMIT)
        x = torch.cat([normed, action], dim=-1).expand(self.members, -1, -1)
        last = len(weights) - 1
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = torch.baddbmm(bias.expand(-1, 1, -1), x, weight)
            if i < last:
                x = functional.gelu(functional.layer_norm(x, x.shape[-1:]))
        return cast("Tensor", x[..., 0])


def _uniform(members: int, into: int, out: int) -> Tensor:
    return (2.0 * torch.rand(members, into, out) - 1.0) / math.sqrt(into)


@dataclass(frozen=True, kw_only=True)
class ConvSettings:
    """Holds the size of the encoder of one camera."""

    channels: tuple[int, ...] = (32, 64, 64, 64)
    """Each layer halves the image."""
    groups: int = 8
    """Groups of the group normalization."""
    spatial_features: int = 8
    """Learned weightings of the image's positions per channel."""
    bottleneck: int = 128
    """Numbers per camera."""

    def __post_init__(self) -> None:
        if not self.channels or any(c % self.groups for c in self.channels):
            raise InputError(f"conv.channels={self.channels}: must be multiples of conv.groups={self.groups}")
        if min(self.spatial_features, self.bottleneck) < 1:
            raise InputError(f"{self}: spatial_features and bottleneck must be at least 1")


class SpatialEmbedding(nn.Module):
    """Maps (n, C, h, w) to (n, C · k): k learned weighted sums over positions per channel, as in SERL."""

    def __init__(self, channels: int, side: int, features: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(channels, side * side, features) / side)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ncp,cpk->nck", x.flatten(2), self.kernel).flatten(1)


class ConvEncoder(nn.Sequential):
    """Maps images (n, 3, P, P) in [-1, 1] to (n, bottleneck) in [-1, 1]."""

    def __init__(self, px: int, settings: ConvSettings) -> None:
        layers: list[nn.Module] = []
        into, side = 3, px
        for out in settings.channels:
            layers += [nn.Conv2d(into, out, 3, 2, 1), nn.GroupNorm(settings.groups, out), nn.ReLU()]
            into, side = out, (side + 1) // 2
        layers += [
            SpatialEmbedding(into, side, settings.spatial_features),
            nn.Linear(into * settings.spatial_features, settings.bottleneck),
            nn.LayerNorm(settings.bottleneck),
            nn.Tanh(),
        ]
        super().__init__(*layers)


class ImageCritic(CriticEnsemble):
    """Computes Q_k of images, proprioception and action. `see` gives the features that the ensemble takes."""

    def __init__(
        self,
        settings: ConvSettings,
        *,
        pixels: tuple[int, int],
        proprio: int,
        action_dim: int,
        members: int,
        width: int,
    ) -> None:
        """`pixels` of the side and the wrist camera; `proprio` numbers of normalized proprioception."""
        super().__init__(2 * settings.bottleneck + proprio, action_dim, members=members, width=width)
        encoders = {name: ConvEncoder(px, settings) for name, px in zip(_CAMERAS, pixels, strict=True)}
        self.encoders = nn.ModuleDict(encoders)

    def fit_normalization(self, features: Tensor) -> None:
        """Does nothing: the encoders' outputs are bounded and the proprioception is normalized already."""

    def see(self, side: Tensor, wrist: Tensor, proprio: Tensor) -> Tensor:
        """Returns features (n, F) of the newest image of windows (n, W, P, P, 3), 0..255, and proprioception (n, p)."""
        views = [
            self.encoders[name](images[:, -1].movedim(-1, 1).float() / 127.5 - 1.0)
            for name, images in zip(_CAMERAS, (side, wrist), strict=True)
        ]
        return torch.cat([*views, proprio], dim=1)
