"""The splats that training starts from.

sparse points ──► more between neighbours ──────────────────────────────┐
views ─► cells of the picture that no point falls into ─► a splat in the ├─► means, quaternions, scales, …
         picture's colour, at the depth of matched points close by ──────┘
         or, with none close by, on the table plane or a dome far behind

Structure from motion finds points where there is texture. Without the second row a plain wall would start empty and
training would paint it with blobs that hang in front of the camera.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from protos.schema import F64
from twin.scan.sfm import Reconstruction, View


@dataclass(frozen=True, kw_only=True)
class SeedSettings:
    """How many splats, and where."""

    splats: int = 15_000
    cell: float = 1 / 40
    """Size of the cells that must not stay empty, as a share of the picture's width."""
    close: float = 4.0
    """Matched points lend their depth to cells up to so many cells away."""
    dome: float = 4.0
    """Radius of the dome over the table, in median distances from a camera to the points."""
    spread: float = 0.6
    """Standard deviation of a splat over its distance to the neighbours."""
    opacity: float = 0.8
    seed: int = 0


def start(scene: Reconstruction, settings: SeedSettings) -> tuple[F64, F64, F64, F64, F64]:
    """Means (n, 3) [m], quaternions (n, 4), log scales (n, 3), opacity logits (n,), colour logits (n, 3)."""
    rng = np.random.default_rng(settings.seed)
    filled, paint = _fill(scene, settings)
    room = max(settings.splats - len(scene.points), settings.splats // 2)
    if len(filled) > room:
        chosen = rng.choice(len(filled), room, replace=False)
        filled, paint = filled[chosen], paint[chosen]
    rounds = max(1, round((settings.splats - len(filled)) / len(scene.points)))
    points, colours = _interpolated(scene.points, scene.colours / 255, rounds, rng)
    points = np.concatenate([filled, points])[: settings.splats]
    colours = np.concatenate([paint, colours])[: settings.splats]
    gaps = cKDTree(points).query(points, 4)[0][:, 1:].mean(axis=1)
    radius = settings.spread * np.clip(gaps, 1e-4, np.percentile(gaps, 99))
    turned = np.array([1.0, 0, 0, 0]) + rng.normal(0, 0.1, (len(points), 4))
    inner = 0.01 + 0.98 * colours
    opacity = math.log(settings.opacity / (1 - settings.opacity))
    return (
        points,
        turned,
        np.log(radius)[:, None].repeat(3, axis=1),
        np.full(len(points), opacity),
        np.log(inner / (1 - inner)),
    )


def _interpolated(points: F64, colours: F64, rounds: int, rng: np.random.Generator) -> tuple[F64, F64]:
    """The points, and `rounds` - 1 times as many between each and one of its nearest neighbours."""
    neighbours = cKDTree(points).query(points, min(8, len(points)))[1]
    places, paints = [points], [colours]
    for k in range(rounds - 1):
        other = neighbours[:, 1 + k % (neighbours.shape[1] - 1)]
        share = rng.uniform(0.3, 0.7, (len(points), 1))
        places.append(points * share + points[other] * (1 - share))
        paints.append((colours + colours[other]) / 2)
    return np.concatenate(places), np.concatenate(paints)


def _fill(scene: Reconstruction, settings: SeedSettings) -> tuple[F64, F64]:
    """Points and colours for the empty cells, view by view; what one view adds fills cells of the next."""
    middle = np.median(scene.points, axis=0)
    eyes = np.stack([view.camera.base_from_camera[:3, 3] for view in scene.views])
    dome = settings.dome * float(np.median(np.linalg.norm(eyes - middle, axis=1)))
    places, paints = np.empty((0, 3)), np.empty((0, 3))
    for view in scene.views:
        place, paint = _fill_view(view, scene.points[view.seen], np.concatenate([scene.points, places]), dome, settings)
        places, paints = np.concatenate([places, place]), np.concatenate([paints, paint])
    return places, paints


def _fill_view(view: View, matched: F64, known: F64, dome: float, settings: SeedSettings) -> tuple[F64, F64]:
    camera = view.camera
    side = settings.cell * camera.width
    columns, rows = math.ceil(camera.width / side), math.ceil(camera.height / side)
    u, v, z = camera.project(known).T
    inside = (z > 0) & (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
    empty = np.ones((rows, columns), bool)
    empty[(v[inside] / side).astype(int), (u[inside] / side).astype(int)] = False
    row, column = np.nonzero(empty)
    pixels = np.minimum((np.c_[column, row] + 0.5) * side, [camera.width - 0.5, camera.height - 0.5])
    shows = view.valid[pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
    pixels = pixels[shows]
    if not len(pixels) or len(matched) < 3:
        return np.empty((0, 3)), np.empty((0, 3))
    shown = camera.project(matched)
    distance, index = cKDTree(shown[:, :2]).query(pixels, 3)
    weight = 1 / np.maximum(distance, 1)
    depth = (weight * shown[index, 2]).sum(axis=1) / weight.sum(axis=1)
    local = np.c_[(pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy], np.ones(len(pixels))]
    eye, rays = camera.base_from_camera[:3, 3], local @ camera.base_from_camera[:3, :3].T
    with np.errstate(divide="ignore"):
        table = np.where(rays[:, 2] < 0, -eye[2] / rays[:, 2], np.inf)
    behind = np.minimum(table, dome / np.linalg.norm(rays, axis=1))
    depth = np.where(distance[:, 0] <= settings.close * side, depth, behind)
    return eye + rays * depth[:, None], _mean_colours(view, pixels, int(side))


def _mean_colours(view: View, pixels: F64, side: int) -> F64:
    """Mean colour (n, 3) 0..1 of the valid pixels of a square around each of `pixels`."""
    weight = view.valid.astype(np.float32)
    total = cv2.blur(weight, (side, side))
    smooth = cv2.blur(view.picture * weight[..., None], (side, side)) / np.maximum(total, 1e-6)[..., None]
    return smooth[pixels[:, 1].astype(int), pixels[:, 0].astype(int)].astype(float) / 255
