"""This module finds scale, origin and axes from a printed board.

views ─► detector ─► corners seen ─► triangulated ─► similarity ─► fitted to all sightings ─► fitted to the print itself
                                                                     (reprojection, px)      (ArUco only: `refine`)

Detected corners of a small marker are off by a third of a pixel, and over a board of a hand's width that turns the
robot's base by a tenth of a degree: millimetres at arm's length. The print has thousands of pixels on edges. So the
grey values of points spread over every marker are compared with the printed pattern, and the similarity board -> SfM
that explains them best is found by Gauss-Newton steps (Lucas & Kanade 1981; Baker & Matthews, IJCV 2004).

    grey(view, π(s R page + t)) ≈ gain · print + offset       gain, offset: per marker and view, solved in closed form
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from protos.errors import SceneError
from protos.schema import F64, U8
from twin.camera import pose_of
from twin.rotations import about_z, matrix_from_vector, vector_from_matrix
from twin.scan.capture import Board, Key
from twin.scan.scale import Scale, rms, similarity, triangulate
from twin.scan.sfm import Reconstruction

VIEWS = 3
"""Views in which a corner must be seen before it counts."""
Sightings = dict[Key, list[tuple[int, F64]]]
"""Sightings by corner: [(index of the view, pixel (2,))]."""


POINTS = 24
"""Points along a marker's side."""

MARGIN = 0.1
"""White around a marker that is compared too, as a share of its side."""

STEPS = 12

OUTLIER = 0.15
"""Difference, as a share of the contrast, that counts half: shadows, fingers, glare."""

_Fit = tuple[float, F64, F64, float]
"""Scale, rotation (3, 3), origin (3,) and growth of the markers: SfM = scale R (page, grown) + origin."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A printed marker and the views that show it."""

    corners: F64
    """(4, 3) in the board frame [m]: top left, top right, bottom right, bottom left."""
    image: U8
    """One pixel per cell, 0 black, 255 white."""
    views: tuple[int, ...]


def from_board(scene: Reconstruction, board: Board) -> Scale:
    """Returns scale, origin and axes from the printed board. Raises `SceneError` when it is not found."""
    seen = _sightings(scene, board)
    corners = {key: triangulate(scene, sightings) for key, sightings in seen.items() if len(sightings) >= VIEWS}
    if len(corners) < 4:
        raise SceneError(
            f"the board ({board.describe()}) was not found in {VIEWS} views; "
            "check its entries in capture.toml, print it larger, or use --length"
        )
    kept = {key: seen[key] for key in corners}
    fit = _fit(scene, board, kept, similarity(_page(board, kept), np.array(list(corners.values()))))
    if board.kind == "aruco":
        fit = refine(scene, _markers(board, kept), fit)
    scale, rotation, origin, growth = fit
    page = _page(board, kept, growth)
    fitted = scale * page @ rotation.T + origin
    residual_px = rms(_misses(scene, kept, fitted))
    spread = _spread_percent(board, corners, scale)
    views = len({index for sightings in kept.values() for index, _ in sightings})
    x, y, yaw = board.base_from_board
    return Scale(
        metres_per_unit=1 / scale,
        provenance=f"{board.describe()}, seen in {views} views "
        f"(distances spread by {spread:.2f} %, corners reproject to {residual_px:.2f} px)",
        spread_percent=spread,
        residual_mm=1e3 * rms(np.array(list(corners.values())) - fitted) / scale,
        residual_px=residual_px,
        sfm_from_reference=pose_of(origin, rotation),
        base_from_reference=pose_of((x, y, 0.0), about_z(yaw)),
    )


def _sightings(scene: Reconstruction, board: Board) -> Sightings:
    detect = _aruco(board) if board.kind == "aruco" else _charuco(board)
    seen: Sightings = {}
    for index, view in enumerate(scene.views):
        grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
        # At double size the sub-pixel search window fits into the cells of small, far markers.
        for key, pixel in detect(cv2.resize(grey, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)):
            column, row = np.clip(pixel / 2, 0, [view.camera.width - 1, view.camera.height - 1]).astype(int)
            if view.valid[row, column]:
                seen.setdefault(key, []).append((index, (pixel.astype(float) + 0.5) / 2))
    return seen


def _aruco(board: Board) -> Callable[[U8], Iterable[tuple[Key, F64]]]:
    """Returns a function that finds the corners of the board's markers in a grey photo."""
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    detector = cv2.aruco.ArucoDetector(board.opencv_dictionary(), parameters)
    wanted = board.corners()

    def detect(grey: U8) -> Iterable[tuple[Key, F64]]:
        squares, ids, _ = detector.detectMarkers(grey)
        for square, marker in zip(squares, [] if ids is None else ids.ravel().tolist(), strict=True):
            for corner in range(4 if (marker, 0) in wanted else 0):
                yield (marker, corner), square[0, corner]

    return detect


