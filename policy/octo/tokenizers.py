"""Pictures to tokens. One independent stem per camera.

    small_stem   Octo's SmallStem16: 4 × [weight-standardised conv 3×3 /2, GroupNorm, ReLU], conv 1×1;
                 16 pixels a token
    patch_stem   for 64-pixel pictures: conv 4×4 /4, conv 3×3 /2 (one more /2 for the wrist), with x and y
                 coordinate channels; 8 pixels a token (wrist 16)

Both take bytes 0..255 (or floats in that range, after colour jitter) and scale them to [-1, 1]. The projection to the
transformer's width follows in `model`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from policy.octo.settings import OctoSettings

_SMALL_STEM_FEATURES = (32, 96, 192, 384)
_SMALL_STEM_OUT = 512
_PATCH_STEM_OUT = 64


class StandardizedConv(nn.Conv2d):
    """A convolution whose kernels have zero mean and unit deviation (Qiao et al., arXiv 1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        axes = (1, 2, 3)
        weight = self.weight - self.weight.mean(axes, keepdim=True)
        weight = weight / (weight.std(axes, correction=0, keepdim=True) + 1e-5)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class SmallStem(nn.Sequential):
    """SmallStem16: (n, C, P, P) → (n, 512, P/16, P/16)."""

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for features in _SMALL_STEM_FEATURES:
            layers += [StandardizedConv(channels, features, 3, 2, 1), nn.GroupNorm(32, features, eps=1e-6), nn.ReLU()]
            channels = features
        super().__init__(*layers, nn.Conv2d(channels, _SMALL_STEM_OUT, 1))


class PatchStem(nn.Sequential):
    """(n, C + 2, P, P) → (n, 64, P/8, P/8), or P/16 with `coarse`."""

    def __init__(self, channels: int, *, coarse: bool) -> None:
        width = _PATCH_STEM_OUT
        layers = [nn.Conv2d(channels + 2, 32, 4, 4), nn.GELU(), nn.Conv2d(32, width, 3, 2, 1), nn.GELU()]
        if coarse:
            layers += [nn.Conv2d(width, width, 3, 2, 1), nn.GELU()]
        super().__init__(*layers)


class ImageTokenizer(nn.Module):
    """One camera: bytes (n, P, P, 3) → tokens (n, tokens, features), row by row."""

    coordinates: Tensor

    def __init__(self, settings: OctoSettings, px: int, *, coarse: bool) -> None:
        super().__init__()
        self.goal_images = settings.goal_images
        self.with_coordinates = settings.stem == "patch_stem"
        channels = 6 if settings.goal_images else 3
        if self.with_coordinates:
            self.stem: nn.Module = PatchStem(channels, coarse=coarse)
            self.features, pixels_per_token = _PATCH_STEM_OUT, 16 if coarse else 8
        else:
            self.stem = SmallStem(channels)
            self.features, pixels_per_token = _SMALL_STEM_OUT, 16
        self.tokens = (px // pixels_per_token) ** 2
        self.register_buffer("coordinates", _coordinates(px), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = image.movedim(-1, 1).float() / 127.5 - 1.0
        layers = [x]
        if self.goal_images:
            layers.append(torch.full_like(x, -1.0))  # no goal is a black picture
        if self.with_coordinates:
            layers.append(self.coordinates.expand(len(x), -1, -1, -1))
        return self.stem(torch.cat(layers, dim=1)).flatten(2).transpose(1, 2)


def _coordinates(px: int) -> Tensor:
    """(1, 2, P, P): x and y of every pixel in [-1, 1]."""
    line = torch.linspace(-1.0, 1.0, px)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y])[None]
