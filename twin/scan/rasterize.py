"""A splat rasterizer with gradients, for training.

means, quaternions, scales ──`projection`──► centres, conics, depth ─► sort ─► packed (M, 9)
packed ──numba, front to back──► canvas (H, W, 4)        gradients come back by replaying the same order

Colour of a pixel: C = Σ_i c_i α_i T_i with T_i = Π_{j<i} (1 - α_j) and α_i = o_i exp(-½ dᵀ Σ'⁻¹ d) (Kerbl et al. 2023,
eqs. 2-4). Both passes run splat by splat, so a splat's gradient stays in registers and nothing is written twice.
On a CUDA machine gsplat's own `rasterization` takes the place of all this.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor

from protos.schema import F32
from twin.scan.projection import FAINTEST, NEAR_M, project, unproject

DENSEST = np.float32(0.999)
OPAQUE = np.float32(1e-4)
"""Transmittance below which a pixel is finished."""
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1), np.float32(2)
_OPTIONS = {"fastmath": True, "nogil": True, "cache": True, "error_model": "numpy"}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture under training."""

    picture: Tensor
    """(height, width, 3) over black, differentiable."""
    motion: Callable[[], Tensor]
    """After the backward pass: Σ over pixels of |dL / d centre| (N, 2) [1/px] of every splat, 0 of unseen ones.

    Absolute values, because gradients of opposite direction on two sides of a splat that is too large would cancel (Ye
    et al., AbsGS, 2024).
    """


def render(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colours: Tensor,
    camera_from_base: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
) -> Drawn:
    """The splats seen by a camera, differentiable in the first five arguments."""
    splats = (means, quaternions, scales, opacities, colours)
    if means.is_cuda:
        import gsplat

        views, matrices = camera_from_base[None], intrinsics[None]
        images, _, details = gsplat.rasterization(
            *splats, views, matrices, width, height, near_plane=NEAR_M, packed=False, absgrad=True
        )
        return Drawn(picture=images[0], motion=lambda: details["means2d"].absgrad[0])
    motion = torch.zeros(len(means), 2)
    picture = Rasterize.apply(*splats, motion, camera_from_base, intrinsics, width, height)
    return Drawn(picture=picture[..., :3], motion=lambda: motion)


class Rasterize(torch.autograd.Function):
    """Splats to a canvas (H, W, 4) of colour and transmittance."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        means: Tensor,
        quaternions: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colours: Tensor,
        motion: Tensor,
        camera_from_base: Tensor,
        intrinsics: Tensor,
        width: int,
        height: int,
    ) -> Tensor:
        shapes = (means, quaternions, scales)
        arrays = [t.detach().contiguous().numpy() for t in (*shapes, opacities, colours, camera_from_base, intrinsics)]
        packed = np.empty((len(means), 9), np.float32)
        depths, index = np.empty(len(means), np.float32), np.empty(len(means), np.int64)
        count = project(*arrays, width, height, packed, depths, index)
        order = np.argsort(depths[:count])
        packed, index = packed[order], index[order]
        canvas = _empty_canvas(width, height)
        _blend(packed, canvas)
        ctx.arrays, ctx.packed, ctx.index, ctx.canvas, ctx.motion = arrays, packed, index, canvas, motion
        return torch.from_numpy(canvas)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        means, quaternions, scales, opacities, colours, pose, intrinsics = ctx.arrays
        height, width = ctx.canvas.shape[:2]
        result, motion = np.zeros_like(ctx.packed), np.zeros((len(ctx.packed), 2), np.float32)
        canvas = _empty_canvas(width, height)
        _replay(ctx.packed, ctx.canvas, gradient.contiguous().numpy(), canvas, result, motion)
        found = [np.zeros_like(array) for array in (means, quaternions, scales, opacities, colours)]
        shapes = (means, quaternions, scales, pose, intrinsics, width, height)
        unproject(*shapes, ctx.packed, result, ctx.index, *found[:3])
        found[3][ctx.index], found[4][ctx.index] = result[:, 5], result[:, 6:]
        ctx.motion.numpy()[ctx.index] = motion
        return *(torch.from_numpy(array) for array in found), None, None, None, None, None


def _empty_canvas(width: int, height: int) -> F32:
    canvas = np.zeros((height, width, 4), np.float32)
    canvas[..., 3] = 1
    return canvas


@numba.njit(inline="always", **_OPTIONS)
def _rows(splat: F32, height: int) -> tuple[int, int, float]:
    """First and last row of a splat's ellipse, and -log of its faintest visible Gaussian value."""
    cut = math.log(splat[5] / FAINTEST)
    half = math.sqrt(_TWO * cut * splat[2] / (splat[2] * splat[4] - splat[3] * splat[3]))
    middle = splat[1] - _HALF
    return max(0, math.ceil(middle - half)), min(height - 1, math.floor(middle + half)), cut