def _charuco(board: Board) -> Callable[[U8], Iterable[tuple[Key, F64]]]:
    """Returns a function that finds the inner corners of a ChArUco board in a grey photo."""
    detector = cv2.aruco.CharucoDetector(board.opencv_board())

    def detect(grey: U8) -> Iterable[tuple[Key, F64]]:
        corners, ids, _, _ = detector.detectBoard(grey)
        if ids is not None:
            for corner, number in zip(corners.reshape(-1, 2), ids.ravel().tolist(), strict=True):
                yield (number, 0), corner

    return detect


def _page(board: Board, keys: Iterable[Key], growth: float = 0.0) -> F64:
    """Returns corners (n, 3) [m] in the board frame, every marker enlarged about its centre by `growth`."""
    layout = board.corners()
    if board.kind == "charuco":
        return np.array([layout[key] for key in keys])
    centres = {key: np.mean([layout[key[0], corner] for corner in range(4)], axis=0) for key in layout}
    return np.array([centres[key] + (1 + growth) * (layout[key] - centres[key]) for key in keys])


def _markers(board: Board, seen: Sightings) -> list[Marker]:
    """Returns every marker with the views in which all its corners were found."""
    layout = board.corners()
    return [
        Marker(
            corners=np.array([layout[number, corner] for corner in range(4)]),
            image=cv2.aruco.generateImageMarker(board.opencv_dictionary(), number, board.cells()),
            views=tuple(index for index, _ in seen[number, 0]),
        )
        for number in sorted({number for number, _ in seen})
        if all((number, corner) in seen for corner in range(4))
    ]


def _misses(scene: Reconstruction, seen: Sightings, points: F64) -> F64:
    """Returns seen minus projected pixels (m, 2) of all sightings; `points` (n, 3) in the order of `seen`."""
    rows = np.repeat(np.arange(len(seen)), [len(sightings) for sightings in seen.values()])
    views = np.array([index for sightings in seen.values() for index, _ in sightings])
    pixels = np.array([pixel for sightings in seen.values() for _, pixel in sightings])
    poses = np.stack([view.camera.camera_from_base for view in scene.views])[views]
    camera = scene.views[0].camera
    local = np.einsum("nij,nj->ni", poses[:, :3, :3], points[rows]) + poses[:, :3, 3]
    return pixels - (local[:, :2] / local[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy])


def _fit(
    scene: Reconstruction, board: Board, seen: Sightings, first: tuple[float, F64, F64]
) -> tuple[float, F64, F64, float]:
    """Fits scale, rotation, origin and growth by the least reprojection error; outliers count little.

    Light blooms into the black, so every marker looks a little too small. Its growth is fitted along with the pose, and
    the scale comes from the distances between the markers; a board of one marker has to go without. The inner corners
    of a ChArUco board stay where they are.
    """
    from scipy.optimize import least_squares

    blooms = board.kind == "aruco" and len({marker for marker, _ in seen}) > 1

    def residuals(x: F64) -> F64:
        page = _page(board, seen, x[7] if blooms else 0.0)
        return _misses(scene, seen, np.exp(x[0]) * page @ matrix_from_vector(x[1:4]).T + x[4:7]).ravel()

    scale, rotation, translation = first
    start = np.concatenate([[np.log(scale)], vector_from_matrix(rotation), translation, [0.0] * blooms])
    best = least_squares(residuals, start, loss="soft_l1", f_scale=0.5).x
    return float(np.exp(best[0])), matrix_from_vector(best[1:4]), best[4:7], float(best[7]) if blooms else 0.0


def _spread_percent(board: Board, corners: dict[Key, F64], scale: float) -> float:
    """Returns the standard deviation of triangulated over printed distances [%]: between markers, or within one."""
    layout = board.corners()
    markers = sorted({m for m, _ in corners if all((m, c) in corners for c in range(4))})
    if len(markers) > 1:
        printed = np.array([np.mean([layout[m, c] for c in range(4)], axis=0) for m in markers])
        found = np.array([np.mean([corners[m, c] for c in range(4)], axis=0) for m in markers])
    else:
        printed = np.array([layout[key] for key in corners])
        found = np.array(list(corners.values()))
    a, b = np.triu_indices(len(printed), 1)
    ratio = np.linalg.norm(found[a] - found[b], axis=1) / np.linalg.norm(printed[a] - printed[b], axis=1)
    return 100 * float(np.std(ratio)) / scale


