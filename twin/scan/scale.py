"""Metric scale. Without a board, points or a length a scan has no size and stops here.

board:   corners of a printed board ─► triangulated ─► similarity fitted to all sightings ─┐  (`board`)
points:  typed pixels and where they are in the base frame ─► the same ────────────────────┼─► scale, origin, axes
length:  two pixels of one photo ─► their rays meet the table ─► SfM units against metres ─┴─► scale alone   (`points`)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.schema import F64
from twin.scan.sfm import Reconstruction

NEEDED = (
    "nothing gives the scan its size. Put a printed ArUco board on the table and describe it in capture.toml beside "
    "the photos (examples/capture/capture.toml); or click three or more points of known place (twinrl points PHOTOS), "
    "or type them: --points 00.png:120,340=-0.5,0.2,0 ...; or give a known length between two points of the table "
    "top: --length 0.30 --photo 00.png --from 120,340 --to 410,355"
)


@dataclass(frozen=True, kw_only=True)
class Length:
    """A known distance between two points of the table top, pointed at in one photo (pixels of the original file)."""

    metres: float
    photo: str
    start: tuple[float, float]
    end: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many metres one SfM unit is, and how that is known."""

    metres_per_unit: float
    provenance: str
    spread_percent: float | None = None
    """Standard deviation of the scale over the known distances."""
    residual_mm: float | None = None
    """RMS distance between the known points as fitted and as triangulated."""
    residual_px: float | None = None
    """RMS distance between the known points as fitted and as seen in the photos."""
    sfm_from_reference: F64 | None = None
    """(4, 4): axes of what is known (the board, the typed points), its origin in SfM units."""
    base_from_reference: F64 | None = None
    """(4, 4): where that is in the robot's base frame [m]; its origin lies on the table."""


def similarity(source: F64, target: F64) -> tuple[float, F64, F64]:
    """Scale, rotation (3, 3), translation (3,) with target ≈ scale R source + t (Umeyama, PAMI 1991, eqs. 40-42)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, d, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u * sign @ vt
    scale = float((d * sign).sum() / (a**2).sum())
    return scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0)


def triangulate(scene: Reconstruction, sightings: Sequence[tuple[int, F64]]) -> F64:
    """The point (3,) nearest to all rays (direct linear transform, Hartley & Zisserman section 12.2)."""
    rows = []
    for index, pixel in sightings:
        camera = scene.views[index].camera
        projection = camera.intrinsics @ camera.camera_from_base[:3]
        rows += [pixel[0] * projection[2] - projection[0], pixel[1] * projection[2] - projection[1]]
    system = np.array(rows)
    homogeneous = np.linalg.svd(system / np.linalg.norm(system, axis=1, keepdims=True))[2][-1]
    return homogeneous[:3] / homogeneous[3]
