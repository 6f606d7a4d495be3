"""This module covers simple surfaces with splats: boxes, cylinders, capsules, meshes; robots and tasks are drawn so.

A point on a surface becomes a flat splat: standard deviation 0.62 spacings in the surface, 0.12 along the normal,
opacity 0.95, its colour darkened by a fixed light from above and to the side.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protos.errors import InputError
from protos.schema import F64
from twin.rotations import quaternion_from_matrix
from twin.splats import SPREAD, Splats

THICKNESS = 0.12
"""Standard deviation along the normal over the spacing."""
OPACITY = 0.95


@dataclass(frozen=True, kw_only=True)
class Light:
    """A light is far away and leaves nothing quite dark."""

    towards: tuple[float, float, float] = (-0.55, 0.35, 0.75)
    """Direction towards it, base frame, of any length."""
    ambient: float = 0.62
    """Share of the light that comes from everywhere."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.towards).all() and np.linalg.norm(self.towards) > 1e-6):
            raise InputError(f"light towards={self.towards}: a direction of three finite numbers")
        if not 0 <= self.ambient <= 1:
            raise InputError(f"light ambient={self.ambient}: a share from 0 to 1")

    def shade(self, normals: F64) -> F64:
        """Returns the share (N,) of their colour that surfaces with unit normals (N, 3) show."""
        direction = np.array(self.towards) / np.linalg.norm(self.towards)
        return self.ambient + (1 - self.ambient) * np.clip(normals @ direction, 0, 1)


LIGHT = Light()
"""Light in which robots and tasks are drawn where nothing else is known."""
Surface = tuple[F64, F64]
"""Points (N, 3) and their unit normals (N, 3)."""


def grid(half_x: float, half_y: float, spacing: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the cell centres of a rectangle of 2 half_x by 2 half_y around the origin."""
    nx, ny = max(1, round(2 * half_x / spacing)), max(1, round(2 * half_y / spacing))
    x, y = np.meshgrid(
        ((np.arange(nx) + 0.5) / nx * 2 - 1) * half_x, ((np.arange(ny) + 0.5) / ny * 2 - 1) * half_y, indexing="ij"
    )
    return x.ravel(), y.ravel()


def box(half: ArrayLike, spacing: float) -> Surface:
    """Returns the six faces of a box with half sizes (3,)."""
    h = np.asarray(half, float)
    points, normals = [], []
    for axis in range(3):
        u, v = grid(h[(axis + 1) % 3], h[(axis + 2) % 3], spacing)
        for sign in (-1.0, 1.0):
            p, n = np.zeros((len(u), 3)), np.zeros((len(u), 3))
            p[:, (axis + 1) % 3], p[:, (axis + 2) % 3], p[:, axis] = u, v, sign * h[axis]
            n[:, axis] = sign
            points.append(p)
            normals.append(n)
    return np.concatenate(points), np.concatenate(normals)


def disc(radius: float, height: float, spacing: float) -> Surface:
    """Returns a horizontal disc that faces up (sunflower arrangement)."""
    count = max(6, round(math.pi * radius**2 / spacing**2))
    k = np.arange(count) + 0.5
    r, angle = radius * np.sqrt(k / count), math.pi * (1 + 5**0.5) * k
    points = np.stack([r * np.cos(angle), r * np.sin(angle), np.full(count, height)], 1)
    return points, np.tile([0.0, 0.0, 1.0], (count, 1))


def cylinder(radius: float, half: float, spacing: float) -> Surface:
    """Returns a closed cylinder along z."""
    sides, normals = _tube(radius, half, spacing)
    top, up = disc(radius, half, spacing)
    return np.concatenate([sides, top, top * [1, 1, -1]]), np.concatenate([normals, up, -up])


def capsule(radius: float, half: float, spacing: float) -> Surface:
    """Returns a capsule along z; `half` is half the length of its straight part."""
    sides, normals = _tube(radius, half, spacing)
    count = max(6, round(2 * math.pi * radius**2 / spacing**2))
    k = np.arange(count) + 0.5
    z, angle = k / count, math.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z * z)
    up = np.stack([r * np.cos(angle), r * np.sin(angle), z], 1)
    caps = [(up * [1, 1, sign] * radius + [0, 0, sign * half], up * [1, 1, sign]) for sign in (-1, 1)]
    return np.concatenate([sides, *(p for p, _ in caps)]), np.concatenate([normals, *(n for _, n in caps)])


def mesh(vertices: ArrayLike, triangles: ArrayLike, spacing: float) -> Surface:
    """Spreads points evenly over triangles (F, 3) of vertices (V, 3), counter-clockwise from outside.

    The points lie at equal steps of area, in each triangle at the places of the R2 sequence (Roberts 2018): even
    without a grid, and the same in every run.
    """
    a, b, c = np.moveaxis(np.asarray(vertices, float)[np.asarray(triangles)], 1, 0)
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1) / 2
    ends = np.cumsum(area)
    count = max(6, round(ends[-1] / spacing**2))
    k = np.arange(count)
    face = np.minimum(np.searchsorted(ends, (k + 0.5) / count * ends[-1]), len(area) - 1)
    u, v = np.mod(np.outer([0.7548776662466927, 0.5698402909980532], k) + 0.5, 1)
    u, v = np.where(u + v > 1, 1 - u, u)[:, None], np.where(u + v > 1, 1 - v, v)[:, None]
    points = a[face] + u * (b - a)[face] + v * (c - a)[face]
    return points, cross[face] / (2 * area[face])[:, None]


def _tube(radius: float, half: float, spacing: float) -> Surface:
    around, along = max(6, round(2 * math.pi * radius / spacing)), max(1, round(2 * half / spacing))
    angle, z = np.meshgrid(
        (np.arange(around) + 0.5) / around * 2 * math.pi,
        ((np.arange(along) + 0.5) / along * 2 - 1) * half,
        indexing="ij",
    )
    normals = np.stack([np.cos(angle).ravel(), np.sin(angle).ravel(), np.zeros(z.size)], 1)
    return normals * radius + np.stack([0 * z.ravel(), 0 * z.ravel(), z.ravel()], 1), normals


def surface_splats(
    surface: Surface,
    spacing: float,
    colour: ArrayLike,
    base_from_surface: ArrayLike | None = None,
    *,
    light: Light = LIGHT,
) -> Splats:
    """Returns splats in the surface's own frame, shaded as if it had the rotation (3, 3) in the base frame."""
    points, normals = surface
    lit = normals if base_from_surface is None else normals @ np.asarray(base_from_surface).T
    shade = light.shade(lit)
    return Splats.of(
        means=points,
        quaternions=quaternion_from_matrix(_frames(normals)),
        scales=np.tile([SPREAD * spacing, SPREAD * spacing, THICKNESS * spacing], (len(points), 1)),
        opacities=np.full(len(points), OPACITY),
        colours=np.clip(shade[:, None] * np.asarray(colour, float), 0, 1),
    )


def _frames(normals: F64) -> F64:
    """Returns rotations (N, 3, 3) whose z axis is the normal."""
    helper = np.where(np.abs(normals[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    x = np.cross(helper, normals)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(normals, x), normals], 2)
