"""This module draws the silhouette of splats and its exact derivative by their motion, in one pass (numba).

    splats + camera ─► coverage 1 - Π(1 - α_i) per pixel
                   └─► d coverage / d (translation, rotation, log scale), 7 numbers per pixel

Coverage is what the rasterizer's 1 - transmittance is: a product, so no sorting is needed, and its derivative is a sum
over the splats of a pixel: d(1 - T) = T Σ dα_i / (1 - α_i). Seven parameters are few, so the derivative is carried
forward with the image; a Gauss-Newton step needs it per pixel, which reverse mode cannot give.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from protos.schema import F32, F64
from twin.camera import Camera
from twin.splats import Splats

PARAMETERS = 7
"""Number of parameters: translation x, y, z [m], rotation about x, y, z [rad], natural logarithm of the scale."""
NEAR_M = 0.015
BLUR = 0.3
FAINTEST = 1 / 255
DENSEST = np.float32(0.999)
OPAQUE = np.float32(math.log(1e-4))
"""Logarithm of the transmittance at which a pixel is finished."""
BESIDE = 0.8
"""Distance from the image's middle, in its widths and heights, up to which splats are drawn."""
LANES = 8
"""Number of parameters, padded to a whole vector register."""
_JIT = {"cache": True, "nogil": True, "fastmath": True, "error_model": "numpy"}


class Cloud(NamedTuple):
    """The geometry of splats that a silhouette needs, in double precision."""

    means: F64  # (N, 3)
    covariances: F64  # (N, 3, 3)
    opacities: F64  # (N,)


