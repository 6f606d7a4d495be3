"""A marker board's place, fitted to the pixels of its print instead of to a few corners.

Detected corners of a small marker are off by a third of a pixel, and over a board of a hand's width that turns the
robot's base by a tenth of a degree: millimetres at arm's length. The print has thousands of pixels on edges. So the
grey values of points spread over every marker are compared with the printed pattern, and the similarity board -> SfM
that explains them best is found by Gauss-Newton steps (Lucas & Kanade 1981; Baker & Matthews, IJCV 2004).

    grey(view, π(s R page + t)) ≈ gain · print + offset       gain, offset: per marker and view, solved in closed form
"""

from dataclasses import dataclass

import cv2
import numpy as np

from protos.schema import F64
from twin.rotations import matrix_from_vector
from twin.scan.frames import U8
from twin.scan.sfm import Reconstruction

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
    """One printed marker and the views that show it."""

    corners: F64
    """(4, 3) in the board frame [m]: top left, top right, bottom right, bottom left."""
    picture: U8
    """One pixel per cell, 0 black, 255 white."""
    views: tuple[int, ...]


def refine(scene: Reconstruction, markers: list[Marker], first: _Fit) -> _Fit:
    """The fit after Gauss-Newton steps from `first`, or `first` where the print explains too little."""
    greys = [cv2.cvtColor(view.picture, cv2.COLOR_RGB2GRAY).astype(np.float32) for view in scene.views]
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
    """Jacobian (n, 8), error (n,) in units of contrast, weights (n,), and the share of variance explained."""
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
    """Points (n, 3) about the marker's centre in the board frame, and the print there (n,) as a camera blurs it."""
    side = float(np.linalg.norm(marker.corners[1] - marker.corners[0]))
    cells, fine = marker.picture.shape[0], 8
    white = cells * fine // 4
    print_ = np.pad(np.kron(marker.picture / 255, np.ones((fine, fine))), white, constant_values=1.0)
    blur = 0.6 * metres_per_px / (side / (cells * fine))
    print_ = cv2.GaussianBlur(print_.astype(np.float32), (0, 0), blur)
    places = np.linspace(-0.5 - MARGIN, 0.5 + MARGIN, POINTS)
    across, down = (axis.ravel() for axis in np.meshgrid(places, places))
    right, up = marker.corners[1] - marker.corners[0], marker.corners[0] - marker.corners[3]
    column, row = ((axis + 0.5) * cells * fine + white - 0.5 for axis in (across, down))
    value, _, _ = _sampled(print_, column, row)
    return across[:, None] * right - down[:, None] * up, value


def _sampled(picture: F64, u: F64, v: F64) -> tuple[F64, F64, F64]:
    """Bilinear values at pixel positions (n,), and their slopes across and down from central differences."""

    def at(du: float, dv: float) -> F64:
        where = np.stack([u + du, v + dv], 1).astype(np.float32)[None]
        return cv2.remap(picture, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0].astype(float)

    return at(0, 0), at(0.5, 0) - at(-0.5, 0), at(0, 0.5) - at(0, -0.5)
