"""One picture of a splat cloud on the CPU."""

from dataclasses import dataclass

import numpy as np

from protos.schema import F32
from twin.camera import Camera
from twin.render import kernels
from twin.render.kernels import BLOCK, FAR, Layer, View, Workspace
from twin.splats import Splats

STOP = 1e-4
"""Transmittance at which a pixel is finished; gsplat's value."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Colours are not yet composited over a background: image = colour + transmittance * background."""

    colour: F32  # (H, W, 3) 0..1
    transmittance: F32  # (H, W) 1 where nothing was hit
    depth: F32  # (H, W) m along the view axis where transmittance crosses one half, else `kernels.FAR`

    def over(self, background: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> F32:
        """The image over one background colour, (H, W, 3)."""
        return self.colour + self.transmittance[..., None] * np.asarray(background, np.float32)


def layer_of(splats: Splats) -> Layer:
    """The arrays that the kernels read."""
    return Layer(splats.means, splats.covariances(), splats.opacities, splats.colours)


def view_of(camera: Camera) -> View:
    """The camera as the kernels read it."""
    intrinsics = (camera.fx, camera.fy, camera.cx, camera.cy)
    return View(np.ascontiguousarray(camera.camera_from_base[:3], np.float32), np.array(intrinsics, np.float32))


def workspace_for(splats: int, width: int, height: int) -> Workspace:
    """Buffers for pictures of up to `splats` splats."""
    blocks = (-(-height // BLOCK), -(-width // BLOCK))
    return Workspace(
        footprints=np.empty((splats, 12), np.float32),
        depth=np.empty(splats, np.float32),
        order=np.empty(splats, np.int32),
        swap=np.empty(splats, np.int32),
        keys=np.empty(splats, np.uint32),
        swap_keys=np.empty(splats, np.uint32),
        canvas=np.empty((height, width, 4), np.float32),
        blocks=np.empty(blocks, np.int32),
    )


def rasterize(splats: Splats, camera: Camera, *, stop: float = STOP) -> Picture:
    """Renders all splats from scratch."""
    width, height = camera.width, camera.height
    work = workspace_for(len(splats), width, height)
    count = kernels.project(layer_of(splats), 0, view_of(camera), width, height, work, 0)
    kernels.sort_by_depth(work, count)
    depth = np.empty((height, width), np.float32)
    kernels.median_depth(work, count, depth)
    kernels.clear(work)
    kernels.blend(work, count, np.full((height, width), FAR), stop)
    return Picture(colour=work.canvas[..., :3].copy(), transmittance=work.canvas[..., 3].copy(), depth=depth)
