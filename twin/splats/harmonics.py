"""Real spherical harmonics of degree 1 to 3, in the order and with the signs of 3D Gaussian Splatting and gsplat.

A band of one degree is closed under rotation: Y(R^T d) = Y(d) D with a matrix D per degree (Wigner's, in this real
basis). D follows exactly from the values of Y at more directions than the band has functions.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from protos.schema import F32, F64

COUNTS = (0, 3, 8, 15)
"""Coefficients above degree 0, by degree."""
_DIRECTIONS = np.random.default_rng(0).normal(size=(64, 3))


def basis(directions: ArrayLike) -> F64:
    """Directions (..., 3) of any length to the 15 functions (..., 15)."""
    d = np.asarray(directions, float)
    x, y, z = np.moveaxis(d / np.linalg.norm(d, axis=-1, keepdims=True), -1, 0)
    xx, yy, zz = x * x, y * y, z * z
    first = 0.5 * np.sqrt(3 / np.pi)
    second, third = 0.5 * np.sqrt(15 / np.pi), 0.25 * np.sqrt(35 / (2 * np.pi))
    between, mixed = 0.5 * np.sqrt(105 / np.pi), 0.25 * np.sqrt(21 / (2 * np.pi))
    functions = [
        *(-first * y, first * z, -first * x),
        *(second * x * y, -second * y * z, 0.25 * np.sqrt(5 / np.pi) * (2 * zz - xx - yy)),
        *(-second * x * z, 0.5 * second * (xx - yy)),
        *(-third * y * (3 * xx - yy), between * x * y * z, -mixed * y * (4 * zz - xx - yy)),
        0.25 * np.sqrt(7 / np.pi) * z * (2 * zz - 3 * xx - 3 * yy),
        *(-mixed * x * (4 * zz - xx - yy), 0.5 * between * z * (xx - yy), -third * x * (xx - 3 * yy)),
    ]
    return np.stack(functions, -1)


def rotate(sh: F32, rotation: ArrayLike) -> F32:
    """Coefficients (N, K, 3) of the same colours on splats that are turned by `rotation` (3, 3)."""
    turned = np.empty_like(sh)
    here, there = basis(_DIRECTIONS), basis(_DIRECTIONS @ np.asarray(rotation, float))
    for first, last in pairwise(COUNTS):
        if last <= sh.shape[1]:
            band = slice(first, last)
            wigner = np.linalg.lstsq(here[:, band], there[:, band], rcond=None)[0]
            turned[:, band] = np.einsum("mn,knc->kmc", wigner, sh[:, band])
    return turned
