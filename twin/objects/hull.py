"""This module makes collision shapes of an object from the points on its surface: convex, closed, few corners.

    points ─► + their shadow on the table ─┬─► convex hull ─► the corners that matter most ─► one part
                                           └─► voxels, filled ─► surface ─► convex decomposition (CoACD) ─► parts

A scan never sees the bottom, and often not the back, so the outline is carried down to the table. Mass
properties come from trimesh.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from protos.errors import SceneError
from protos.schema import F64
from twin.parts import Part

QUICK = {"preprocess_resolution": 30, "resolution": 1000, "mcts_nodes": 10, "mcts_iterations": 40, "mcts_max_depth": 2}
"""Options that shorten CoACD's search from minutes to seconds; a few parts of a thing on a table need no more."""
_DIRECTIONS = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3), -1).reshape(-1, 3)


class MassProperties(NamedTuple):
    """Mass properties of a body of even density."""

    volume_m3: float
    centre: F64  # (3,) m
    inertia: F64  # (3, 3) about the centre, per kilogram [m^2]


@dataclass(frozen=True, kw_only=True)
class HullSettings:
    """Settings of the collision shape."""

    parts: int = 1
    """Largest number of parts; 1 is one convex hull, more are a convex decomposition."""
    upright: bool = True
    """Switch to carry the whole outline down to the table: photos from one side see an object's top, not its back.
    Things that are narrower below, seen from all around, need False."""
    corners: int = 48
    """Largest number of vertices of a part."""
    tolerance_m: float = 0.0005
    """Distance of points outside up to which a hull with fewer corners is good enough."""
    voxel_m: float = 0.004
    """Voxel size of the volume that is decomposed."""
    concavity: float = 0.1
    """CoACD's threshold: smaller follows hollows more closely."""
    seed: int = 0


def convex_parts(points: F64, settings: HullSettings) -> tuple[Part, ...]:
    """Returns convex parts around points (n, 3) whose table is z = 0. Raises `SceneError` when they have no volume."""
    grounded = _grounded(points, settings.upright)
    if settings.parts <= 1:
        return (hull(grounded, settings),)
    return _decomposed(grounded, settings)


def hull(points: F64, settings: HullSettings) -> Part:
    """Returns the convex hull of points (n, 3) with at most `corners` vertices.

    Starts from the extreme points along axes and diagonals and takes in the point farthest outside, again and again.
    """
    try:
        corners = points[ConvexHull(points).vertices]
        chosen = list(dict.fromkeys((corners @ _DIRECTIONS.T).argmax(0).tolist()))
        while True:
            shape = ConvexHull(corners[chosen])
            outside = (corners @ shape.equations[:, :3].T + shape.equations[:, 3]).max(axis=1)
            farthest = int(outside.argmax())
            if len(chosen) >= settings.corners or outside[farthest] <= settings.tolerance_m:
                return _outward(corners[chosen])
            chosen.append(farthest)
    except QhullError as error:
        raise SceneError("the object's splats lie in a plane; choose a box or masks that hold all of it") from error


def mass_properties(parts: tuple[Part, ...]) -> MassProperties:
    """Returns those of all parts together; where parts overlap counts twice, which decompositions avoid."""
    import trimesh

    meshes = [trimesh.Trimesh(part.vertices, part.faces, process=False) for part in parts]
    volumes = np.array([mesh.volume for mesh in meshes])
    centre = np.average([mesh.center_mass for mesh in meshes], axis=0, weights=volumes)
    inertia = np.zeros((3, 3))
    for mesh in meshes:
        offset = mesh.center_mass - centre
        inertia += mesh.moment_inertia + mesh.volume * (offset @ offset * np.eye(3) - np.outer(offset, offset))
    return MassProperties(float(volumes.sum()), centre, inertia / volumes.sum())


def _grounded(points: F64, upright: bool) -> F64:
    """Lifts points to the table and adds all of them, or those near the table, once more on the table."""
    points = np.maximum(points, [-np.inf, -np.inf, 0])
    low = points if upright else points[points[:, 2] < np.percentile(points[:, 2], 15)]
    return np.concatenate([points, low * [1, 1, 0]])


def _outward(vertices: F64) -> Part:
    """Returns a hull's triangles, turned so that their normals point out."""
    shape = ConvexHull(vertices)
    used, rows = np.unique(shape.simplices, return_inverse=True)
    corners, faces = vertices[used], rows.reshape(-1, 3).astype(np.int32)
    a, b, c = (corners[faces[:, k]] for k in range(3))
    inward = np.einsum("ni,ni->n", np.cross(b - a, c - a), shape.equations[:, :3]) < 0
    faces[inward] = faces[inward][:, ::-1]
    return Part(corners, faces)


def _decomposed(points: F64, settings: HullSettings) -> tuple[Part, ...]:
    import coacd
    from skimage.measure import marching_cubes

    coacd.set_log_level("error")
    size = settings.voxel_m
    low = points.min(0) - 3 * size
    cells = np.floor((points - low) / size).astype(int)
    full = np.zeros(cells.max(0) + 4, bool)
    full[tuple(cells.T)] = True
    solid = ndimage.binary_closing(full, iterations=2)
    ground = int(-low[2] / size)
    solid[:, :, ground] = ndimage.binary_fill_holes(solid[:, :, ground : ground + 2].any(axis=2))
    solid = ndimage.binary_fill_holes(solid)  # what is closed all around is solid, a cup stays hollow
    # 1 at the centres of the outermost voxels: the surface runs there and not around them
    inside = ndimage.distance_transform_edt(np.pad(solid, 1)).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(inside, 0.9)
    mesh = coacd.Mesh(low + (vertices - 0.5) * size, faces[:, ::-1])
    found = coacd.run_coacd(
        mesh, threshold=settings.concavity, max_convex_hull=settings.parts, seed=settings.seed, **QUICK
    )
    return tuple(hull(np.asarray(corners, float), settings) for corners, _ in found)
