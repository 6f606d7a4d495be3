"""This module selects the splats of an object: in a box or on masks, above the table, one piece.

scene ─► in the box ─┐                            ┌─► outliers dropped ─► largest piece ─► object
masks ─► on most ────┴─► above the table's splats ─┘
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from protos.errors import SceneError
from protos.schema import F32
from twin.align import on_masks
from twin.camera import Camera
from twin.splats import Splats

Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class OrientedBox:
    """A box standing upright in the base frame."""

    centre: tuple[float, float, float]
    """Middle of the box [m]."""
    size: tuple[float, float, float]
    """Full lengths along the box's own axes [m]."""
    yaw_deg: float = 0.0
    """Turn of the box about z."""

    def __post_init__(self) -> None:
        numbers = (*self.centre, *self.size, self.yaw_deg)
        if not all(map(math.isfinite, numbers)) or not 0 < min(self.size) <= max(self.size) <= 2:
            raise SceneError(f"box of size {self.size} m: three finite lengths greater than 0, at most 2")

    def holds(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Tells which of the points (n, 3) lie inside."""
        yaw = math.radians(self.yaw_deg)
        x, y, z = (np.asarray(points, float) - self.centre).T
        along, across = math.cos(yaw) * x + math.sin(yaw) * y, math.cos(yaw) * y - math.sin(yaw) * x
        return (2 * np.abs(np.stack([along, across, z], 1)) <= self.size).all(axis=1)


@dataclass(frozen=True, kw_only=True)
class SelectSettings:
    """Settings of the selection."""

    table_m: float = 0.006
    """Height up to which splats are the table's."""
    faintest: float = 0.1
    """Opacity of the faintest splat that counts."""
    largest: float = 0.35
    """Longest axis (standard deviation) of a splat, as a share of the object's median extent."""
    share: float = 0.5
    """Share of the views in which a splat must lie on the object's mask; those at its rim reach beyond in many."""
    gap_m: float = 0.008
    """Widest gap between splats of one piece; only the largest piece is kept."""
    neighbours: int = 6
    stray: float = 2.0
    """Distance to the neighbours, as a multiple of the usual one, beyond which a splat is dropped."""
    least: int = 12
    """Least number of splats of an object."""


def in_box(splats: Splats, box: OrientedBox, settings: SelectSettings) -> Rows:
    """Returns the rows of the object's splats inside a box. Raises `SceneError`."""
    return _tidied(splats, np.flatnonzero(box.holds(splats.means)), settings, "box")


def on_object_masks(splats: Splats, views: Sequence[tuple[Camera, F32]], settings: SelectSettings) -> Rows:
    """Returns the rows of the splats on the object's mask in most of the views that see them. Raises `SceneError`."""
    share, seen = on_masks(splats.means.astype(float), views)
    return _tidied(splats, np.flatnonzero((share >= settings.share) & (seen >= 2)), settings, "masks")


def _tidied(splats: Splats, rows: Rows, settings: SelectSettings, what: str) -> Rows:
    """Returns the largest piece among `rows`, without the table, outliers."""
    rows = rows[(splats.means[rows, 2] > settings.table_m) & (splats.opacities[rows] >= settings.faintest)]
    if len(rows) >= settings.least:
        extent = float(np.median(np.ptp(splats.means[rows], axis=0)))
        rows = rows[splats.scales[rows].max(axis=1) < settings.largest * extent]
    if len(rows) >= settings.least:
        rows = rows[_close(splats.means[rows], settings)]
    if len(rows) >= settings.least:
        rows = rows[_largest_piece(splats[rows], settings.gap_m)]
    if len(rows) < settings.least:
        raise SceneError(
            f"the {what} hold {len(rows)} splats of an object above the table ({settings.least} are needed); "
            "check that they surround the object in the base frame [m]"
        )
    return rows


def _close(points: F32, settings: SelectSettings) -> NDArray[np.bool_]:
    distance = cKDTree(points).query(points, settings.neighbours + 1)[0][:, 1:].mean(axis=1)
    return np.asarray(distance < settings.stray * np.median(distance))


def _largest_piece(splats: Splats, gap_m: float) -> NDArray[np.bool_]:
    """Tells which splats form the largest piece; each reaches two standard deviations of its middle axis."""
    reach = 2 * float(np.median(np.sort(splats.scales, axis=1)[:, 1]))
    pairs = cKDTree(splats.means).query_pairs(gap_m + 2 * reach, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(splats), len(splats)))
    label = connected_components(graph, directed=False)[1]
    return np.asarray(label == np.bincount(label).argmax())
