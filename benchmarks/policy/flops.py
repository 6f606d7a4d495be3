"""This module counts the arithmetic of a forward pass from the sizes.

One multiplication and one addition are 2 FLOPs. Only convolutions and products of matrices count; norms, activations
and softmax are left out, so a time over this floor holds them too. A masked attention score counts like any other: it
is computed all the same.
"""

import itertools

from torch import nn

from policy.octo.settings import OctoSettings

_PATCH = ((32, 4, 4, 0), (64, 3, 2, 1), (64, 3, 2, 1))
"""Channels, kernel, stride and padding of the light stem; its last is the wrist camera's alone."""


def tokens(octo: OctoSettings) -> int:
    """Length of the sequence."""
    task = octo.language_tokens
    repeated = task if octo.repeat_language else 0
    step = sum(_pictured(octo, camera)[0] for camera in ("side", "wrist")) + repeated + octo.readout_tokens
    return task + octo.window * step


def octo_flops(octo: OctoSettings, batch: int, *, readout_only: bool = True) -> int:
    """A forward pass; `readout_only`: the last layer computes the readout of the last time step alone."""
    counts = [_pictured(octo, camera) for camera in ("side", "wrist")]
    stems = octo.window * sum(flops for _, flops in counts)
    width = _stem_width(octo)
    projections = _linear(octo.language_tokens, octo.language_dim, octo.dim)
    projections += octo.window * sum(_linear(number, width, octo.dim) for number, _ in counts)
    length = tokens(octo)
    last = octo.readout_tokens if readout_only else length
    layers = (octo.layers - 1) * block_flops(octo, length, length) + block_flops(octo, length, last)
    return batch * (stems + projections + layers) + coordinate_flops(octo)


def coordinate_flops(octo: OctoSettings) -> int:
    """Returns the cost of what the light stems make of coordinates, once for all images of a pass."""
    if octo.stem != "patch_stem":
        return 0
    out, kernel = _PATCH[0][:2]
    return sum(_linear((px // kernel) ** 2, 2 * kernel * kernel, out) for px in (octo.side_px, octo.wrist_px))


def block_flops(octo: OctoSettings, length: int, rows: int) -> int:
    """One transformer block that computes the last `rows` of its `length` tokens."""
    dim = octo.dim
    asked = octo.heads * rows
    if asked < dim:  # few queries attend to the tokens themselves
        attention = 3 * _linear(rows, dim, dim) + 2 * _linear(asked, dim, length)
    else:
        attention = _linear(length, dim, 3 * dim) + 2 * _linear(rows, dim, length)
    return attention + _linear(rows, dim, dim) + 2 * _linear(rows, dim, octo.mlp_dim)


def entrance_flops(octo: OctoSettings) -> int:
    """Counts, for one observation, the layers whose input never has a gradient: first convolutions, language
    projection.
    """
    first = octo.window * sum(_stem(octo, camera)[1][0] for camera in ("side", "wrist"))
    return first + _linear(octo.language_tokens, octo.language_dim, octo.dim)


def linear_flops(module: nn.Module) -> int:
    """One row through every linear layer of a module, each passed once."""
    layers = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
    return sum(_linear(1, layer.in_features, layer.out_features) for layer in layers)


def _pictured(octo: OctoSettings, camera: str) -> tuple[int, int]:
    """Tokens of one image of a camera, and the FLOPs of its stem."""
    number, layers = _stem(octo, camera)
    return number, sum(layers)


def _stem(octo: OctoSettings, camera: str) -> tuple[int, list[int]]:
    """Tokens of one image, and the FLOPs of each convolution."""
    side = camera == "side"
    px = octo.side_px if side else octo.wrist_px
    channels = 6 if octo.goal_images else 3
    if octo.stem == "patch_stem":
        layers = list(_PATCH[: 2 if side else 3])
    else:
        layers = [(features, 3, 2, 1) for features in octo.stem_features] + [(octo.stem_out, 1, 1, 0)]
    flops = []
    widths = itertools.pairwise([channels, *(layer[0] for layer in layers)])
    for (_, kernel, stride, padding), (into, out) in zip(layers, widths, strict=True):
        px = (px + 2 * padding - kernel) // stride + 1
        flops.append(_linear(px * px, into * kernel * kernel, out))
    return px * px, flops


def _stem_width(octo: OctoSettings) -> int:
    return _PATCH[-1][0] if octo.stem == "patch_stem" else octo.stem_out


def _linear(rows: int, into: int, out: int) -> int:
    return 2 * rows * into * out
