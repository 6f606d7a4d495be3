"""This module turns images into tokens, with one independent stem per camera.

    small_stem   Octo's SmallStem16: 4 × [weight-standardised conv 3×3 /2, GroupNorm, ReLU], conv 1×1;
                 16 pixels a token
    patch_stem   for 64-pixel images: conv 4×4 /4, conv 3×3 /2 (one more /2 for the wrist), with x and y
                 coordinate channels; 8 pixels a token (wrist 16)

Both take bytes 0..255 (or floats in that range, after colour jitter) and scale them to [-1, 1]. The projection to the
transformer's width follows in `model`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from policy.octo.settings import STEM_GROUPS, OctoSettings
from protos.errors import InputError

_PATCH_STEM_OUT = 64
_PATCH = 4


class StandardizedConv(nn.Conv2d):
    """Convolves with kernels of zero mean and unit deviation (Qiao et al., arXiv 1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        axes = (1, 2, 3)
        weight = self.weight - self.weight.mean(axes, keepdim=True)
        weight = weight / (weight.std(axes, correction=0, keepdim=True) + 1e-5)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class SmallStem(nn.Sequential):
    """Is Octo's SmallStem16: images (n, P, P, C) in [-1, 1] to tokens (n, (P/16)², out)."""

    def __init__(self, channels: int, features: Sequence[int], out: int) -> None:
        layers: list[nn.Module] = []
        for width in features:
            layers += [
                StandardizedConv(channels, width, 3, 2, 1),
                nn.GroupNorm(STEM_GROUPS, width, eps=1e-6),
                nn.ReLU(),
            ]
            channels = width
        super().__init__(*layers, nn.Conv2d(channels, out, 1))

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.movedim(-1, 1)).flatten(2).transpose(1, 2)


class PatchStem(nn.Sequential):
    """Makes tokens of images and of each pixel's place in them."""

    def __init__(self, channels: int, *, coarse: bool) -> None:
        width = _PATCH_STEM_OUT
        layers = [nn.Conv2d(channels + 2, 32, _PATCH, _PATCH), nn.GELU(), nn.Conv2d(32, width, 3, 2, 1), nn.GELU()]
        if coarse:
            layers += [nn.Conv2d(width, width, 3, 2, 1), nn.GELU()]
        super().__init__(*layers)

    def forward(self, image: Tensor, coordinates: Tensor) -> Tensor:
        """Returns the tokens (n, tokens, 64) of images (n, P, P, C) in [-1, 1] and coordinates (1, P, P, 2).

        The first convolution is a product of patches with a matrix; what it makes of the coordinates is computed once
        for all images.
        """
        first, *rest = self
        seen, where = first.weight.movedim(1, -1).split([image.shape[-1], coordinates.shape[-1]], dim=-1)
        x = functional.linear(_patches(image), seen.flatten(1))
        x = (x + functional.linear(_patches(coordinates), where.flatten(1), first.bias)).movedim(-1, 1)
        for layer in rest:
            x = layer(x)
        return x.flatten(2).transpose(1, 2)


class ImageTokenizer(nn.Module):
    """Turns one camera's bytes (n, P, P, 3) into tokens (n, tokens, features), row by row."""

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
            self.stem = SmallStem(channels, settings.stem_features, settings.stem_out)
            self.features, pixels_per_token = settings.stem_out, 16
        self.tokens = (px // pixels_per_token) ** 2
        self.register_buffer("coordinates", _coordinates(px), persistent=False)

    def forward(self, image: Tensor, goal: Tensor | None = None) -> Tensor:
        """Returns the tokens; `goal` (n, P, P, 3) is the image of the finished task, black where there is none."""
        x = _scaled(image)
        if self.goal_images:
            x = torch.cat([x, torch.full_like(x, -1.0) if goal is None else _scaled(goal)], dim=-1)
        elif goal is not None:
            raise InputError(
                "goal images for a policy with octo.goal_images=False: its stems have no channels for them"
            )
        return self.stem(x, self.coordinates) if self.with_coordinates else self.stem(x)


def _scaled(image: Tensor) -> Tensor:
    """Returns bytes 0..255, or floats in that range, in [-1, 1]."""
    return image.float() / 127.5 - 1.0


def _patches(image: Tensor) -> Tensor:
    """Returns the numbers of each square of `_PATCH` pixels side by side: (n, P, P, c) to (n, P / 4, P / 4, 16 c)."""
    n, px, _, channels = image.shape
    side = px // _PATCH
    return image.reshape(n, side, _PATCH, side, _PATCH * channels).transpose(2, 3).flatten(3)


def _coordinates(px: int) -> Tensor:
    """Returns x and y of every pixel in [-1, 1], (1, P, P, 2)."""
    shape = torch.empty(1, px, px, 2)
    if shape.is_meta:  # what follows would load torch's compiler, a second of CPU time, for numbers that nobody reads
        return shape
    line = torch.linspace(-1.0, 1.0, px)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)[None]
