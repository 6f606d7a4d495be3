"""Splats projected into a picture, with derivatives (numba, float32): EWA splatting as in Kerbl et al. 2023, section 4.

    mean m ─► t = W m + d ─► u = fx t_x / t_z + cx                  conic = Σ'⁻¹
    q, s   ─► Σ' = (J W R(q) S)(J W R(q) S)ᵀ + 0.3 I ───────────────► a, b, c        J: Jacobian of the projection at t

Conventions are those of gsplat and `twin.render`: 0.3 px² of blur; far outside the picture J is evaluated at most 15 %
beyond its border. `unproject` is the transpose of `project`'s derivative, written out:

    dΣ' = -C dC C,   dB = 2 dΣ' B for B = J W R S,   dS = (J W R)ᵀ dB,   d(J W) = dB S Rᵀ,   dR = (J W)ᵀ dB S
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from protos.schema import F32

NEAR_M = 0.015
FAINTEST = np.float32(1 / 255)
"""A splat's ellipse ends where its opacity falls below this."""
BLUR = np.float32(0.3)
_BORDER, _HALF, _ONE, _TWO = np.float32(0.15), np.float32(0.5), np.float32(1), np.float32(2)
_OPTIONS = {"fastmath": True, "nogil": True, "cache": True, "error_model": "numpy"}


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
    """Gradients of the packed centres and conics (M, 9), carried back to means, quaternions and scales (N, ...)."""
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
