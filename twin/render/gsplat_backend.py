"""The rasterizer on a CUDA GPU through gsplat (Ye et al. 2024), for large scans and many cameras."""

import numpy as np
import torch

from protos.errors import InputError
from protos.schema import F32
from twin.camera import Camera
from twin.render.kernels import FAR
from twin.render.rasterizer import Picture
from twin.splats import Splats


def available() -> bool:
    """Whether this machine has a GPU that gsplat can use."""
    return torch.cuda.is_available()


def rasterize(splats: Splats, cameras: list[Camera]) -> list[Picture]:
    """One picture per camera; all cameras must have the same size. Depth is the expected depth of the hit splats.

    Raises `InputError` on a machine without a CUDA GPU: `twin.render.rasterize` runs there.
    """
    if not available():
        raise InputError("gsplat renders on CUDA GPUs only and this machine has none; use the numba rasterizer")
    sizes = {(camera.width, camera.height) for camera in cameras}
    if len(sizes) != 1:
        raise InputError(f"cameras of {len(sizes)} different sizes {sorted(sizes)}; render one size per call")
    import gsplat

    def gpu(array: F32 | np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).cuda()

    width, height = sizes.pop()
    with torch.inference_mode():
        images, alphas, _ = gsplat.rasterization(
            gpu(splats.means),
            gpu(splats.quaternions),
            gpu(splats.scales),
            gpu(splats.opacities),
            gpu(splats.colours),
            gpu(np.stack([camera.camera_from_base for camera in cameras])),
            gpu(np.stack([camera.intrinsics for camera in cameras])),
            width,
            height,
            near_plane=0.015,
            render_mode="RGB+ED",
        )
    pixels, hit = images.cpu().numpy(), alphas[..., 0].cpu().numpy()
    return [
        Picture(colour=image[..., :3], transmittance=1 - alpha, depth=np.where(alpha > 0.5, image[..., 3], FAR))
        for image, alpha in zip(pixels, hit, strict=True)
    ]
