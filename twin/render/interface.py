"""This module defines what every rasterizer does.

Mathematics of EWA splatting as in 3D Gaussian Splatting (Kerbl et al. 2023, section 4) with gsplat's conventions: near
plane at 0.015 m, 0.3 px^2 of blur, opacity of one splat at most 0.999, contributions below 1/255 dropped, colours with
spherical harmonics clipped at 0 from below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from protos.errors import InputError
from protos.schema import F32
from twin.camera import Camera
from twin.splats import Splats

NEAR_M = 0.015
"""Distance of the centre below which a splat is not drawn."""
DENSEST = 0.999
"""Highest opacity of one splat in one pixel."""
FAR = 1e9
"""Depth where nothing was hit [m]."""
STOP = 1e-4
"""Transmittance at which a pixel is finished."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image before it is composited over a background: final = colour + transmittance * background."""

    colour: F32  # (H, W, 3) 0..1, brighter where splats are
    transmittance: F32  # (H, W) 1 where nothing was hit
    depth: F32  # (H, W) m along the view axis, see `Rasterizer.depth`; `FAR` where transmittance stays above one half

    def over(self, background: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> F32:
        """Returns the image over one background colour, (H, W, 3)."""
        return self.colour + self.transmittance[..., None] * np.asarray(background, np.float32)


class Rasterizer(Protocol):
    """A rasterizer draws splats.

    rasterizer = twin.render.get("gsplat"); images = rasterizer.render(splats, cameras)
    """

    name: str
    depth: Literal["median", "expected"]
    """Kind of depth along a ray: where transmittance crosses one half, or the mean weighted by what is seen of each.
    The two differ at edges, where the mean lies between front and back; the compositor needs the median."""

    def obstacle(self) -> str | None:
        """Returns in one line why this machine cannot draw with it and what to do about it; None if it can."""

    def render(self, splats: Splats, cameras: Sequence[Camera]) -> list[Image]:
        """Draws one image per camera; cameras of one call have one size. Raises `InputError` for an obstacle."""


def common_size(cameras: Sequence[Camera]) -> tuple[int, int]:
    """Returns width and height of all cameras. Raises `InputError` if they differ or there are none."""
    sizes = {(camera.width, camera.height) for camera in cameras}
    if len(sizes) != 1:
        raise InputError(f"cameras of {len(sizes)} different sizes {sorted(sizes)}; one call renders one size")
    return sizes.pop()
