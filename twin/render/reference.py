"""This module defines the rasterizer in plain torch: gsplat's own projection and harmonics, then dense compositing.

Every splat is drawn at every pixel: slow, but the reference of the others, in float64 against rounding of its own.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np

from protos.errors import InputError
from twin.camera import Camera
from twin.render.interface import DENSEST, FAR, NEAR_M, STOP, Image, common_size
from twin.splats import SH_DEGREE_0, Splats

if TYPE_CHECKING:
    from torch import Tensor


class TorchRasterizer:
    """The `Rasterizer` that the others are measured against."""

    name = "torch"
    depth: Literal["median", "expected"] = "median"

    def obstacle(self) -> str | None:
        """Returns why it cannot draw here: a package is missing."""
        for package in ("torch", "gsplat", "packaging"):
            if find_spec(package) is None:
                return f"the package {package} is not installed; pip install 'twinrl[scan]'"
        return None

    def render(self, splats: Splats, cameras: Sequence[Camera]) -> list[Image]:
        """Draws one image per camera of one size. Raises `InputError` where there is an obstacle."""
        obstacle = self.obstacle()
        if obstacle is not None:
            raise InputError(obstacle)
        common_size(cameras)
        return [_draw(splats, camera) for camera in cameras]


def _draw(splats: Splats, camera: Camera) -> Image:
    import torch

    centres, conics, depths, seen = _project(splats, camera)
    opacities = torch.from_numpy(splats.opacities).double()[seen]
    rows, columns = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    offset = torch.stack([columns, rows], -1).reshape(-1, 1, 2) - centres
    exponent = 0.5 * (conics[:, 0] * offset[..., 0] ** 2 + conics[:, 2] * offset[..., 1] ** 2)
    exponent = exponent + conics[:, 1] * offset[..., 0] * offset[..., 1]
    alpha = torch.clamp(opacities * torch.exp(-exponent), max=DENSEST)
    alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
    after = torch.cumprod(1 - alpha, 1)
    before = torch.cat([torch.ones_like(alpha[:, :1]), after], 1)[:, :-1]
    median = torch.where((before > 0.5) & (after <= 0.5), depths, 0.0).sum(1)
    weight = torch.where(before > STOP, alpha, 0.0) * before
    shape = (camera.height, camera.width)
    return Image(
        colour=(weight @ _colours(splats, camera)[seen]).reshape(*shape, 3).float().numpy(),
        transmittance=(1 - weight.sum(1)).reshape(shape).float().numpy(),
        depth=torch.where(median > 0, median, FAR).reshape(shape).float().numpy(),
    )


def _project(splats: Splats, camera: Camera) -> tuple["Tensor", "Tensor", "Tensor", "Tensor"]:
    """Returns centres (S, 2) [px], conics (S, 3), depths (S,) [m], indices (S,) of splats in view, nearest first."""
    import torch
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    means, quaternions, scales = (
        torch.from_numpy(array).double() for array in (splats.means, splats.quaternions, splats.scales)
    )
    covariances, _ = _quat_scale_to_covar_preci(quaternions, scales, compute_preci=False)
    pose, K = torch.from_numpy(camera.camera_from_base)[None], torch.from_numpy(camera.intrinsics)[None]
    radii, centres, depths, conics, _ = _fully_fused_projection(
        means, covariances, pose, K, camera.width, camera.height, near_plane=NEAR_M
    )
    seen = torch.where((radii[0] > 0).all(-1))[0]
    seen = seen[torch.argsort(depths[0, seen], stable=True)]
    return centres[0, seen], conics[0, seen], depths[0, seen], seen


def _colours(splats: Splats, camera: Camera) -> "Tensor":
    """Returns the colours (N, 3) as this camera sees them."""
    import torch
    from gsplat.cuda._torch_impl import _spherical_harmonics

    constant = (splats.colours[:, None] - 0.5) / SH_DEGREE_0
    coefficients = torch.from_numpy(np.concatenate([constant, splats.sh], 1)).double()
    directions = torch.from_numpy(splats.means - camera.base_from_camera[:3, 3])
    return torch.clamp(_spherical_harmonics(splats.degree, directions, coefficients) + 0.5, min=0)
