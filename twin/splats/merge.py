"""Fewer, larger splats for layers that must be cheap."""

import numpy as np
from numpy.typing import NDArray

from twin.rotations import matrix_from_quaternion, quaternion_from_matrix
from twin.splats.cloud import SPREAD, Splats

DENSEST = 0.95
"""Highest opacity of a merged splat: one that hid everything behind it at once would show its outline."""


def merge_voxels(splats: Splats, size_m: float) -> Splats:
    """One splat per occupied voxel.

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

    def mean_of(values: NDArray[np.floating]) -> NDArray[np.float64]:
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
    """At most `most` splats: merged in voxels of `size_m`, or the first larger ones, in steps of 15 %, that suffice."""
    merged = merge_voxels(splats, size_m)
    while len(merged) > most:
        size_m *= 1.15
        merged = merge_voxels(splats, size_m)
    return merged
