"""This module draws splats with gradients, for training.

means, quaternions, scales ────`project`────► centres, conics, depth ─► sort ─► packed (M, 9)
packed ──numba, front to back──► canvas (H, W, 4)        gradients come back by replaying the same order

Colour of a pixel: C = Σ_i c_i α_i T_i with T_i = Π_{j<i} (1 - α_j) and α_i = o_i exp(-½ dᵀ Σ'⁻¹ d) (Kerbl et al. 2023,
eqs. 2-4). Both passes run splat by splat, so a splat's gradient stays in registers and nothing is written twice.
On a CUDA machine gsplat's own `rasterization` takes the place of all this.

The projection is EWA splatting as in Kerbl et al. 2023, section 4:

    mean m ─► t = W m + d ─► u = fx t_x / t_z + cx                  conic = Σ'⁻¹
    q, s   ─► Σ' = (J W R(q) S)(J W R(q) S)ᵀ + 0.3 I ───────────────► a, b, c        J: Jacobian of the projection at t

Conventions are those of gsplat and `twin.render`: 0.3 px² of blur; far outside the image J is evaluated at most 15 %
beyond its border. `unproject` is the transpose of `project`'s derivative, written out:

    dΣ' = -C dC C,   dB = 2 dΣ' B for B = J W R S,   dS = (J W R)ᵀ dB,   d(J W) = dB S Rᵀ,   dR = (J W)ᵀ dB S
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protos.schema import F32

NEAR_M = 0.015
FAINTEST = np.float32(1 / 255)
"""Opacity at which a splat's ellipse ends."""
BLUR = np.float32(0.3)
DENSEST = np.float32(0.999)
OPAQUE = np.float32(1e-4)
"""Transmittance below which a pixel is finished."""
_BORDER, _HALF, _ONE, _TWO = np.float32(0.15), np.float32(0.5), np.float32(1), np.float32(2)
_OPTIONS = {"fastmath": True, "nogil": True, "cache": True, "error_model": "numpy"}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """An image drawn during training."""

    image: Tensor
    """Colours (height, width, 3) over black, differentiable."""
    motion: Callable[[], Tensor]
    """Function that returns, after the backward pass, Σ over pixels of |dL / d centre| (N, 2) [1/px].

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
    """Draws splats as a camera sees them, differentiable in the first five arguments."""
    splats = (means, quaternions, scales, opacities, colours)
    if means.is_cuda:
        import gsplat

        views, matrices = camera_from_base[None], intrinsics[None]
        images, _, details = gsplat.rasterization(
            *splats, views, matrices, width, height, near_plane=NEAR_M, packed=False, absgrad=True
        )
        return Drawn(image=images[0], motion=lambda: details["means2d"].absgrad[0])
    motion = torch.zeros(len(means), 2)
    image = Rasterize.apply(*splats, motion, camera_from_base, intrinsics, width, height)
    return Drawn(image=image[..., :3], motion=lambda: motion)


class Rasterize(torch.autograd.Function):
    """The differentiable map from splats to a canvas (H, W, 4) of colour and transmittance."""

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
    """Returns first and last row of a splat's ellipse, and -log of its faintest visible Gaussian value."""
    cut = math.log(splat[5] / FAINTEST)
    half = math.sqrt(_TWO * cut * splat[2] / (splat[2] * splat[4] - splat[3] * splat[3]))
    middle = splat[1] - _HALF
    return max(0, math.ceil(middle - half)), min(height - 1, math.floor(middle + half)), cut


@numba.njit(inline="always", **_OPTIONS)
def _columns(splat: F32, dy: np.float32, cut: float, width: int) -> tuple[int, int]:
    """Returns first and last column of the ellipse in the row `dy` below its centre; empty when first > last."""
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
    """Adds up dL/dα_i = T_i (c_i · g) - (R_i · g + T_end g_T) / (1 - α_i); R_i is the colour still to come behind i."""
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


@numba.njit(inline="always", **_OPTIONS)
def _rotation(q: F32, R: F32) -> np.float32:
    """Writes the rotation (3, 3) of a quaternion wxyz of any length; returns 1 / length."""
    inverse = _ONE / math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    w, x, y, z = q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse
    R[0, 0], R[0, 1], R[0, 2] = _ONE - _TWO * (y * y + z * z), _TWO * (x * y - w * z), _TWO * (x * z + w * y)
    R[1, 0], R[1, 1], R[1, 2] = _TWO * (x * y + w * z), _ONE - _TWO * (x * x + z * z), _TWO * (y * z - w * x)
    R[2, 0], R[2, 1], R[2, 2] = _TWO * (x * z - w * y), _TWO * (y * z + w * x), _ONE - _TWO * (x * x + y * y)
    return inverse


