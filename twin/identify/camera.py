"""This module finds where the side camera and the arm really stand, by laying the twin's images on the recorded ones.

    Calibration ─► twin's frames ─► colours of the recorded frame, channel by channel ─► blur, without slow changes ─┐
         ▲                                                        recorded frames, likewise ─────────────────────────┴─►
         └───────────────────────────── damped Gauss-Newton, soft L1, coarse to fine ◄── difference, its derivatives

Lens, light and exposure differ between a twin and its workspace; so every frame's colours are fitted first, and slow
changes over the image, as of shadows, are taken out of both. Derivatives come from the drawn depths: how far each
point of the image moves, times the image's gradient. What is known beforehand is as sure as a careful set-up is.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from protos.schema import F32, F64
from twin.camera import Camera, invert
from twin.identify.solve import Solution, Unknown, solve
from twin.identify.views import Drawn, Views, base_of
from twin.labs import Calibration

UNKNOWNS: Mapping[str, Unknown] = {
    "side_x_m": Unknown(start=0.0, step=1e-4, deviation=0.01),
    "side_y_m": Unknown(start=0.0, step=1e-4, deviation=0.01),
    "side_z_m": Unknown(start=0.0, step=1e-4, deviation=0.01),
    "side_pan_rad": Unknown(start=0.0, step=1e-4, deviation=0.015),
    "side_tilt_rad": Unknown(start=0.0, step=1e-4, deviation=0.015),
    "side_fovy_deg": Unknown(start=0.0, step=1e-2, deviation=0.7),
    "base_x_m": Unknown(start=0.0, step=1e-4, deviation=0.005),
    "base_y_m": Unknown(start=0.0, step=1e-4, deviation=0.005),
    "base_z_m": Unknown(start=0.0, step=1e-4, deviation=0.0015),
    "base_yaw_rad": Unknown(start=0.0, step=1e-4, deviation=0.01),
}
"""Numbers sought, each with what is known of it: a camera set up to a centimetre, an arm aligned to half of one."""
LEVELS = ((2.0, 6.0), (1.0, 3.0))
"""Blur that is added and blur that is taken out, per level, in pixels of an image of 64."""
COLOUR = 0.03
"""Difference of colour, of 0..1, that is ordinary."""
DONE = 1e-3
"""Share of the cost by which an iteration must lower it; what then is left to find is far less than an interval."""
SHARE = 0.005
"""Weight of a pixel's colour: pixels err together, with their neighbours and with themselves in other frames."""


def calibration_of(numbers: F64) -> Calibration:
    """Returns the calibration of numbers in the order of `UNKNOWNS`."""
    x, y, z, pan, tilt, fovy, base_x, base_y, base_z, yaw = (float(each) for each in np.clip(numbers, -0.09, 0.09))
    fovy = float(np.clip(numbers[5], -9, 9))
    return Calibration(
        side_shift_m=(x, y, z),
        side_turn_rad=(pan, tilt),
        side_fovy_deg=fovy,
        base_shift_m=(base_x, base_y, base_z),
        base_turn_rad=(0.0, 0.0, yaw),
    )


def find_calibration(views: Views) -> Solution:
    """Finds the numbers of `UNKNOWNS` from views of at least one episode."""
    numbers = np.zeros(len(UNKNOWNS))
    known, own = tuple(UNKNOWNS.values()), np.empty((len(views.images), 0))
    for blur, slow in LEVELS:
        match = _Match(views, blur, slow)
        solution = solve(
            match.residuals, own, ((), known), at=numbers, jacobians=match.jacobians, share=SHARE, done=DONE
        )
        numbers = solution.common
    return solution


class _Match:
    """A match compares the views with their drawings at one level."""

    def __init__(self, views: Views, blur: float, slow: float) -> None:
        px = views.images[0].shape[1]
        self._views, self._blur, self._slow = views, blur * px / 64, slow * px / 64
        self._seen = [blurred(image, self._blur) for images in views.images for image in images]
        self._ends = [0, *np.cumsum([len(images) for images in views.images]).tolist()]

    def residuals(self, _: F64, numbers: F64) -> list[F64]:
        drawn = self._views.drawn(calibration_of(numbers))
        return self._by_episode([self._apart(*pair) for pair in zip(drawn, self._seen, strict=True)])

    def jacobians(self, _: F64, numbers: F64) -> list[F64]:
        drawn = self._views.drawn(calibration_of(numbers), depths=True)
        flows = _Flows(self._views, numbers, drawn[0])
        return self._by_episode([self._slopes(*pair, flows) for pair in zip(drawn, self._seen, strict=True)])

    def _by_episode(self, frames: Sequence[F64]) -> list[F64]:
        return [np.concatenate(frames[begin:end]) for begin, end in pairwise(self._ends)]

    def _apart(self, drawn: Drawn, seen: F32) -> F64:
        """Returns the differences of one frame (px * px * 3,)."""
        apart = Colours(blurred(drawn.image, self._blur), seen).fitted - seen
        return np.asarray((apart - blurred(apart, self._slow)) / COLOUR, float).ravel()

    def _slopes(self, drawn: Drawn, seen: F32, flows: "_Flows") -> F64:
        """Returns the derivatives of these (px * px * 3, numbers)."""
        colours = Colours(blurred(drawn.image, self._blur), seen)
        slopes = colours.followed(blurred(flows.changes(drawn), self._blur))
        slopes = (slopes - blurred(slopes, self._slow)) / COLOUR
        return np.asarray(slopes, float).reshape(-1, slopes.shape[-1])


