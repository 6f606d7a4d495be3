"""Metric scale, from a printed marker board or from one known length. Without either a scan has no size and stops here.

board:   markers found in the views ─► corners triangulated ─► similarity fitted to all sightings ─► scale, origin, axes
length:  two pixels of one photo ─► their rays meet the table ─► distance in SfM units against the length in metres
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import least_squares

from protos.errors import SceneError
from twin.rotations import F64, matrix_from_vector, vector_from_matrix
from twin.scan.capture import Board
from twin.scan.sfm import Reconstruction
from twin.scan.table import Plane

NEEDED = (
    "nothing gives the scan its size. Either put a printed ArUco board on the table and describe it in capture.toml "
    "beside the photos (examples/capture/capture.toml), or name a known length between two points of the table top: "
    "--length 0.30 --photo 00.png --from 120,340 --to 410,355"
)
SIGHTINGS = 3
"""Views in which a marker must be seen before its corners count."""
Sightings = dict[tuple[int, int], list[tuple[int, F64]]]
"""(marker, corner) -> [(index of the view, pixel (2,))]."""


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
    """Standard deviation of the scale over the sides of all markers."""
    reprojection_px: float | None = None
    """RMS distance between the board's corners as fitted and as seen."""
    sfm_from_board: F64 | None = None
    """(4, 4): the board's axes, and its origin in SfM units."""


def from_length(scene: Reconstruction, table: Plane, length: Length, shrink: float) -> Scale:
    """Scale from one known length on the table. `shrink` is working pixels per pixel of the photo file."""
    if not length.metres > 0:
        raise SceneError(f"--length {length.metres}: a length in metres, greater than 0")
    view = next((v for v in scene.views if v.name == length.photo), None)
    if view is None:
        raise SceneError(f"--photo {length.photo}: choose a registered photo: {', '.join(v.name for v in scene.views)}")
    pixels = np.array([length.start, length.end], float)
    size = np.array([view.camera.width, view.camera.height]) / shrink
    if (pixels < 0).any() or (pixels > size).any():
        raise SceneError(
            f"--from {length.start} --to {length.end}: {length.photo} has {size[0]:.0f} x {size[1]:.0f} pixels"
        )
    ends = table.hit(view.camera, scene.undistort(pixels * shrink))
    units = float(np.linalg.norm(ends[1] - ends[0]))
    if not units > 0:
        raise SceneError(
            f"--from {length.start} --to {length.end}: both must show the table top, apart from each other"
        )
    return Scale(
        metres_per_unit=length.metres / units,
        provenance=f"{length.metres:g} m between pixels {length.start} and {length.end} of {length.photo}",
    )


def from_board(scene: Reconstruction, board: Board) -> Scale:
    """Scale, origin and axes from the printed board."""
    seen = _sightings(scene, board)
    corners = {key: _triangulate(scene, sightings) for key, sightings in seen.items() if len(sightings) >= SIGHTINGS}
    if len(corners) < 4:
        last = board.first_id + board.columns * board.rows - 1
        raise SceneError(
            f"the board ({board.dictionary}, ids {board.first_id} to {last}) was not found in {SIGHTINGS} views; "
            "check its entries in capture.toml, print it larger, or use --length"
        )
    kept = {key: seen[key] for key in corners}
    first = similarity(_page(board, kept), np.array(list(corners.values())))
    scale, rotation, origin, residual = _fit(scene, board, kept, first)
    spread = _spread_percent(board, corners, scale)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, origin
    views = len({index for sightings in kept.values() for index, _ in sightings})
    return Scale(
        metres_per_unit=1 / scale,
        provenance=f"ArUco board {board.dictionary}, {board.columns} x {board.rows} markers of "
        f"{board.marker_m * 1e3:g} mm, seen in {views} views "
        f"(distances spread by {spread:.2f} %, corners reproject to {residual:.2f} px)",
        spread_percent=spread,
        reprojection_px=residual,
        sfm_from_board=pose,
    )


