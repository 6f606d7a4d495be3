"""A splat rasterizer with gradients, for training.

means, quaternions, scales ──gsplat projection (torch)──► centres, conics, depth ─► sort ─► packed (M, 9)
packed ──numba, front to back──► canvas (H, W, 4)        gradients come back by replaying the same order

Colour of a pixel: C = Σ_i c_i α_i T_i with T_i = Π_{j<i} (1 - α_j) and α_i = o_i exp(-½ dᵀ Σ'⁻¹ d) (Kerbl et al. 2023,
eqs. 2-4). Both passes run splat by splat, so a splat's gradient stays in registers and nothing is written twice.
On a CUDA machine gsplat's own `rasterization` takes the place of all this.
"""

import math

import numba
import numpy as np
import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci
from torch import Tensor

from protos.schema import F32

NEAR_M = 0.015
FAINTEST = np.float32(1 / 255)
"""A splat's ellipse ends where its opacity falls below this."""
DENSEST = np.float32(0.999)
OPAQUE = np.float32(1e-4)
"""Transmittance below which a pixel is finished."""
_HALF, _ONE, _TWO = np.float32(0.5), np.float32(1), np.float32(2)
_OPTIONS = {"fastmath": True, "nogil": True, "cache": True, "error_model": "numpy"}


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
) -> Tensor:
    """The picture (height, width, 3) over black, differentiable in the first five arguments."""
    if means.is_cuda:
        import gsplat

        views, matrices = camera_from_base[None], intrinsics[None]
        images, _, _ = gsplat.rasterization(
            means, quaternions, scales, opacities, colours, views, matrices, width, height, near_plane=NEAR_M
        )
        return images[0]
    covariances, _ = _quat_scale_to_covar_preci(quaternions, scales, compute_preci=False)
    radii, centres, depths, conics, _ = _fully_fused_projection(
        means, covariances, camera_from_base[None], intrinsics[None], width, height, near_plane=NEAR_M
    )
    seen = torch.where((radii[0] > 0).all(-1) & (opacities.detach() > float(FAINTEST)))[0]
    seen = seen[torch.argsort(depths[0, seen].detach())]
    packed = torch.cat([centres[0, seen], conics[0, seen], opacities[seen, None], colours[seen]], 1)
    return Rasterize.apply(packed, width, height)[..., :3]


class Rasterize(torch.autograd.Function):
    """Packed splats (M, 9), nearest first: centre x, y [px], conic a, b, c, opacity, colour; to (H, W, 4)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, packed: Tensor, width: int, height: int) -> Tensor:
        splats = packed.detach().contiguous().numpy()
        canvas = _empty_canvas(width, height)
        _blend(splats, canvas)
        result = torch.from_numpy(canvas)
        ctx.save_for_backward(packed, result)
        return result

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        packed, canvas = ctx.saved_tensors
        splats = packed.detach().contiguous().numpy()
        height, width = canvas.shape[:2]
        result = np.zeros_like(splats)
        _replay(splats, canvas.numpy(), gradient.contiguous().numpy(), _empty_canvas(width, height), result)
        return torch.from_numpy(result), None, None


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
def _replay(splats: F32, final: F32, gradient: F32, canvas: F32, result: F32) -> None:
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
                        g_x -= (a * dx + b * dy) * slope
                        g_y -= (c * dy + b * dx) * slope
                alpha *= step
                step *= shrink
        out = result[i]
        out[0], out[1], out[2], out[3], out[4] = g_x, g_y, g_a, g_b, g_c
        out[5], out[6], out[7], out[8] = g_o / opacity, g_red, g_green, g_blue