class Colours:
    """The colours of a drawn image fitted to a seen one: a gain and an offset per channel, robustly."""

    def __init__(self, drawn: F32, seen: F32) -> None:
        self._drawn = drawn
        self.gains, self.offsets = np.ones(3), np.zeros(3)
        self._weights = np.ones_like(drawn)
        for _ in range(3):
            self._fit(seen)
            self._weights = 1 / np.sqrt(1 + ((self.fitted - seen) / COLOUR) ** 2)

    def _fit(self, seen: F32) -> None:
        self._total = self._weights.sum((0, 1))
        self._middle = (self._weights * self._drawn).sum((0, 1)) / self._total
        middle = (self._weights * seen).sum((0, 1)) / self._total
        off = self._drawn - self._middle
        self._spread = (self._weights * off**2).sum((0, 1))
        self.gains = (self._weights * off * (seen - middle)).sum((0, 1)) / self._spread
        self.offsets = middle - self.gains * self._middle

    @property
    def fitted(self) -> F32:
        return np.asarray(self._drawn * self.gains + self.offsets, np.float32)

    def followed(self, change: F32) -> F32:
        """Returns what changes (px, px, 3, k) of the drawn image leave once gain and offset follow them."""
        brighter, off = change * self.gains[:, None].astype(np.float32), self._drawn - self._middle
        middle = np.einsum("uvc,uvck->ck", self._weights / self._total, brighter)
        along = np.einsum("uvc,uvck->ck", self._weights * off / self._spread, brighter)
        return np.asarray(brighter - middle - off[..., None] * along, np.float32)


class _Flows:
    """Says how the points of the frames move in the image when one of the numbers changes."""

    def __init__(self, views: Views, numbers: F64, drawn: Drawn) -> None:
        steps = np.diag([each.step for each in UNKNOWNS.values()])
        moved = [calibration_of(numbers + step) for step in steps]
        self._steps = steps.diagonal()
        self._cameras = [views.camera(each) for each in moved]
        back = invert(base_of(calibration_of(numbers)))
        self._bases = [base_of(each) @ back for each in moved]
        assert drawn.depths is not None
        points = _points(drawn.camera, drawn.depths[0])
        self._static = _shifted(drawn.background, self._of(drawn.camera, points, is_arm=False))

    def changes(self, drawn: Drawn) -> F32:
        """Returns the derivatives (px, px, 3, numbers) of one frame."""
        assert drawn.depths is not None
        flow = self._of(drawn.camera, _points(drawn.camera, drawn.depths[1]), is_arm=True)
        shine = drawn.transmittance[..., None]
        of_arm = _shifted(drawn.colour, flow) + _shifted(shine, flow) * drawn.background[..., None]
        return np.asarray(of_arm + shine[..., None] * self._static, np.float32)

    def _of(self, camera: Camera, points: F64, *, is_arm: bool) -> F32:
        """Returns pixels per unit (px, px, 2, numbers) by which points (px, px, 3) move."""
        here, found = camera.project(points)[..., :2], []
        for moved, base, step in zip(self._cameras, self._bases, self._steps, strict=True):
            there = points @ base[:3, :3].T + base[:3, 3] if is_arm else points
            found.append((moved.project(there)[..., :2] - here) / step)
        return np.stack(found, -1).astype(np.float32)


def _points(camera: Camera, depth: F32) -> F64:
    """Returns the points (px, px, 3), in the camera's base frame, that pixels with a depth show."""
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    local = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1) * depth[..., None]
    return np.asarray(local @ camera.base_from_camera[:3, :3].T + camera.base_from_camera[:3, 3])


def _shifted(image: F32, flow: F32) -> F32:
    """Returns the changes (px, px, k, numbers) of an image (px, px, k) whose points move by a flow."""
    down, right = (np.asarray(each, np.float32) for each in np.gradient(image, axis=(0, 1)))
    along, across = flow[:, :, None, 0], flow[:, :, None, 1]
    return np.asarray(-(right[..., None] * along + down[..., None] * across), np.float32)


def blurred(image: F32, deviation_px: float) -> F32:
    """Returns an image (px, px, …) blurred along its first two axes."""
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(
        gaussian_filter1d(gaussian_filter1d(image, deviation_px, axis=0), deviation_px, axis=1), np.float32
    )
