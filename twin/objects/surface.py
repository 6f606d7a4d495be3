"""This module finds points on the surface and in the solid that splats show.

    splats ─► depth where they hide half of what is behind, from all around and above ─► surface points ─┐
    masks of the photos ──────────────────────────────────────────► hull filled with points, cut back ◄──┴─► solid

Centres of splats are poor points: large ones lie far apart and reach beyond, faint ones are not seen at all. Splats of
a coarse scan reach beyond what they show by a centimetre or more; an outline in a photo is known to a pixel. Outlines
alone would not do: seen from above, they leave a cone on a flat top, where the splats are better.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from protos.errors import SceneError
from protos.schema import F32, F64
from twin.align import on_masks
from twin.camera import Camera, look_at
from twin.render import FAR, rasterize
from twin.splats import Splats

SPARSE = 0.2
"""Number of points, as a share of the usual, below which a voxel is seen at the edge of splats only."""
RIM_PX = 3
OUTERMOST = 0.002
"""Share of the points that is dropped in each direction."""
SPACING_M = 0.002
MOST = 60_000
"""Number of points that fill a hull; a large one is filled more coarsely."""


@dataclass(frozen=True, kw_only=True)
class SurfaceSettings:
    """Settings of the ring of cameras."""

    around: int = 12
    elevations_deg: tuple[float, ...] = (8.0, 40.0, 75.0)
    px: int = 160
    distance: float = 4.0
    """Distance from the middle, in radii of the object; far enough that perspective hides little."""
    fewest: int = 200
    """Number of points below which there is no surface."""


def surface_points(splats: Splats, settings: SurfaceSettings) -> F64:
    """Returns points (n, 3) on the visible surface, in the splats' frame. Raises `SceneError` without a surface."""
    cameras = list(_ring(splats, settings))
    points = np.concatenate([_seen(splats, camera) for camera in cameras])
    if len(points):
        eye, middle = cameras[0].base_from_camera[:3, 3], splats.means.mean(axis=0)
        points = _one_piece(points, 2 * float(np.linalg.norm(eye - middle)) / cameras[0].fx)
    if len(points) < settings.fewest:
        raise SceneError(
            f"the object's {len(splats)} splats hide nothing behind them; train the scan longer or choose a larger box"
        )
    return points


def _one_piece(points: F64, voxel: float) -> F64:
    """Returns the means of the points in the largest connected set of voxels.

    Splats that float beside the object make pieces of their own. A splat's depth is that of its centre wherever a ray
    meets it; the mean over cameras on both sides lies on the surface.
    """
    cells = np.floor((points - points.min(axis=0)) / voxel).astype(int)
    counts = np.zeros(cells.max(axis=0) + 1, int)
    np.add.at(counts, tuple(cells.T), 1)
    solid = counts > SPARSE * np.median(counts[counts > 0])
    label = ndimage.label(solid, np.ones((3, 3, 3)))[0]
    row = np.ravel_multi_index(tuple(cells.T), counts.shape)
    means = np.stack([np.bincount(row, column, counts.size) for column in points.T], 1) / counts.reshape(-1, 1).clip(1)
    return _trimmed(means[label.ravel() == np.bincount(label[solid]).argmax()])


def _trimmed(points: F64) -> F64:
    """Drops the few outermost points in every direction: a hull would hang on them."""
    along = points @ _directions(200).T
    return points[(along <= np.quantile(along, 1 - OUTERMOST, axis=0)).all(axis=1)]


def _directions(count: int) -> F64:
    """Returns unit vectors (count, 3) spread evenly over the sphere: a Fibonacci lattice."""
    k = np.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, math.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z * z)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], 1)


def _ring(splats: Splats, settings: SurfaceSettings) -> Iterator[Camera]:
    low, high = splats.means.min(axis=0), splats.means.max(axis=0)
    reach = float(np.linalg.norm(high - low) / 2 + 2 * np.median(splats.scales.max(axis=1)))
    fovy_deg = 2 * math.degrees(math.asin(1 / settings.distance))
    for tilt in np.radians(settings.elevations_deg):
        for angle in np.arange(settings.around) * 2 * math.pi / settings.around:
            towards = np.array([math.cos(angle) * math.cos(tilt), math.sin(angle) * math.cos(tilt), math.sin(tilt)])
            middle = (low + high) / 2
            yield look_at(middle + settings.distance * reach * towards, at=middle, fovy_deg=fovy_deg, px=settings.px)


def _seen(splats: Splats, camera: Camera) -> F64:
    """Returns the image's pixels that show the object, in space (n, 3).

    Not those at its outline: there rays graze the surface and stop in the soft rims of its splats. Another camera sees
    the same place squarely.
    """
    depth = rasterize(splats, camera).depth
    rows, columns = np.nonzero(ndimage.binary_erosion(depth < FAR, iterations=RIM_PX))
    z = depth[rows, columns].astype(float)
    x, y = (columns + 0.5 - camera.cx) / camera.fx * z, (rows + 0.5 - camera.cy) / camera.fy * z
    pose = camera.base_from_camera
    return np.asarray(np.stack([x, y, z], 1) @ pose[:3, :3].T + pose[:3, 3])


def confirmed(surface: F64, views: Sequence[tuple[Camera, F32]], share: float) -> F64:
    """Returns points (n, 3) in the hull of `surface` (m, 3) that lie on at least this share of the masks that see them.

    Raises `SceneError` when the masks and the surface have nothing in common.
    """
    points = np.concatenate([surface, _filling(surface)])
    on, seen = on_masks(points, views)
    kept = points[(on >= share) & (seen >= 2)]
    if len(kept) < 4:
        raise SceneError(
            "the masks and the splats do not agree on where the object is; is each mask named after its photo, and "
            "white on the object?"
        )
    return kept


def _filling(surface: F64) -> F64:
    low, high = surface.min(axis=0), surface.max(axis=0)
    spacing = max(SPACING_M, float(np.prod(high - low) / MOST) ** (1 / 3))
    axes = [np.arange(a, b + spacing, spacing) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    try:
        sides = ConvexHull(surface).equations
    except QhullError as error:
        raise SceneError("the object's splats lie in one plane; choose a larger box or better masks") from error
    return np.asarray(points[(points @ sides[:, :3].T <= -sides[:, 3]).all(axis=1)])
