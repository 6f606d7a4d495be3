"""The rasterizer's definition in plain torch: gsplat's own projection, then dense compositing. Slow; for tests."""

import numpy as np
import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

from protos.schema import F32
from twin.camera import Camera
from twin.splats import Splats


def rasterize(splats: Splats, camera: Camera, *, stop: float = 1e-4) -> tuple[F32, F32]:
    """Colour (H, W, 3) without background and transmittance (H, W)."""
    means, quaternions, scales, opacities, colours = (
        torch.from_numpy(array)
        for array in (splats.means, splats.quaternions, splats.scales, splats.opacities, splats.colours)
    )
    covariances, _ = _quat_scale_to_covar_preci(quaternions, scales, compute_preci=False)
    pose = torch.from_numpy(camera.camera_from_base.astype(np.float32))[None]
    K = torch.from_numpy(camera.intrinsics.astype(np.float32))[None]
    radii, centres, depths, conics, _ = _fully_fused_projection(
        means, covariances, pose, K, camera.width, camera.height, near_plane=0.015
    )
    seen = torch.where((radii[0] > 0).all(-1))[0]
    seen = seen[torch.argsort(depths[0, seen], stable=True)]
    rows, columns = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    offset = torch.stack([columns, rows], -1).reshape(-1, 1, 2) - centres[0, seen]
    conic = conics[0, seen]
    exponent = 0.5 * (conic[:, 0] * offset[..., 0] ** 2 + conic[:, 2] * offset[..., 1] ** 2)
    exponent = exponent + conic[:, 1] * offset[..., 0] * offset[..., 1]
    alpha = torch.clamp(opacities[seen] * torch.exp(-exponent), max=0.999)
    alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
    before = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1), 1)[:, :-1]
    alpha = torch.where(before > stop, alpha, 0.0)
    weight = alpha * before
    shape = (camera.height, camera.width)
    colour = (weight @ colours[seen]).reshape(*shape, 3)
    return colour.numpy(), (1 - weight.sum(1)).reshape(shape).numpy()
