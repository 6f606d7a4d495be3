"""This module covers the hole that an object leaves in a scene with table.

    scene ─► splats over the object's footprint taken out ─► hole in the table
                                                              ▲
    table beside it, of the same shape, most alike ─copied────┘  colours shifted to those around the hole

What stood on the table was never photographed from below. A copy keeps the table's texture; where no clean piece of
table of that shape is near, an even surface in the colours around the hole takes its place. The object's shadow, which
is part of the table's colours, stays.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, cKDTree

from protos.schema import F64
from twin import surfaces
from twin.splats import Splats, concatenate

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class FillSettings:
    """Settings of the covering."""

    margin_m: float = 0.008
    """Width by which the hole is larger than the object's footprint."""
    above_m: float = 0.03
    """Height above the object up to which floating splats go too."""
    ring_m: float = 0.04
    """Width of the table around the hole with which colours are compared."""
    flat_m: float = 0.012
    """Distance from z = 0 up to which splats are the table's."""
    directions: int = 16
    reaches: tuple[float, ...] = (1.0, 1.3, 1.7, 2.2)
    """Distances at which pieces of table are looked for, in diameters of the hole."""
    covered: float = 0.8
    """Share of the splats that the table usually has on its area which a piece must have."""
    spacing_m: float = 0.006
    """Spacing of the splats of the even surface."""


class Footprint:
    """A convex outline on the table, widened by a margin."""

    def __init__(self, points: F64, margin_m: float) -> None:
        hull = ConvexHull(points[:, :2])
        self._normals, self._offsets = hull.equations[:, :2], hull.equations[:, 2] - margin_m
        self.centre: F64 = points[hull.vertices, :2].mean(axis=0)
        self._area_m2, self._rim_m, self._margin_m = float(hull.volume), float(hull.area), margin_m  # SciPy's 2-D names
        self.diameter_m = 2 * (float(np.linalg.norm(points[hull.vertices, :2] - self.centre, axis=1).max()) + margin_m)

    def area_m2(self, wider_m: float = 0.0) -> float:
        """Returns the area of the outline, or of the one `wider_m` around it."""
        wide = self._margin_m + wider_m
        return self._area_m2 + self._rim_m * wide + math.pi * wide**2

    def holds(self, xy: NDArray[np.floating], wider_m: float = 0.0) -> Bools:
        """Tells which points (n, 2) lie inside, or within `wider_m` of it."""
        return np.asarray((xy @ self._normals.T + self._offsets <= wider_m).all(axis=1))


def without_object(static: Splats, rows: NDArray[np.intp], settings: FillSettings) -> Splats:
    """Returns the scene without the splats `rows` and all else above and below their footprint, the hole covered."""
    points = static.means[rows].astype(float)
    hole = Footprint(points, settings.margin_m)
    xy, z = static.means[:, :2].astype(float), static.means[:, 2]
    gone = hole.holds(xy) & (z < points[:, 2].max() + settings.above_m) & (z > -0.1)
    gone[rows] = True
    rest = static[np.flatnonzero(~gone)]
    return concatenate([rest, _patch(rest, hole, settings)])


def _patch(rest: Splats, hole: Footprint, settings: FillSettings) -> Splats:
    """Returns table splats for the hole."""
    xy = rest.means[:, :2].astype(float)
    flat = (np.abs(rest.means[:, 2]) < settings.flat_m) & (rest.opacities > 0.1)
    ring = flat & hole.holds(xy, settings.ring_m)
    if not ring.any():
        return rest[:0]
    around = _mean_colour(rest, ring)
    best, least = None, math.inf
    for shift in _shifts(hole, settings):
        piece = hole.holds(xy - shift, settings.margin_m / 2)
        if not _is_bare_table(rest, piece, flat, hole, ring, settings):
            continue
        difference = float(np.linalg.norm(_mean_colour(rest, piece & flat) - around))
        if difference < least:
            best, least = (shift, piece & flat), difference
    if best is None:
        return _even(rest, hole, ring, settings)
    shift, piece = best
    copy = rest[np.flatnonzero(piece)]
    pose = np.eye(4)
    pose[:2, 3] = -shift
    return copy.transformed(pose).coloured(copy.colours + around - _mean_colour(rest, piece))


def _shifts(hole: Footprint, settings: FillSettings) -> list[F64]:
    angles = np.arange(settings.directions) * 2 * math.pi / settings.directions
    around = np.stack([np.cos(angles), np.sin(angles)], 1)
    return [reach * hole.diameter_m * direction for reach in settings.reaches for direction in around]


def _is_bare_table(
    rest: Splats, piece: Bools, flat: Bools, hole: Footprint, ring: Bools, settings: FillSettings
) -> bool:
    """Tells whether a piece is covered with table as densely as the ring around the hole, and nothing stands on it."""
    above = piece & (rest.means[:, 2] > settings.flat_m) & (rest.means[:, 2] < 0.3) & (rest.opacities > 0.1)
    usual = np.count_nonzero(ring) / (hole.area_m2(settings.ring_m) - hole.area_m2())
    needed = settings.covered * usual * hole.area_m2(settings.margin_m / 2)
    return bool(np.count_nonzero(piece & flat) >= needed and above.sum() <= 0.02 * piece.sum())


def _even(rest: Splats, hole: Footprint, ring: Bools, settings: FillSettings) -> Splats:
    """Makes a flat surface whose colours are means of the nearest splats around the hole, weighted by nearness."""
    half = hole.diameter_m / 2
    x, y = surfaces.grid(half, half, settings.spacing_m)
    xy = np.stack([x, y], 1) + hole.centre
    xy = xy[hole.holds(xy)]
    known = rest[np.flatnonzero(ring)]
    distance, near = cKDTree(known.means[:, :2]).query(xy, min(24, len(known)))
    weight = (1 / (distance.reshape(len(xy), -1) ** 2 + 1e-6))[..., None]
    colours = (known.colours[near.reshape(len(xy), -1)] * weight).sum(1) / weight.sum(1)
    height = float(np.median(known.means[:, 2]))
    surface = np.c_[xy, np.full(len(xy), height)], np.tile([0.0, 0.0, 1.0], (len(xy), 1))
    return surfaces.surface_splats(surface, settings.spacing_m, (0.5, 0.5, 0.5)).coloured(colours)


def _mean_colour(splats: Splats, rows: Bools) -> F64:
    """Returns the mean colour (3,), weighted by what a splat covers."""
    weight = splats.opacities[rows] * np.sort(splats.scales[rows], axis=1)[:, 1:].prod(axis=1)
    return np.asarray(np.average(splats.colours[rows], axis=0, weights=weight + 1e-12), float)