@numba.njit(inline="always", **_OPTIONS)
def _columns(splat: F32, dy: np.float32, cut: float, width: int) -> tuple[int, int]:
    """First and last column of the ellipse in the row `dy` below its centre; empty when first > last."""
    a, b, c = splat[2], splat[3], splat[4]
    root = _TWO * a * cut - dy * dy * (a * c - b * b)
    if root <= 0:
        return 1, 0
    half, middle = math.sqrt(root) / a, splat[0] - b * dy / a - _HALF
    return max(0, math.ceil(middle - half)), min(width - 1, math.floor(middle + half))


@numba.njit(**_OPTIONS)
def _blend(splats: F32, canvas: F32) -> None:
    height, width = canvas.shape[0], canvas.shape[1]
    for i in range(splats.shape[0]):
        splat = splats[i]
        a, b, c, opacity = splat[2], splat[3], splat[4], splat[5]
        red, green, blue = splat[6], splat[7], splat[8]
        first_row, last_row, cut = _rows(splat, height)
        shrink = math.exp(-a)
        for y in range(first_row, last_row + 1):
            dy = np.float32(y) + _HALF - splat[1]
            first, last = _columns(splat, dy, cut, width)
            dx = np.float32(first) + _HALF - splat[0]
            # Along a row the Gaussian follows from its neighbour by two multiplications.
            alpha = opacity * math.exp(-(_HALF * (a * dx * dx + c * dy * dy) + b * dx * dy))
            step = math.exp(-(a * dx + _HALF * a + b * dy))
            for x in range(first, last + 1):
                pixel = canvas[y, x]
                if pixel[3] > OPAQUE:
                    weight = min(alpha, DENSEST) * pixel[3]
                    pixel[0] += weight * red
                    pixel[1] += weight * green
                    pixel[2] += weight * blue
                    pixel[3] -= weight
                alpha *= step
                step *= shrink


@numba.njit(**_OPTIONS)
def _replay(splats: F32, final: F32, gradient: F32, canvas: F32, result: F32, motion: F32) -> None:
    """dL/dα_i = T_i (c_i · g) - (R_i · g + T_end g_T) / (1 - α_i), where R_i is the colour still to come behind i."""
    height, width = canvas.shape[0], canvas.shape[1]
    for i in range(splats.shape[0]):
        splat = splats[i]
        a, b, c, opacity = splat[2], splat[3], splat[4], splat[5]
        red, green, blue = splat[6], splat[7], splat[8]
        first_row, last_row, cut = _rows(splat, height)
        shrink = math.exp(-a)
        zero = np.float32(0)
        g_x, g_y, g_a, g_b, g_c, g_o, g_red, g_green, g_blue = zero, zero, zero, zero, zero, zero, zero, zero, zero
        across, down = zero, zero
        for y in range(first_row, last_row + 1):
            dy = np.float32(y) + _HALF - splat[1]
            first, last = _columns(splat, dy, cut, width)
            dx = np.float32(first) + _HALF - splat[0]
            alpha = opacity * math.exp(-(_HALF * (a * dx * dx + c * dy * dy) + b * dx * dy))
            step = math.exp(-(a * dx + _HALF * a + b * dy))
            for x in range(first, last + 1):
                pixel, g = canvas[y, x], gradient[y, x]
                before = pixel[3]
                if before > OPAQUE:
                    weight = min(alpha, DENSEST) * before
                    pixel[0] += weight * red
                    pixel[1] += weight * green
                    pixel[2] += weight * blue
                    pixel[3] -= weight
                    g_red += weight * g[0]
                    g_green += weight * g[1]
                    g_blue += weight * g[2]
                    if alpha < DENSEST:
                        end = final[y, x]
                        behind = (end[0] - pixel[0]) * g[0] + (end[1] - pixel[1]) * g[1] + (end[2] - pixel[2]) * g[2]
                        g_alpha = before * (red * g[0] + green * g[1] + blue * g[2])
                        g_alpha -= (behind + end[3] * g[3]) / (_ONE - alpha)
                        g_o += alpha * g_alpha
                        slope = -alpha * g_alpha
                        dx = np.float32(x) + _HALF - splat[0]
                        g_a += _HALF * dx * dx * slope
                        g_b += dx * dy * slope
                        g_c += _HALF * dy * dy * slope
                        pull_x, pull_y = (a * dx + b * dy) * slope, (c * dy + b * dx) * slope
                        g_x -= pull_x
                        g_y -= pull_y
                        across += abs(pull_x)
                        down += abs(pull_y)
                alpha *= step
                step *= shrink
        out = result[i]
        out[0], out[1], out[2], out[3], out[4] = g_x, g_y, g_a, g_b, g_c
        out[5], out[6], out[7], out[8] = g_o / opacity, g_red, g_green, g_blue
        motion[i, 0], motion[i, 1] = across, down