def similarity(source: F64, target: F64) -> tuple[float, F64, F64]:
    """Scale, rotation (3, 3), translation (3,) with target ≈ scale R source + t (Umeyama, PAMI 1991, eqs. 40-42)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, d, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u * sign @ vt
    scale = float((d * sign).sum() / (a**2).sum())
    return scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0)


def _sightings(scene: Reconstruction, board: Board) -> Sightings:
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, board.dictionary))
    detector = cv2.aruco.ArucoDetector(dictionary, parameters)
    wanted = board.corners()
    seen: Sightings = {}
    for index, view in enumerate(scene.views):
        grey = cv2.cvtColor(view.picture, cv2.COLOR_RGB2GRAY)
        # At double size the sub-pixel search window fits into the cells of small, far markers.
        squares, ids, _ = detector.detectMarkers(cv2.resize(grey, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC))
        for square, marker in zip(squares, [] if ids is None else ids.ravel().tolist(), strict=True):
            for corner in range(4 if marker in wanted else 0):
                seen.setdefault((marker, corner), []).append((index, (square[0, corner].astype(float) + 0.5) / 2))
    return seen


def _triangulate(scene: Reconstruction, sightings: list[tuple[int, F64]]) -> F64:
    """The point (3,) nearest to all rays (direct linear transform, Hartley & Zisserman section 12.2)."""
    rows = []
    for index, pixel in sightings:
        camera = scene.views[index].camera
        projection = camera.intrinsics @ camera.camera_from_base[:3]
        rows += [pixel[0] * projection[2] - projection[0], pixel[1] * projection[2] - projection[1]]
    system = np.array(rows)
    homogeneous = np.linalg.svd(system / np.linalg.norm(system, axis=1, keepdims=True))[2][-1]
    return homogeneous[:3] / homogeneous[3]


def _page(board: Board, keys: Iterable[tuple[int, int]], growth: float = 0.0) -> F64:
    """Corners (n, 3) [m] in the board frame, every marker enlarged about its centre by `growth`."""
    layout = board.corners()
    return np.array([layout[m].mean(axis=0) + (1 + growth) * (layout[m][c] - layout[m].mean(axis=0)) for m, c in keys])


def _fit(
    scene: Reconstruction, board: Board, seen: Sightings, first: tuple[float, F64, F64]
) -> tuple[float, F64, F64, float]:
    """The similarity board -> SfM with the least reprojection error, and that error (RMS, px); outliers count little.

    Light blooms into the black, so every marker looks a little too small. Its growth is fitted along with the pose, and
    the scale comes from the distances between the markers; a board of one marker has to go without.
    """
    rows = np.repeat(np.arange(len(seen)), [len(sightings) for sightings in seen.values()])
    views = np.array([index for sightings in seen.values() for index, _ in sightings])
    pixels = np.array([pixel for sightings in seen.values() for _, pixel in sightings])
    poses = np.stack([view.camera.camera_from_base for view in scene.views])[views]
    camera = scene.views[0].camera
    blooms = len({marker for marker, _ in seen}) > 1

    def residuals(x: F64) -> F64:
        page = _page(board, seen, x[7] if blooms else 0.0)
        points = np.exp(x[0]) * page[rows] @ matrix_from_vector(x[1:4]).T + x[4:7]
        local = np.einsum("nij,nj->ni", poses[:, :3, :3], points) + poses[:, :3, 3]
        shown = local[:, :2] / local[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
        return (shown - pixels).ravel()

    scale, rotation, translation = first
    start = np.concatenate([[np.log(scale)], vector_from_matrix(rotation), translation, [0.0] * blooms])
    best = least_squares(residuals, start, loss="soft_l1", f_scale=0.5).x
    error = np.sqrt((residuals(best).reshape(-1, 2) ** 2).sum(axis=1).mean())
    return float(np.exp(best[0])), matrix_from_vector(best[1:4]), best[4:7], float(error)


def _spread_percent(board: Board, corners: dict[tuple[int, int], F64], scale: float) -> float:
    """Standard deviation of triangulated over printed distances: between markers, or within a single one."""
    markers = sorted({m for m, _ in corners if all((m, c) in corners for c in range(4))})
    layout = board.corners()
    if len(markers) > 1:
        printed = np.array([layout[m].mean(axis=0) for m in markers])
        found = np.array([np.mean([corners[m, c] for c in range(4)], axis=0) for m in markers])
    else:
        printed = np.array([layout[m][c] for m, c in corners])
        found = np.array(list(corners.values()))
    a, b = np.triu_indices(len(printed), 1)
    ratio = np.linalg.norm(found[a] - found[b], axis=1) / np.linalg.norm(printed[a] - printed[b], axis=1)
    return 100 * float(np.std(ratio)) / scale