@numba.njit(inline="always", **_OPTIONS)
def _clamped(value: np.float32, focal: np.float32, centre: np.float32, size: int) -> np.float32:
    low, high = -(centre + _BORDER * size) / focal, (size - centre + _BORDER * size) / focal
    return min(max(value, low), high)


@numba.njit(inline="always", **_OPTIONS)
def _linearised(t: F32, W: F32, K: F32, width: int, height: int, A: F32) -> None:
    """Writes J W (2, 3) at the camera point t."""
    for row in range(2):
        focal = K[row, row]
        slope = _clamped(t[row] / t[2], focal, K[row, 2], width if row == 0 else height)
        for k in range(3):
            A[row, k] = focal / t[2] * (W[row, k] - slope * W[2, k])


@numba.njit(**_OPTIONS)
def project(
    means: F32, quaternions: F32, scales: F32, opacities: F32, colours: F32, W: F32, K: F32, width: int, height: int,
    packed: F32, depths: F32, index: NDArray[np.int64],
) -> int:  # fmt: skip
    """Writes centre u, v [px], conic a, b, c, opacity, colour of what is visible to `packed` (N, 9); returns how many.

    W is camera_from_base (3 or 4, 4), K the intrinsics (3, 3); `depths` and `index` tell depth [m] and row of each.
    """
    count = 0
    R, A, B, t = (
        np.empty((3, 3), np.float32),
        np.empty((2, 3), np.float32),
        np.empty((2, 3), np.float32),
        np.empty(3, np.float32),
    )
    for i in range(means.shape[0]):
        for k in range(3):
            t[k] = W[k, 0] * means[i, 0] + W[k, 1] * means[i, 1] + W[k, 2] * means[i, 2] + W[k, 3]
        if t[2] < NEAR_M or opacities[i] <= FAINTEST:
            continue
        _rotation(quaternions[i], R)
        _linearised(t, W, K, width, height, A)
        for row in range(2):
            for k in range(3):
                B[row, k] = (A[row, 0] * R[0, k] + A[row, 1] * R[1, k] + A[row, 2] * R[2, k]) * scales[i, k]
        xx = B[0, 0] * B[0, 0] + B[0, 1] * B[0, 1] + B[0, 2] * B[0, 2] + BLUR
        xy = B[0, 0] * B[1, 0] + B[0, 1] * B[1, 1] + B[0, 2] * B[1, 2]
        yy = B[1, 0] * B[1, 0] + B[1, 1] * B[1, 1] + B[1, 2] * B[1, 2] + BLUR
        determinant = xx * yy - xy * xy
        u, v = K[0, 0] * t[0] / t[2] + K[0, 2], K[1, 1] * t[1] / t[2] + K[1, 2]
        reach = _TWO * math.log(opacities[i] / FAINTEST)
        half_u, half_v = math.sqrt(reach * xx), math.sqrt(reach * yy)
        outside = u + half_u < _HALF or u - half_u > width - _HALF or v + half_v < _HALF or v - half_v > height - _HALF
        if outside or determinant < np.float32(1e-10):
            continue
        out, inverse = packed[count], _ONE / determinant
        out[0], out[1], out[2], out[3], out[4] = u, v, yy * inverse, -xy * inverse, xx * inverse
        out[5], out[6], out[7], out[8] = opacities[i], colours[i, 0], colours[i, 1], colours[i, 2]
        depths[count], index[count] = t[2], i
        count += 1
    return count


