"""This module finds the metric scale. Without a board, points or a length a scan has no size and is refused.

board:   corners of a printed board ─► triangulated ─► similarity fitted to all sightings ─┐  (twin.scan.board)
points:  typed pixels ─► points in SfM units ─► similarity to the places typed (Umeyama) ──┼─► scale, origin, axes
length:  two pixels of one photo ─► their rays meet the table ─► SfM units against metres ─┴─► scale alone

A point typed in two or more photos is where its rays meet; typed in one photo it must lie on the table top.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.errors import SceneError
from protos.schema import F64
from twin.camera import pose_of
from twin.scan.capture import KnownPoint
from twin.scan.sfm import Reconstruction, View
from twin.scan.table import Plane

NEEDED = (
    "nothing gives the scan its size. Put a printed ArUco board on the table and describe it in capture.toml beside "
    "the photos (examples/capture/capture.toml); or click three or more points of known place (twinrl points PHOTOS), "
    "or type them: --points 00.png:120,340=-0.5,0.2,0 ...; or give a known length between two points of the table "
    "top: --length 0.30 --photo 00.png --from 120,340 --to 410,355"
)


FEWEST = 3

THIN = 0.05
"""Extent across, as a share of the extent along, below which points count as lying on one line."""

ON_TABLE_M = 0.002


@dataclass(frozen=True, kw_only=True)
class Length:
    """A known distance between two points of the table top, pointed at in one photo (pixels of the original file)."""

    metres: float
    photo: str
    start: tuple[float, float]
    end: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The metric size of a reconstruction, and how it is known."""

    metres_per_unit: float
    provenance: str
    spread_percent: float | None = None
    """Standard deviation of the scale over the known distances."""
    residual_mm: float | None = None
    """RMS distance between the known points as fitted and as triangulated."""
    residual_px: float | None = None
    """RMS distance between the known points as fitted and as seen in the photos."""
    sfm_from_reference: F64 | None = None
    """Pose (4, 4) of the reference (the board, the typed points), its origin in SfM units."""
    base_from_reference: F64 | None = None
    """Pose (4, 4) of the reference in the robot's base frame [m]; its origin lies on the table."""


