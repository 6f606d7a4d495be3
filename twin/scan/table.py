"""This module finds the table top, a plane in the sparse points.

The dominant plane may be a wall or the floor. So every candidate's normal must point up as the photographer held the
camera (the mean of the cameras' up axes, within `tilt_deg`), all cameras must be above it, and of those the plane with
the most support near the spots the cameras look at is taken.
"""

from dataclasses import dataclass

import numpy as np

from protos.errors import SceneError
from protos.schema import F64
from twin.camera import Camera
from twin.scan.sfm import Reconstruction


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """Settings of the search for the table plane. Lengths are relative, because nothing is metric yet."""

    tilt_deg: float = 50.0
    """Largest angle between the table's normal and the cameras' mean up axis; the photos look down at a table."""
    thickness: float = 0.006
    """Distance of the table's points from the plane, as a share of the median distance from cameras to points."""
    draws: int = 2000
    least_points: int = 60
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A plane has the points p with normal · p = offset; the normal points up, to the cameras."""

    normal: F64  # (3,)
    offset: float
    support: int
    """Number of sparse points on the plane."""
    spread: float
    """RMS distance of those points from the plane, in the reconstruction's units."""

    def height(self, points: F64) -> F64:
        """Returns the signed distance of points (..., 3) above the plane."""
        return points @ self.normal - self.offset

    def hit(self, camera: Camera, pixels: F64) -> F64:
        """Returns the points (n, 3) where rays through pixels (n, 2) of a view meet the plane, or NaN."""
        k = np.array([camera.fx, camera.fy])
        local = np.c_[(np.asarray(pixels, float) - [camera.cx, camera.cy]) / k, np.ones(len(pixels))]
        rays = local @ camera.base_from_camera[:3, :3].T
        eye = camera.base_from_camera[:3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = -self.height(eye) / (rays @ self.normal)
        return eye + np.where(distance > 0, distance, np.nan)[:, None] * rays


def find_table(scene: Reconstruction, settings: TableSettings) -> Plane:
    """Finds the table by RANSAC over point triples and a least-squares refit. Raises `SceneError`."""
    eyes = np.stack([view.camera.base_from_camera[:3, 3] for view in scene.views])
    up = -np.mean([view.camera.base_from_camera[:3, 1] for view in scene.views], axis=0)
    up /= np.linalg.norm(up)
    distance = np.median(np.linalg.norm(scene.points[None] - eyes[:, None], axis=-1))
    limit = settings.thickness * distance
    weight = _looked_at(scene)
    rng = np.random.default_rng(settings.seed)
    best: tuple[float, F64, float] = (0.0, up, 0.0)
    for triple in rng.choice(len(scene.points), (settings.draws, 3), p=weight / weight.sum()):
        a, b, c = scene.points[triple]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-12:
            continue
        normal *= np.sign(normal @ up) / length
        if normal @ up < np.cos(np.radians(settings.tilt_deg)) or (eyes @ normal).min() < normal @ a:
            continue
        score = float(weight[np.abs(scene.points @ normal - normal @ a) < limit].sum())
        if score > best[0]:
            best = score, normal, float(normal @ a)
    return _refit(scene.points, best[1], best[2], limit, settings)


def _looked_at(scene: Reconstruction) -> F64:
    """Returns how central each point is in the views (n,): the photographer aimed at the table."""
    weight = np.full(len(scene.points), 1e-9)
    for view in scene.views:
        u, v, z = view.camera.project(scene.points).T
        across = np.hypot(u - view.camera.cx, v - view.camera.cy) / view.camera.width
        weight += np.where(z > 0, np.exp(-((across / 0.35) ** 2)), 0)
    return weight / len(scene.views)


def _refit(points: F64, normal: F64, offset: float, limit: float, settings: TableSettings) -> Plane:
    for _ in range(5):
        near = points[np.abs(points @ normal - offset) < limit]
        if len(near) < settings.least_points:
            raise SceneError(
                f"no table found: the best level plane holds {len(near)} points, {settings.least_points} are needed; "
                "hold the camera upright, keep the table in the middle, lay something patterned on a bare table"
            )
        centre = near.mean(axis=0)
        axis = np.linalg.svd(near - centre, full_matrices=False)[2][2]
        normal = axis * np.sign(axis @ normal)
        offset = float(normal @ centre)
    residual = near @ normal - offset
    return Plane(normal=normal, offset=offset, support=len(near), spread=float(np.sqrt((residual**2).mean())))