def refine(scene: Reconstruction, markers: list[Marker], first: _Fit) -> _Fit:
    """Returns the fit after Gauss-Newton steps from `first`, or `first` where the print explains too little."""
    greys = [cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY).astype(np.float32) for view in scene.views]
    fit = first
    for _ in range(STEPS):
        normal, right, explained = np.zeros((8, 8)), np.zeros(8), []
        for marker in markers:
            for index in marker.views:
                jacobian, error, weight, share = _compare(scene, greys[index], index, marker, fit)
                normal += (jacobian * weight[:, None]).T @ jacobian
                right += (jacobian * weight[:, None]).T @ error
                explained.append(share)
        if not explained or np.median(explained) < 0.5:
            return first
        if len(markers) == 1:  # growth and scale cannot be told apart
            normal[7], normal[:, 7], normal[7, 7], right[7] = 0, 0, 1, 0
        step = np.linalg.solve(normal + 1e-9 * np.diag(np.diag(normal)), right)
        scale, rotation, origin, growth = fit
        fit = (
            scale * float(np.exp(step[0])),
            matrix_from_vector(step[1:4]) @ rotation,
            origin + scale * step[4:7],
            growth + float(step[7]),
        )
        if np.abs(step).max() < 1e-7:
            break
    return fit


def _compare(scene: Reconstruction, grey: F64, index: int, marker: Marker, fit: _Fit) -> tuple[F64, F64, F64, float]:
    """Returns Jacobian (n, 8), error (n,) in units of contrast, weights (n,), and the share of variance explained."""
    scale, rotation, origin, growth = fit
    camera = scene.views[index].camera
    pose = camera.camera_from_base
    middle = marker.corners.mean(axis=0)
    local, print_ = _samples(marker, float(np.linalg.norm(pose[:3, :3] @ origin + pose[:3, 3])) / scale / camera.fx)
    page = middle + (1 + growth) * local
    arm = scale * page @ rotation.T
    seen = (arm + origin) @ pose[:3, :3].T + pose[:3, 3]
    x, y, z = seen.T
    u, v = camera.fx * x / z + camera.cx - 0.5, camera.fy * y / z + camera.cy - 0.5
    value, across, down = _sampled(grey, u, v)
    # How the pixel moves with the point, in camera and then in SfM axes.
    to_u = np.stack([camera.fx / z, 0 * z, -camera.fx * x / z**2], 1) @ pose[:3, :3]
    to_v = np.stack([0 * z, camera.fy / z, -camera.fy * y / z**2], 1) @ pose[:3, :3]
    slope = across[:, None] * to_u + down[:, None] * to_v
    grown = scale * local @ rotation.T
    jacobian = np.column_stack([
        (slope * arm).sum(axis=1), np.cross(arm, slope), scale * slope, (slope * grown).sum(axis=1)
    ])  # fmt: skip
    base = np.column_stack([print_, np.ones_like(print_)])
    solution = np.linalg.lstsq(base, np.column_stack([value, jacobian]), rcond=None)[0]
    gain = max(float(solution[0, 0]), 1.0)
    left = (np.column_stack([value, jacobian]) - base @ solution) / gain
    share = 1 - left[:, 0].var() / max((value / gain).var(), 1e-9)
    weight = 1 / (1 + (left[:, 0] / OUTLIER) ** 2)
    return left[:, 1:], -left[:, 0], weight, float(share)


def _samples(marker: Marker, metres_per_px: float) -> tuple[F64, F64]:
    """Returns points (n, 3) about the marker's centre in the board frame, and the print there (n,), blurred."""
    side = float(np.linalg.norm(marker.corners[1] - marker.corners[0]))
    cells, fine = marker.image.shape[0], 8
    white = cells * fine // 4
    print_ = np.pad(np.kron(marker.image / 255, np.ones((fine, fine))), white, constant_values=1.0)
    blur = 0.6 * metres_per_px / (side / (cells * fine))
    print_ = cv2.GaussianBlur(print_.astype(np.float32), (0, 0), blur)
    places = np.linspace(-0.5 - MARGIN, 0.5 + MARGIN, POINTS)
    across, down = (axis.ravel() for axis in np.meshgrid(places, places))
    right, up = marker.corners[1] - marker.corners[0], marker.corners[0] - marker.corners[3]
    column, row = ((axis + 0.5) * cells * fine + white - 0.5 for axis in (across, down))
    value, _, _ = _sampled(print_, column, row)
    return across[:, None] * right - down[:, None] * up, value


def _sampled(image: F64, u: F64, v: F64) -> tuple[F64, F64, F64]:
    """Returns bilinear values at pixel positions (n,), and their slopes across and down from central differences."""

    def at(du: float, dv: float) -> F64:
        where = np.stack([u + du, v + dv], 1).astype(np.float32)[None]
        return cv2.remap(image, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0].astype(float)

    return at(0, 0), at(0.5, 0) - at(-0.5, 0), at(0, 0.5) - at(0, -0.5)
