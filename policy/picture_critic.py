"""Critics with eyes of their own: a small convolutional encoder instead of the policy's readout.

    side  ─► 4 × [conv 3×3 /2, GroupNorm, ReLU] ─► spatial embedding ─► Linear, LayerNorm, tanh ─┐
    wrist ─► the same with other weights ────────────────────────────────────────────────────────┼─► CriticEnsemble
    proprioception ──────────────────────────────────────────────────────────────────────────────┘

The layout follows SERL (arXiv 2401.16013), whose encoder is a pretrained ResNet-10; this one is trained from scratch by
the critic's loss, as in DrQ (arXiv 2004.13649).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from policy.critic import CriticEnsemble
from protos.errors import InputError

_CAMERAS = ("side", "wrist")


@dataclass(frozen=True, kw_only=True)
class ConvSettings:
    """Size of the encoder of one camera."""

    channels: tuple[int, ...] = (32, 64, 64, 64)
    """Each layer halves the picture."""
    groups: int = 8
    """Of the group normalisation."""
    spatial_features: int = 8
    """Learned weightings of the picture's positions per channel."""
    bottleneck: int = 128
    """Numbers per camera."""

    def __post_init__(self) -> None:
        if not self.channels or any(c % self.groups for c in self.channels):
            raise InputError(f"conv.channels={self.channels}: must be multiples of conv.groups={self.groups}")
        if min(self.spatial_features, self.bottleneck) < 1:
            raise InputError(f"{self}: spatial_features and bottleneck must be at least 1")


class SpatialEmbedding(nn.Module):
    """(n, C, h, w) → (n, C · k): k learned weighted sums over positions per channel, as in SERL."""

    def __init__(self, channels: int, side: int, features: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(channels, side * side, features) / side)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ncp,cpk->nck", x.flatten(2), self.kernel).flatten(1)


class ConvEncoder(nn.Sequential):
    """Pictures (n, 3, P, P) in [-1, 1] → (n, bottleneck) in [-1, 1]."""

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


class PictureCritic(CriticEnsemble):
    """Q_k of pictures, proprioception and action. `see` gives the features that the ensemble takes."""

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
        """`pixels` of the side and the wrist camera; `proprio` numbers of normalised proprioception."""
        super().__init__(2 * settings.bottleneck + proprio, action_dim, members=members, width=width)
        encoders = {name: ConvEncoder(px, settings) for name, px in zip(_CAMERAS, pixels, strict=True)}
        self.encoders = nn.ModuleDict(encoders)

    def fit_normalization(self, features: Tensor) -> None:
        """Nothing to fit: the encoders' outputs are bounded and the proprioception is normalised already."""

    def see(self, side: Tensor, wrist: Tensor, proprio: Tensor) -> Tensor:
        """Features (n, F) of windows (n, W, P, P, 3), 0..255, of which the newest counts, and proprioception (n, p)."""
        views = [
            self.encoders[name](pictures[:, -1].movedim(-1, 1).float() / 127.5 - 1.0)
            for name, pictures in zip(_CAMERAS, (side, wrist), strict=True)
        ]
        return torch.cat([*views, proprio], dim=1)
