"""Lenses as COLMAP fits them, and their removal: pictures and pixels of the photo become those of a pinhole view.

    x_d = x (1 + k1 r² + k2 r⁴) + 2 p1 x y + p2 (r² + 2 x²)        y_d likewise with p1, p2 exchanged

| model         | focal lengths | distortion     | for                                            |
|---------------|---------------|----------------|------------------------------------------------|
| PINHOLE       | fx, fy        | none           | pictures that were undistorted before          |
| SIMPLE_RADIAL | f             | k1             | phones and most cameras (default)              |
| OPENCV        | fx, fy        | k1, k2, p1, p2 | wide lenses; wants 40 or more pictures to be fitted |

Pixels follow COLMAP: the centre of the first is (0.5, 0.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protos.schema import F64

CameraModel = Literal["SIMPLE_RADIAL", "OPENCV", "PINHOLE"]
NEWTON_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Lens:
    """Focal lengths and principal point [px], and distortion coefficients (k1, k2, p1, p2)."""

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    @staticmethod
    def of(model: CameraModel, params: Sequence[float]) -> "Lens":
        """From COLMAP's parameter list of one of its camera models."""
        values = [float(value) for value in params]
        if model == "SIMPLE_RADIAL":
            f, cx, cy, k1 = values
            return Lens(fx=f, fy=f, cx=cx, cy=cy, distortion=(k1, 0.0, 0.0, 0.0))
        fx, fy, cx, cy, *rest = values
        k1, k2, p1, p2 = rest if rest else (0.0, 0.0, 0.0, 0.0)
        return Lens(fx=fx, fy=fy, cx=cx, cy=cy, distortion=(k1, k2, p1, p2))

    def undistort(self, pixels: F64) -> F64:
        """Pixels (n, 2) of the photo, to pixels of the pinhole view; NaN beyond what the lens can show."""
        photo = np.asarray(pixels, float).reshape(-1, 2)
        view = photo.copy()
        for _ in range(NEWTON_STEPS):
            right, down = ((self.distort(view + d) - self.distort(view - d)) / 1e-2 for d in ([5e-3, 0], [0, 5e-3]))
            slope = np.stack([right, down], 2) + 1e-12 * np.eye(2)
            view = view - np.linalg.solve(slope, (self.distort(view) - photo)[..., None])[..., 0]
        right_one = (np.abs(self.distort(view) - photo) < 1e-3).all(axis=1) & self._rising(view)
        return np.where(right_one[:, None], view, np.nan)

    def distort(self, pixels: F64) -> F64:
        """Pixels (n, 2) of the pinhole view, to pixels of the photo."""
        x, y = (np.asarray(pixels, float).reshape(-1, 2) - [self.cx, self.cy]).T / [[self.fx], [self.fy]]
        k1, k2, p1, p2 = self.distortion
        square = x * x + y * y
        radial = 1 + k1 * square + k2 * square**2
        u = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        v = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
        return np.stack([self.fx * u + self.cx, self.fy * v + self.cy], 1)

    def maps(self, width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """For `cv2.remap`: where in the photo each pixel of the view lies (H, W, 2), and whether the photo shows it.

        Far outside the picture the polynomial turns back and would show the photo's rim a second time; such pixels
        count as not shown.
        """
        column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        view = np.stack([column.ravel(), row.ravel()], 1)
        photo = self.distort(view)
        shown = ((photo >= 0.5) & (photo <= [width - 0.5, height - 0.5])).all(axis=1) & self._rising(view)
        size = (height, width)
        return (photo - 0.5).reshape(*size, 2).astype(np.float32), shown.reshape(size)

    def _rising(self, view: F64) -> NDArray[np.bool_]:
        """Whether the distorted radius still grows with the radius: before the first root of 1 + 3 k1 r² + 5 k2 r⁴."""
        k1, k2, _, _ = self.distortion
        turning = np.roots([5 * k2, 3 * k1, 1] if k2 else [3 * k1, 1] if k1 else [1])
        limits = turning[np.isreal(turning) & (turning.real > 0)].real
        square = (((view - [self.cx, self.cy]) / [self.fx, self.fy]) ** 2).sum(axis=1)
        return square < limits.min(initial=np.inf)