@numba.njit(**_OPTIONS)
def unproject(
    means: F32, quaternions: F32, scales: F32, W: F32, K: F32, width: int, height: int,
    packed: F32, gradient: F32, index: NDArray[np.int64], to_means: F32, to_quaternions: F32, to_scales: F32,
) -> None:  # fmt: skip
    """Carries gradients of the packed centres and conics (M, 9) back to means, quaternions and scales (N, ...)."""
    R, A, t = np.empty((3, 3), np.float32), np.empty((2, 3), np.float32), np.empty(3, np.float32)
    V, dV, dA, D, S = (np.empty((2, 3), np.float32), np.empty((2, 3), np.float32), np.empty((2, 3), np.float32),
                       np.empty((3, 3), np.float32), np.empty((2, 2), np.float32))  # fmt: skip
    for m in range(packed.shape[0]):
        i, g = index[m], gradient[m]
        for k in range(3):
            t[k] = W[k, 0] * means[i, 0] + W[k, 1] * means[i, 1] + W[k, 2] * means[i, 2] + W[k, 3]
        inverse = _rotation(quaternions[i], R)
        _linearised(t, W, K, width, height, A)
        a, b, c = packed[m, 2], packed[m, 3], packed[m, 4]
        # dΣ' = -C dC C; an off-diagonal entry of dC is half of the gradient of b
        p, q, r, s = (
            a * g[2] + b * _HALF * g[3],
            a * _HALF * g[3] + b * g[4],
            b * g[2] + c * _HALF * g[3],
            b * _HALF * g[3] + c * g[4],
        )
        S[0, 0], S[0, 1], S[1, 0], S[1, 1] = -(p * a + q * b), -(p * b + q * c), -(r * a + s * b), -(r * b + s * c)
        for row in range(2):
            for k in range(3):
                V[row, k] = A[row, 0] * R[0, k] + A[row, 1] * R[1, k] + A[row, 2] * R[2, k]
        for k in range(3):
            to_u = _TWO * (S[0, 0] * V[0, k] + S[0, 1] * V[1, k]) * scales[i, k]
            to_v = _TWO * (S[1, 0] * V[0, k] + S[1, 1] * V[1, k]) * scales[i, k]
            to_scales[i, k] += to_u * V[0, k] + to_v * V[1, k]
            dV[0, k], dV[1, k] = to_u * scales[i, k], to_v * scales[i, k]
        for j in range(3):
            for k in range(3):
                D[j, k] = A[0, j] * dV[0, k] + A[1, j] * dV[1, k]
            for row in range(2):
                dA[row, j] = dV[row, 0] * R[j, 0] + dV[row, 1] * R[j, 1] + dV[row, 2] * R[j, 2]
        _turn_back(quaternions[i], inverse, D, to_quaternions[i])
        _move_back(t, W, K, width, height, dA, g, to_means[i])


@numba.njit(inline="always", **_OPTIONS)
def _turn_back(q: F32, inverse: np.float32, D: F32, out: F32) -> None:
    """Adds the gradient with respect to the quaternion, of which D is that with respect to its rotation matrix."""
    w, x, y, z = q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse
    d_w = _TWO * (z * (D[1, 0] - D[0, 1]) + y * (D[0, 2] - D[2, 0]) + x * (D[2, 1] - D[1, 2]))
    d_x = _TWO * (
        y * (D[0, 1] + D[1, 0]) + z * (D[0, 2] + D[2, 0]) + w * (D[2, 1] - D[1, 2]) - _TWO * x * (D[1, 1] + D[2, 2])
    )
    d_y = _TWO * (
        x * (D[0, 1] + D[1, 0]) + z * (D[1, 2] + D[2, 1]) + w * (D[0, 2] - D[2, 0]) - _TWO * y * (D[0, 0] + D[2, 2])
    )
    d_z = _TWO * (
        x * (D[0, 2] + D[2, 0]) + y * (D[1, 2] + D[2, 1]) + w * (D[1, 0] - D[0, 1]) - _TWO * z * (D[0, 0] + D[1, 1])
    )
    along = w * d_w + x * d_x + y * d_y + z * d_z
    out[0] += (d_w - w * along) * inverse
    out[1] += (d_x - x * along) * inverse
    out[2] += (d_y - y * along) * inverse
    out[3] += (d_z - z * along) * inverse


@numba.njit(inline="always", **_OPTIONS)
def _move_back(t: F32, W: F32, K: F32, width: int, height: int, dA: F32, g: F32, out: F32) -> None:
    """Adds the gradient with respect to the mean: of the centre (g[:2]) and of J W (dA)."""
    deep = np.float32(0)
    for row in range(2):
        focal, ratio = K[row, row], t[row] / t[2]
        slope = _clamped(ratio, focal, K[row, 2], width if row == 0 else height)
        toward, aside = np.float32(0), np.float32(0)
        for k in range(3):
            toward += dA[row, k] * (W[row, k] - slope * W[2, k])
            aside += dA[row, k] * W[2, k]
        d_ratio = g[row] * focal
        if slope == ratio:
            d_ratio -= focal / t[2] * aside
        deep -= (toward * focal / t[2] + d_ratio * ratio) / t[2]
        for k in range(3):
            out[k] += d_ratio / t[2] * W[row, k]
    for k in range(3):
        out[k] += deep * W[2, k]
