"""This module brings the scan's robot points onto the model's surface (trimmed ICP from several starts).

    robot points of the scan ─┐                  ┌─► nearest pairs, both ways ─► worst dropped ─► step ─┐
    surface of the model ─────┴─► many starts ───┴──────────────────────────────────────────────────────┴─► best

Pairs are looked for both ways: scan points alone would fit on any patch of the model, and with a free scale they
would shrink onto a point. The step minimises the distance to the model's tangent planes (Chen & Medioni 1991), with a
little of the distance between the points themselves so that flat parts do not slide.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from protos.errors import SceneError
from protos.schema import F64
from twin.align.refine import Similarity, nudged
from twin.align.robot import Surface
from twin.rotations import about_z

STALLED = 4
"""Steps without progress after which a start is given up."""
SLIDE = 0.05
"""Weight of the distance along the surface, relative to that across it."""


@dataclass(frozen=True, kw_only=True)
class IcpSettings:
    """Settings of the search from many starts."""

    turns: int = 12
    """Number of headings about the vertical that are tried; the scan's z axis must point up."""
    stretches: tuple[float, ...] = (0.75, 1.0, 1.33)
    """Scales that are tried around that of equal extent, when the scale is free."""
    points: int = 600
    """Number of points of each side while searching; five times as many at the end."""
    steps: int = 40
    kept_scan: float = 0.85
    """Share of the scan's points that must lie on the robot; the others may be anything."""
    kept_model: float = 0.55
    """Share of the model's surface that the photos saw."""
    least_points: int = 50
    limit_mm: float = 60.0
    """RMS distance of the points that count from the model, above which the result is refused."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Coarse:
    """The place of the scan's points on the model."""

    base_from_scan: Similarity
    residual_mm: float
    """RMS distance of the pairs that count."""


def register(scan: F64, model: Surface, start: Similarity, settings: IcpSettings, *, scale: bool) -> Coarse:
    """Returns the best result of all starts, `start` among them, for scan points (n, 3). Raises `SceneError`."""
    if len(scan) < settings.least_points:
        raise SceneError(
            f"the scan has {len(scan)} points on the robot, {settings.least_points} are needed; check that the masks "
            "are white where the robot is and belong to these photos"
        )
    rng = np.random.default_rng(settings.seed)
    few, seen = _some(scan, settings.points, rng), _some_surface(model, settings.points, rng)
    fits = [_fit(few, seen, s, settings, scale) for s in _starts(few, seen, start, settings, scale)]
    best = min(fits, key=lambda fit: fit.residual_mm)
    many, surface = _some(scan, 5 * settings.points, rng), _some_surface(model, 5 * settings.points, rng)
    fit = _fit(many, surface, best.base_from_scan, settings, scale)
    if fit.residual_mm > settings.limit_mm:
        raise SceneError(
            f"the scan's robot points stay {fit.residual_mm:.0f} mm from the model (limit {settings.limit_mm:g} mm); "
            "check the joint angles and the masks"
        )
    return fit


def _starts(scan: F64, model: Surface, start: Similarity, settings: IcpSettings, scale: bool) -> Iterator[Similarity]:
    yield start
    size = np.std(model.points, axis=0).mean() / np.std(scan, axis=0).mean()
    for stretch in settings.stretches if scale else (start.scale / size,):
        for turn in about_z(np.arange(settings.turns) * 2 * np.pi / settings.turns):
            pose = np.eye(4)
            pose[:3, :3] = turn @ start.pose[:3, :3]
            pose[:3, 3] = model.points.mean(axis=0) - size * stretch * pose[:3, :3] @ scan.mean(axis=0)
            yield Similarity(pose=pose, scale=float(size * stretch))


def _fit(scan: F64, model: Surface, at: Similarity, settings: IcpSettings, scale: bool) -> Coarse:
    """Runs iterated closest points from one start."""
    tree = cKDTree(model.points)
    best, poor = Coarse(base_from_scan=at, residual_mm=float("inf")), 0
    for _ in range(settings.steps):
        moved = at.apply(scan)
        ours, theirs, residual = _pairs(moved, tree, settings)
        if residual < best.residual_mm * 0.999:
            best, poor = Coarse(base_from_scan=at, residual_mm=residual), 0
        elif (poor := poor + 1) == STALLED:
            break
        pivot = moved.mean(axis=0)
        arms, gaps = moved[ours] - pivot, moved[ours] - model.points[theirs]
        at = nudged(at, _step(arms, gaps, model.normals[theirs], scale), pivot)
    return best


def _pairs(moved: F64, tree: cKDTree, settings: IcpSettings) -> tuple[NDArray[np.intp], NDArray[np.intp], float]:
    """Returns rows of scan and model that belong together, the worst left out, and their RMS distance [mm]."""
    to_model, theirs = tree.query(moved)
    to_scan, ours = cKDTree(moved).query(tree.data)
    near = np.argsort(to_model)[: round(settings.kept_scan * len(moved))]
    close = np.argsort(to_scan)[: round(settings.kept_model * tree.n)]
    distance = np.concatenate([to_model[near], to_scan[close]])
    rms = 1e3 * float(np.sqrt((distance**2).mean()))
    return np.concatenate([near, ours[close]]), np.concatenate([theirs[near], close]), rms


def _step(arms: F64, gaps: F64, normals: F64, scale: bool) -> F64:
    """Returns translation, rotation vector and, if asked, log scale that close the gaps best, to first order."""
    zero = np.zeros((len(arms), 3, 3))
    J = np.concatenate([zero + np.eye(3), np.cross(np.eye(3), arms[:, None, :]).transpose(0, 2, 1)], 2)
    if scale:
        J = np.concatenate([J, arms[:, :, None]], 2)
    weight = np.einsum("ni,nj->nij", normals, normals) + SLIDE * np.eye(3)
    curvature = np.einsum("nik,nij,njl->kl", J, weight, J)
    return -np.linalg.solve(curvature + 1e-9 * np.eye(len(curvature)), np.einsum("nik,nij,nj->k", J, weight, gaps))


def _some(points: F64, count: int, rng: np.random.Generator) -> F64:
    return points[rng.permutation(len(points))[:count]]


def _some_surface(surface: Surface, count: int, rng: np.random.Generator) -> Surface:
    rows = rng.permutation(len(surface.points))[:count]
    return Surface(surface.points[rows], surface.normals[rows])