def cloud_of(splats: Splats) -> Cloud:
    """Returns the splats' geometry; colours play no part."""
    upper = splats.covariances().astype(float)
    full = upper[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    return Cloud(splats.means.astype(float), full, splats.opacities.astype(float))


def moved(cloud: Cloud, pose: F64, scale: float) -> Cloud:
    """Returns the splats scaled about the origin, then moved by the rigid transform (4, 4)."""
    turn = np.ascontiguousarray(pose[:3, :3]) * scale
    covariances = np.empty_like(cloud.covariances)
    _turn_all(turn, cloud.covariances, covariances)
    return Cloud(cloud.means @ turn.T + pose[:3, 3], covariances, cloud.opacities)


def silhouette(cloud: Cloud, camera: Camera) -> F32:
    """Returns the coverage (H, W), 0 where nothing is in front of the camera .. 1."""
    return _drawn(cloud, camera, None)[0]


def silhouette_and_jacobian(cloud: Cloud, camera: Camera, pivot: F64) -> tuple[F32, F32]:
    """Returns the coverage (H, W) and its derivative (7, H, W).

    The parameters move every point x to exp(s) R(w) (x - pivot) + pivot + t, at t = w = s = 0.
    """
    coverage, jacobian = _drawn(cloud, camera, np.asarray(pivot, float))
    return coverage, np.ascontiguousarray(np.moveaxis(jacobian[..., :PARAMETERS], 2, 0))


def _drawn(cloud: Cloud, camera: Camera, pivot: F64 | None) -> tuple[F32, F32]:
    shape = camera.height, camera.width
    turn = np.ascontiguousarray(camera.camera_from_base[:3, :3])
    seen, centres = _in_view(cloud, camera)
    points = (cloud.means[seen] - camera.base_from_camera[:3, 3]) @ turn.T
    footprints = np.empty((len(seen), 6), np.float32)
    footprints[:, :2], footprints[:, 5] = centres, cloud.opacities[seen]
    J, SJ = np.zeros((len(seen), 2, 3)), np.empty((len(seen), 3, 2))
    _project(points, cloud.covariances[seen], turn, camera.fx, camera.fy, J, SJ, footprints)
    coverage, jacobian = np.zeros(shape, np.float32), np.zeros((1, 1, LANES), np.float32)
    motion = np.zeros((len(seen), 5, LANES), np.float32)
    if pivot is not None:
        jacobian = np.zeros((*shape, LANES), np.float32)
        _motion((cloud.means[seen] - pivot) @ turn.T, points[:, 2].copy(), J, SJ, turn, motion)
    _draw(footprints, motion, pivot is not None, coverage, jacobian)
    return coverage, jacobian


def _in_view(cloud: Cloud, camera: Camera) -> tuple[NDArray[np.intp], F64]:
    """Returns the splats whose centre is in the image or not far beside it, and their places (M, 2) [px].

    Farther away the linearised projection is no longer one.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v, z = camera.project(cloud.means).T
    inside = (np.abs(u / camera.width - 0.5) < BESIDE) & (np.abs(v / camera.height - 0.5) < BESIDE)
    seen = np.flatnonzero(inside & (z > NEAR_M) & (cloud.opacities > FAINTEST))
    return seen, np.stack([u[seen], v[seen]], 1)


@numba.njit(**_JIT)
def _turn(M: F64, C: F64, out: F64) -> None:
    """Computes out = M C Mᵀ; NumPy's products of many small matrices take ten times as long."""
    for i in range(3):
        a0 = M[i, 0] * C[0, 0] + M[i, 1] * C[1, 0] + M[i, 2] * C[2, 0]
        a1 = M[i, 0] * C[0, 1] + M[i, 1] * C[1, 1] + M[i, 2] * C[2, 1]
        a2 = M[i, 0] * C[0, 2] + M[i, 1] * C[1, 2] + M[i, 2] * C[2, 2]
        for j in range(3):
            out[i, j] = a0 * M[j, 0] + a1 * M[j, 1] + a2 * M[j, 2]


@numba.njit(**_JIT)
def _turn_all(M: F64, C: F64, out: F64) -> None:
    for n in range(C.shape[0]):
        _turn(M, C[n], out[n])


@numba.njit(**_JIT)
def _project(points: F64, covariances: F64, turn: F64, fx: float, fy: float, J: F64, SJ: F64, footprints: F32) -> None:
    """Fills the derivative J (M, 2, 3) of a pixel by its point in the camera's frame, and what follows from it.

    SJ = S Jᵀ (M, 3, 2) with the spread S in that frame, and the footprints' image covariance J S Jᵀ, blurred.
    """
    spread = np.empty((3, 3))
    for i in range(points.shape[0]):
        x, y, z = points[i]
        _turn(turn, covariances[i], spread)
        J[i, 0, 0], J[i, 0, 2] = fx / z, -fx * x / (z * z)
        J[i, 1, 1], J[i, 1, 2] = fy / z, -fy * y / (z * z)
        for n in range(3):
            SJ[i, n, 0] = spread[n, 0] * J[i, 0, 0] + spread[n, 2] * J[i, 0, 2]
            SJ[i, n, 1] = spread[n, 1] * J[i, 1, 1] + spread[n, 2] * J[i, 1, 2]
        footprints[i, 2] = J[i, 0, 0] * SJ[i, 0, 0] + J[i, 0, 2] * SJ[i, 2, 0] + BLUR
        footprints[i, 3] = J[i, 0, 0] * SJ[i, 0, 1] + J[i, 0, 2] * SJ[i, 2, 1]
        footprints[i, 4] = J[i, 1, 1] * SJ[i, 1, 1] + J[i, 1, 2] * SJ[i, 2, 1] + BLUR


@numba.njit(**_JIT)
def _motion(local: F64, depth: F64, J: F64, SJ: F64, turn: F64, motion: F32) -> None:
    """Fills (M, 5, 8): derivatives of u, v, xx, xy, yy with respect to the parameters.

    `local` are the splats' centres seen from the pivot, camera axes; SJ = spread Jᵀ (M, 3, 2). With a motion that turns
    the spread S by the generator G, d(J S Jᵀ) = (dJ + J G) S Jᵀ and its transpose.
    """
    step, A, half = np.empty(3), np.empty((2, 3)), np.empty((2, 2))
    for i in range(local.shape[0]):
        x, y, z = local[i]
        for k in range(PARAMETERS):
            a, b, c = (turn[0, k % 3], turn[1, k % 3], turn[2, k % 3]) if k < 6 else (0.0, 0.0, 0.0)
            if k < 3:
                step[0], step[1], step[2] = a, b, c
            elif k < 6:
                step[0], step[1], step[2] = b * z - c * y, c * x - a * z, a * y - b * x
            else:
                step[0], step[1], step[2] = x, y, z
            slide = step[2] / depth[i]
            for row in range(2):
                j0, j1, j2 = J[i, row]
                flow = j0 * step[0] + j1 * step[1] + j2 * step[2]
                motion[i, row, k] = flow
                A[row, 0], A[row, 1], A[row, 2] = -slide * j0, -slide * j1, -slide * j2 - flow / depth[i]
                if k >= 6:
                    A[row, 0], A[row, 1], A[row, 2] = A[row, 0] + j0, A[row, 1] + j1, A[row, 2] + j2
                elif k >= 3:
                    A[row, 0] += j1 * c - j2 * b
                    A[row, 1] += j2 * a - j0 * c
                    A[row, 2] += j0 * b - j1 * a
            for row in range(2):
                for column in range(2):
                    half[row, column] = 0.0
                    for n in range(3):
                        half[row, column] += A[row, n] * SJ[i, n, column]
            motion[i, 2, k], motion[i, 3, k], motion[i, 4, k] = 2 * half[0, 0], half[0, 1] + half[1, 0], 2 * half[1, 1]


@numba.njit(**_JIT)
def _draw(footprints: F32, motion: F32, differentiate: bool, coverage: F32, jacobian: F32) -> None:
    """Draws all splats front to back. With A the conic and e = A d: dα = α (e · d(u, v) + ½ eᵀ dΣ e).

    `coverage` holds the logarithm of the transmittance until the last lines.
    """
    height, width = coverage.shape
    half, one = np.float32(0.5), np.float32(1)
    for i in range(footprints.shape[0]):
        u, v, xx, xy, yy, opacity = footprints[i]
        determinant = xx * yy - xy * xy
        if determinant <= np.float32(1e-12):
            continue
        cut = np.float32(2 * math.log(opacity / FAINTEST))
        tall = math.sqrt(cut * yy)
        a, b, c = yy / determinant, -xy / determinant, xx / determinant
        for row in range(max(0, math.ceil(v - tall - half)), min(height - 1, math.floor(v + tall - half)) + 1):
            dy = np.float32(row) + half - v
            root = cut * a - dy * dy * (a * c - b * b)
            if root <= 0:
                continue
            wide, middle = math.sqrt(root) / a, u - b * dy / a - half
            for column in range(max(0, math.ceil(middle - wide)), min(width - 1, math.floor(middle + wide)) + 1):
                if coverage[row, column] < OPAQUE:
                    continue
                dx = np.float32(column) + half - u
                ex, ey = a * dx + b * dy, b * dx + c * dy
                alpha = min(opacity * math.exp(-half * (ex * dx + ey * dy)), DENSEST)
                coverage[row, column] += math.log(one - alpha)
                if differentiate and alpha < DENSEST:
                    weight = alpha / (one - alpha)
                    m, out = motion[i], jacobian[row, column]
                    p, q, r, s, t = (
                        weight * ex,
                        weight * ey,
                        weight * half * ex * ex,
                        weight * ex * ey,
                        weight * half * ey * ey,
                    )
                    for k in range(LANES):
                        out[k] += p * m[0, k] + q * m[1, k] + r * m[2, k] + s * m[3, k] + t * m[4, k]
    for row in range(height):
        for column in range(width):
            through = math.exp(coverage[row, column])
            coverage[row, column] = one - through
            if differentiate:
                for k in range(LANES):
                    jacobian[row, column, k] *= through
