"""This module draws on the CPU (numba): any scene, one image after the other, no GPU and no torch."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from protos.schema import F32
from twin.camera import Camera
from twin.render import kernels
from twin.render.interface import STOP, Image, common_size
from twin.render.kernels import BLOCK, FAR, Layer, View, Workspace, eye_of, shade
from twin.render.lanes import LANES
from twin.splats import Splats


class NumbaRasterizer:
    """A `Rasterizer` on the CPU. Every call compiles or loads the kernels and allocates its buffers once."""

    name = "numba"
    depth: Literal["median", "expected"] = "median"

    def obstacle(self) -> str | None:
        """Returns None: numba runs everywhere."""
        return None

    def render(self, splats: Splats, cameras: Sequence[Camera]) -> list[Image]:
        """Draws one image per camera of one size."""
        width, height = common_size(cameras)
        layer, work = layer_of(splats), workspace_for(len(splats), width, height)
        return [draw(layer, camera, work) for camera in cameras]


def rasterize(splats: Splats, camera: Camera, *, stop: float = STOP) -> Image:
    """Renders all splats from scratch."""
    return draw(layer_of(splats), camera, workspace_for(len(splats), camera.width, camera.height), stop=stop)


def draw(layer: Layer, camera: Camera, work: Workspace, *, stop: float = STOP) -> Image:
    """Draws an image of a layer in the base frame."""
    count = footprints(layer, camera, work, 0)
    kernels.sort_by_depth(work, count)
    kernels.clear(work)
    depth = np.full((camera.height, camera.width), FAR)
    kernels.blend(work, count, stop, depth)
    pixels = np.moveaxis(work.canvas, 1, 2)[:, : camera.width]
    return Image(colour=pixels[..., :3].copy("C"), transmittance=pixels[..., 3].copy("C"), depth=depth)


def footprints(layer: Layer, camera: Camera, work: Workspace, row: int) -> int:
    """Appends the visible splats of a layer in the base frame from `row` on; returns the new count."""
    return append(layer, view_of(camera), camera.width, camera.height, work, row)


def append(layer: Layer, view: View, width: int, height: int, work: Workspace, row: int) -> int:
    """Appends the visible splats of a layer for a camera in the form of the kernels; returns the new count."""
    count = kernels.project(layer, 0, view, width, height, work, row)
    if layer.sh.shape[1]:
        shade(layer, np.zeros(len(layer.means), np.int32), eye_of(view)[None], work, row, count)
    return count


def layer_of(splats: Splats) -> Layer:
    """Returns the arrays that the kernels read."""
    colours = splats.colours if splats.degree else np.maximum(splats.colours, 0)
    return Layer(splats.means, splats.covariances(), splats.opacities, colours, splats.sh)


def tinted(layer: Layer, tint: F32) -> Layer:
    """Returns a layer with (3,) or (N, 3) added to its colours; only the mean of harmonics may lie below 0."""
    colours = layer.colours + tint
    return layer._replace(colours=colours if layer.sh.shape[1] else np.maximum(colours, 0))


def view_of(camera: Camera) -> View:
    """Returns the camera as the kernels read it."""
    intrinsics = (camera.fx, camera.fy, camera.cx, camera.cy)
    return View(np.ascontiguousarray(camera.camera_from_base[:3], np.float32), np.array(intrinsics, np.float32))


def workspace_for(splats: int, width: int, height: int) -> Workspace:
    """Returns buffers for images of up to `splats` splats."""
    blocks = (-(-height // BLOCK), -(-width // BLOCK))
    return Workspace(
        footprints=np.empty((splats, 12), np.float32),
        depth=np.empty(splats, np.float32),
        source=np.empty(splats, np.int32),
        order=np.empty(splats, np.int32),
        swap=np.empty(splats, np.int32),
        keys=np.empty(splats, np.uint32),
        swap_keys=np.empty(splats, np.uint32),
        canvas=np.empty((height, 5, width + LANES), np.float32),
        blocks=np.empty(blocks, np.int32),
    )
