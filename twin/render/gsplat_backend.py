"""This module draws on a CUDA GPU through gsplat (Ye et al. 2024), for large scans and many cameras.

    splats ─► GPU ─┐
    cameras ───────┴─ in batches ─► gsplat.rasterization ─► colour, alpha, expected depth ─► images

gsplat leaves out the splat that would finish a pixel where the CPU adds it, so a pixel behind splats that are almost
opaque may be darker by what was left of it: at most 0.002 for opacities up to 0.95, but up to 0.1 for 0.999.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np

from protos.errors import InputError
from protos.schema import U8
from twin.camera import Camera
from twin.render.interface import FAR, NEAR_M, Image, common_size
from twin.splats import SH_DEGREE_0, Splats

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 64
"""Number of cameras that the GPU draws at once; more go batch by batch, so that memory does not grow with them."""


class GsplatRasterizer:
    """A `Rasterizer` on a CUDA GPU."""

    name = "gsplat"
    depth: Literal["median", "expected"] = "expected"

    def obstacle(self) -> str | None:
        """Returns why gsplat cannot draw here; loads torch, but neither gsplat nor the GPU."""
        for package in ("torch", "gsplat"):
            if find_spec(package) is None:
                return f"the package {package} is not installed; pip install 'twinrl[scan]'"
        import torch

        if not torch.cuda.is_available():
            return "gsplat renders on CUDA GPUs only and this machine has none; use the numba rasterizer"
        return None

    def render(self, splats: Splats, cameras: Sequence[Camera]) -> list[Image]:
        """Draws one image per camera of one size. Raises `InputError` where there is an obstacle."""
        obstacle = self.obstacle()
        if obstacle is not None:
            raise InputError(obstacle)
        common_size(cameras)
        scene = Uploaded(splats)
        images: list[Image] = []
        for first in range(0, len(cameras), BATCH):
            batch = scene.draw(cameras[first : first + BATCH]).cpu().numpy()
            images += [_image(pixels) for pixels in batch]
        return images


class Uploaded:
    """A set of splats in the memory of the GPU."""

    def __init__(self, splats: Splats) -> None:
        """Copies splats to the GPU; constant colour and harmonics become one array of coefficients (N, K + 1, 3)."""
        constant = (splats.colours - 0.5) / np.float32(SH_DEGREE_0)
        coefficients = np.concatenate([constant[:, None], splats.sh], 1)
        given = (splats.means, splats.quaternions, splats.scales, splats.opacities, coefficients)
        self._arrays = [_upload(array) for array in given]
        self._degree = splats.degree

    def draw(self, cameras: Sequence[Camera]) -> "Tensor":
        """Draws colour, alpha and expected depth (C, H, W, 5), still on the GPU; cameras of one size."""
        import gsplat
        import torch

        width, height = common_size(cameras)
        with torch.inference_mode():
            images, alphas, _ = gsplat.rasterization(
                *self._arrays,
                _upload(np.stack([camera.camera_from_base for camera in cameras])),
                _upload(np.stack([camera.intrinsics for camera in cameras])),
                width,
                height,
                near_plane=NEAR_M,
                sh_degree=self._degree,
                render_mode="RGB+ED",
            )
            return torch.cat([images[..., :3], alphas, images[..., 3:]], dim=-1)

    def draw_bytes(self, cameras: Sequence[Camera]) -> U8:
        """Draws images over black, (C, H, W, 3), in CPU memory: a third of the traffic of whole images."""
        colour = self.draw(cameras)[..., :3]
        return (colour * 255 + 0.5).clamp(0, 255).byte().cpu().numpy()


def _upload(array: np.ndarray) -> "Tensor":
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, np.float32)).cuda()


def _image(pixels: np.ndarray) -> Image:
    alpha = pixels[..., 3]
    depth = np.where(alpha > 0.5, pixels[..., 4], np.float32(FAR))
    return Image(colour=pixels[..., :3].copy(), transmittance=1 - alpha, depth=depth)