def similarity(source: F64, target: F64) -> tuple[float, F64, F64]:
    """Fits scale, rotation (3, 3), translation (3,): target ≈ scale R source + t (Umeyama, PAMI 1991, eqs. 40-42)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, d, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u * sign @ vt
    scale = float((d * sign).sum() / (a**2).sum())
    return scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0)


def triangulate(scene: Reconstruction, sightings: Sequence[tuple[int, F64]]) -> F64:
    """Returns the point (3,) nearest to all rays (direct linear transform, Hartley & Zisserman section 12.2)."""
    rows = []
    for index, pixel in sightings:
        camera = scene.views[index].camera
        projection = camera.intrinsics @ camera.camera_from_base[:3]
        rows += [pixel[0] * projection[2] - projection[0], pixel[1] * projection[2] - projection[1]]
    system = np.array(rows)
    homogeneous = np.linalg.svd(system / np.linalg.norm(system, axis=1, keepdims=True))[2][-1]
    return homogeneous[:3] / homogeneous[3]


def from_points(scene: Reconstruction, table: Plane, points: Sequence[KnownPoint], shrink: float) -> Scale:
    """Returns scale, origin and axes from points whose place in the base frame is known.

    `shrink` is working pixels per pixel of the photo file. Raises `SceneError` for fewer than three places, places on a
    line, and points that the photos do not determine.
    """
    sightings: dict[tuple[float, float, float], list[tuple[int, F64]]] = {}
    for point in points:
        index = _view(scene, point.photo, "points")
        pixel = _straight(scene, scene.views[index], [point.pixel], shrink, f"point {point.pixel} of {point.photo}")[0]
        sightings.setdefault(point.base_m, []).append((index, pixel))
    places = np.array(list(sightings))
    _check_spread(places)
    found = np.array([_place(scene, table, base, seen) for base, seen in sightings.items()])
    scale, rotation, origin = similarity(places, found)
    fitted = scale * places @ rotation.T + origin
    misses = [
        pixel - scene.views[index].camera.project(point)[:2]
        for point, seen in zip(fitted, sightings.values(), strict=True)
        for index, pixel in seen
    ]
    a, b = np.triu_indices(len(places), 1)
    ratio = np.linalg.norm(found[a] - found[b], axis=1) / np.linalg.norm(places[a] - places[b], axis=1) / scale
    middle = np.array([*places[:, :2].mean(axis=0), 0.0])
    residual_mm, residual_px = 1e3 * rms(found - fitted) / scale, rms(np.array(misses))
    return Scale(
        metres_per_unit=1 / scale,
        provenance=f"{len(points)} typed pixels of {len(places)} known places "
        f"(they miss by {residual_mm:.1f} mm, {residual_px:.2f} px RMS)",
        spread_percent=100 * float(np.std(ratio)),
        residual_mm=residual_mm,
        residual_px=residual_px,
        sfm_from_reference=pose_of(scale * rotation @ middle + origin, rotation),
        base_from_reference=pose_of(middle, np.eye(3)),
    )


def from_length(scene: Reconstruction, table: Plane, length: Length, shrink: float) -> Scale:
    """Returns the scale from one known length on the table. Raises `SceneError`."""
    if not length.metres > 0:
        raise SceneError(f"--length {length.metres}: a length in metres, greater than 0")
    view = scene.views[_view(scene, length.photo, "photo")]
    ends = (length.start, length.end)
    pixels = _straight(scene, view, ends, shrink, f"--from {length.start} --to {length.end}")
    start, end = table.hit(view.camera, pixels)
    units = float(np.linalg.norm(end - start))
    if not units > 0:
        raise SceneError(
            f"--from {length.start} --to {length.end}: both must show the table top, apart from each other"
        )
    return Scale(
        metres_per_unit=length.metres / units,
        provenance=f"{length.metres:g} m between pixels {length.start} and {length.end} of {length.photo}",
    )


def _check_spread(places: F64) -> None:
    if len(places) < FEWEST:
        raise SceneError(f"{len(places)} known places: at least {FEWEST} are needed, not on one line")
    along, across, _ = np.linalg.svd(places - places.mean(axis=0), compute_uv=False)[:3]
    if across < THIN * along:
        raise SceneError(
            f"the {len(places)} known places lie on one line (within {100 * across / max(along, 1e-12):.0f} % of its "
            "length), about which the scene could still turn; add one well beside it"
        )


def _place(scene: Reconstruction, table: Plane, base: tuple[float, float, float], seen: list[tuple[int, F64]]) -> F64:
    """Returns a known place (3,) in SfM units."""
    if len({index for index, _ in seen}) > 1:
        return triangulate(scene, seen)
    index, pixel = seen[0]
    view = scene.views[index]
    if abs(base[2]) > ON_TABLE_M:
        raise SceneError(
            f"point {base} is {base[2] * 1e3:.0f} mm off the table and typed in {view.name} only; "
            "type it in a second photo"
        )
    point = table.hit(view.camera, pixel[None])[0]
    if not np.isfinite(point).all():
        raise SceneError(
            f"point {base} in {view.name}: its ray does not meet the table; choose a pixel of the table top"
        )
    return point


def _view(scene: Reconstruction, name: str, option: str) -> int:
    names = [view.name for view in scene.views]
    if name not in names:
        raise SceneError(f"--{option} {name}: choose a registered photo: {', '.join(names)}")
    return names.index(name)


def _straight(
    scene: Reconstruction, view: View, pixels: Sequence[tuple[float, float]], shrink: float, what: str
) -> F64:
    """Converts typed pixels of a photo's file to pixels (n, 2) of the undistorted view."""
    size = np.array([view.camera.width, view.camera.height]) / shrink
    given = np.array(pixels, float)
    if (given < 0).any() or (given > size).any():
        raise SceneError(f"{what}: {view.name} has {size[0]:.0f} x {size[1]:.0f} pixels")
    return scene.lens.undistort(given * shrink)


def rms(differences: F64) -> float:
    """Returns the root mean square length of differences (n, k)."""
    return float(np.sqrt((differences**2).sum(axis=1).mean()))
