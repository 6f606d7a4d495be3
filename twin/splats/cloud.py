"""This module keeps Gaussian splats as arrays: moving them, joining them, merging them into fewer, and their colours.

The colour of a splat seen along the unit direction d (from the camera to its centre) is that of gsplat and of 3D
Gaussian Splatting (Kerbl et al. 2023): max(0, colours + sum_k sh_k Y_k(d)), with `colours` = 0.5 + 0.2820948 f_dc. The
Y_k are real spherical harmonics of degree 1 to 3, in the order and with the signs of those two. A band of one degree
is closed under rotation: Y(R^T d) = Y(d) D with a matrix D per degree (Wigner's, in this real basis). D follows exactly
from the values of Y at more directions than the band has functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protos.schema import F32, F64
from twin.rotations import matrix_from_quaternion, multiply, quaternion_from_matrix

SH_DEGREE_0 = 0.28209479177387814
"""Value of the constant spherical harmonic, 1 / (2 sqrt(pi))."""
SPREAD = 0.62
"""Standard deviation of surface splats over their spacing; neighbours then add up to an even, closed surface."""
_ARRAYS = ("means", "quaternions", "scales", "opacities", "colours")
_NO_SH = np.zeros((0, 0, 3), np.float32)
COUNTS = (0, 3, 8, 15)
"""Number of coefficients above degree 0, by degree."""
_DIRECTIONS = np.random.default_rng(0).normal(size=(64, 3))
DENSEST = 0.95
"""Highest opacity of a merged splat: one that hid everything behind it at once would show its outline."""


@dataclass(frozen=True, kw_only=True)
class Splats:
    """A set of N Gaussians in one frame."""

    means: F32  # (N, 3) m
    quaternions: F32  # (N, 4) wxyz, unit length
    scales: F32  # (N, 3) m, standard deviations along the rotated axes
    opacities: F32  # (N,) 0..1
    colours: F32
    """(N, 3) 0..1 as stored in the file (display-referred); with harmonics their mean, which may lie outside."""
    sh: F32 = field(default_factory=lambda: _NO_SH)
    """(N, K, 3) spherical harmonics above degree 0; K = 0, 3, 8 or 15 for degree 0 to 3."""

    def __post_init__(self) -> None:
        if not self.sh.size:
            object.__setattr__(self, "sh", np.zeros((len(self.means), 0, 3), np.float32))
        assert self.sh.shape[1] in COUNTS, f"Splats.sh has {self.sh.shape[1]} coefficients, not one of {COUNTS}"
        widths = ((3,), (4,), (3,), (), (3,), self.sh.shape[1:])
        for name, width in zip((*_ARRAYS, "sh"), widths, strict=True):
            array = getattr(self, name)
            assert array.dtype == np.float32, f"Splats.{name} is {array.dtype}; Splats.of() converts"
            assert array.shape == (len(self.means), *width), f"Splats.{name} has shape {array.shape}"

    @staticmethod
    def of(
        *,
        means: ArrayLike,
        quaternions: ArrayLike,
        scales: ArrayLike,
        opacities: ArrayLike,
        colours: ArrayLike,
        sh: ArrayLike = _NO_SH,
    ) -> "Splats":
        """Makes splats from arrays of any number type."""
        given = (means, quaternions, scales, opacities, colours)
        arrays = dict(zip(_ARRAYS, (np.ascontiguousarray(array, np.float32) for array in given), strict=True))
        return Splats(**arrays, sh=np.ascontiguousarray(sh, np.float32))

    def __len__(self) -> int:
        return len(self.means)

    @property
    def degree(self) -> int:
        """Returns the degree of the spherical harmonics: 0 (the same colour from everywhere) to 3."""
        return COUNTS.index(self.sh.shape[1])

    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.intp]) -> "Splats":
        """Returns the chosen splats."""
        return Splats(**{name: np.ascontiguousarray(getattr(self, name)[index]) for name in (*_ARRAYS, "sh")})

    def covariances(self) -> F32:
        """Returns the covariances R diag(s^2) R^T as upper triangles xx, xy, xz, yy, yz, zz (N, 6) [m^2]."""
        axes = matrix_from_quaternion(self.quaternions) * self.scales[:, None, :]
        full = axes @ axes.transpose(0, 2, 1)
        return full[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]].astype(np.float32)

    def transformed(self, base_from_x: ArrayLike, scale: float = 1.0) -> "Splats":
        """Returns the splats scaled about the origin, then moved by the rigid transform (4, 4) with their harmonics."""
        pose = np.asarray(base_from_x, float)
        rotation = pose[:3, :3]
        return Splats.of(
            means=(self.means * scale) @ rotation.T + pose[:3, 3],
            quaternions=multiply(quaternion_from_matrix(rotation), self.quaternions),
            scales=self.scales * scale,
            opacities=self.opacities,
            colours=self.colours,
            sh=rotate(self.sh, rotation),
        )

    def coloured(self, colours: ArrayLike) -> "Splats":
        """Returns the splats with other colours (N, 3), clipped to 0..1 unless harmonics are added to them."""
        clipped = np.clip(colours, 0, 1) if self.degree == 0 else colours
        return replace(self, colours=np.asarray(clipped, np.float32))


def concatenate(parts: Sequence[Splats]) -> Splats:
    """Joins the splats of all parts in order; their degree is the highest among them."""
    count = max(part.sh.shape[1] for part in parts)
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    padded = [np.pad(part.sh, ((0, 0), (0, count - part.sh.shape[1]), (0, 0))) for part in parts]
    return Splats(**arrays, sh=np.concatenate(padded))


def basis(directions: ArrayLike) -> F64:
    """Evaluates the 15 functions (..., 15) along directions (..., 3) of any length."""
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
    """Turns coefficients (N, K, 3) with their splats by `rotation` (3, 3), so that their colours turn too."""
    turned = np.empty_like(sh)
    here, there = basis(_DIRECTIONS), basis(_DIRECTIONS @ np.asarray(rotation, float))
    for first, last in pairwise(COUNTS):
        if last <= sh.shape[1]:
            band = slice(first, last)
            wigner = np.linalg.lstsq(here[:, band], there[:, band], rcond=None)[0]
            turned[:, band] = np.einsum("mn,knc->kmc", wigner, sh[:, band])
    return turned


def merge_voxels(splats: Splats, size_m: float) -> Splats:
    """Merges the splats of every voxel into one.

    Position, covariance, colour and harmonics are the moments of the voxel's splats weighted by their opacity. The
    merged splat keeps their total of opacity times area: opacity first, up to `DENSEST`, then a larger footprint, up to
    `SPREAD` voxels, so that a closed surface stays closed. Voxel centres lie at multiples of the size: the table top
    z = 0 falls into one layer.
    """
    if not len(splats):
        return splats
    _, group = np.unique(np.floor(splats.means / size_m + 0.5).astype(np.int64), axis=0, return_inverse=True)
    group = group.ravel()
    count = int(group.max()) + 1
    weight = np.maximum(splats.opacities.astype(float), 1e-6)
    total = np.bincount(group, weight, count)

    def mean_of(values: NDArray[np.floating]) -> F64:
        means = np.empty((count, *values.shape[1:]))
        for place in np.ndindex(values.shape[1:]):
            means[:, *place] = np.bincount(group, weight * values[:, *place], count) / total
        return means

    means = mean_of(splats.means)
    offset = splats.means - means[group]
    axes = matrix_from_quaternion(splats.quaternions) * splats.scales[:, None, :]
    covariance = mean_of(axes @ axes.transpose(0, 2, 1) + offset[:, :, None] * offset[:, None, :])
    variance, rotation = np.linalg.eigh(covariance)  # ascending: the first axis is the surface's normal
    rotation[:, :, 0] *= np.linalg.det(rotation)[:, None]
    scales = np.sqrt(np.maximum(variance, 1e-12))
    tangent = np.sort(splats.scales.astype(float), 1)[:, 1:].prod(1)
    density = np.bincount(group, weight * tangent, count) / scales[:, 1:].prod(1)
    grown = scales[:, 1:] * np.sqrt(np.maximum(density / DENSEST, 1))[:, None]
    scales[:, 1:] = np.minimum(grown, np.maximum(scales[:, 1:], SPREAD * size_m))
    return Splats.of(
        means=means,
        quaternions=quaternion_from_matrix(rotation),
        scales=scales,
        opacities=np.minimum(density, DENSEST),
        colours=mean_of(splats.colours),
        sh=mean_of(splats.sh),
    )


def merge_to(splats: Splats, most: int, size_m: float) -> Splats:
    """Merges to at most `most` splats: in voxels of `size_m` or the first larger ones, in steps of 15 %, that do."""
    merged = merge_voxels(splats, size_m)
    while len(merged) > most:
        size_m *= 1.15
        merged = merge_voxels(splats, size_m)
    return merged
