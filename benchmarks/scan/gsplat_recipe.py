"""This module trains as gsplat's example trainer does by default (gsplat 1.5.3, examples/simple_trainer.py).

sparse points ─► Gaussians ─► rasterization ─► 0.8 L1 + 0.2 (1 - SSIM) ─► Adam, DefaultStrategy ─► Splats of SH degree 3

Numbers and order are the trainer's; the trainer itself is no part of the package. The scene is not normalised: its
trainer scales the world by its own measure, here lengths scale with the cameras' spread instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from twin.scan.sfm import Reconstruction, View
from twin.scan.train import Target, target_of
from twin.splats import SH_DEGREE_0, Splats

Rasterization = Callable[..., tuple[Tensor, Tensor, dict[str, Any]]]
"""`gsplat.rasterization`, or one with its arguments."""
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of the example trainer, with its defaults."""

    steps: int = 30_000
    sh_degree: int = 3
    degree_every: int = 1_000
    """Number of steps after which one more degree is used."""
    opacity: float = 0.1
    ssim_share: float = 0.2
    rates: tuple[tuple[str, float], ...] = (
        ("means", 1.6e-4),  # times the scene's size, and falling to a hundredth
        ("scales", 5e-3),
        ("quats", 1e-3),
        ("opacities", 5e-2),
        ("sh0", 2.5e-3),
        ("shN", 2.5e-3 / 20),
    )
    near: float = 0.01
    """Near plane, in spreads of the cameras."""


def train_by(
    recipe: Recipe, scene: Reconstruction, held_out: Sequence[str], width: int, rasterization: Rasterization
) -> Splats:
    """Trains splats on the views that are not held out, seen at `width` px; on a GPU where there is one."""
    from gsplat import DefaultStrategy

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    targets = [target_of(view, width, device) for view in scene.views if view.name not in held_out]
    size = scene_size(scene.views)
    parameters = {name: value.to(device).requires_grad_() for name, value in _first(scene, recipe).items()}
    optimizers = _optimizers(parameters, recipe, size)
    falling = torch.optim.lr_scheduler.ExponentialLR(optimizers["means"], 0.01 ** (1 / recipe.steps))
    strategy = DefaultStrategy()
    strategy.check_sanity(parameters, optimizers)
    state = strategy.initialize_state(scene_scale=size)
    order = _order(len(targets), recipe.steps)
    for step in range(recipe.steps):
        target = targets[order[step]]
        degree = min(step // recipe.degree_every, recipe.sh_degree)
        shown, details = _drawn(parameters, target, degree, recipe.near * size, rasterization)
        strategy.step_pre_backward(parameters, optimizers, state, step, details)
        _loss(shown * target.weight, target.image * target.weight, recipe.ssim_share).backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        falling.step()
        strategy.step_post_backward(parameters, optimizers, state, step, details)
    return _splats(parameters)


def scene_size(views: Sequence[View]) -> float:
    """Returns the trainer's measure of a scene: 1.1 times the largest distance of a camera from the middle of all."""
    eyes = np.stack([view.camera.base_from_camera[:3, 3] for view in views])
    return 1.1 * float(np.linalg.norm(eyes - eyes.mean(axis=0), axis=1).max())


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Returns the mean structural similarity of images (H, W, 3) over whole windows (Wang et al., IEEE TIP 2004)."""
    at = torch.arange(SSIM_WINDOW, device=one.device, dtype=one.dtype) - SSIM_WINDOW // 2
    line = torch.exp(-(at**2) / (2 * SSIM_SIGMA**2))
    line = line / line.sum()
    window = (line[:, None] * line)[None, None].expand(3, 1, -1, -1)
    a, b = one.permute(2, 0, 1)[None], other.permute(2, 0, 1)[None]

    def mean(image: Tensor) -> Tensor:
        return functional.conv2d(image, window, groups=3)

    mean_a, mean_b = mean(a), mean(b)
    spread_a, spread_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    shared = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_a * mean_b + c1) * (2 * shared + c2)
    return (likeness / ((mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2))).mean()


def _first(scene: Reconstruction, recipe: Recipe) -> dict[str, Tensor]:
    """Makes one Gaussian per sparse point, as wide as its three nearest neighbours are far."""
    gaps = cKDTree(scene.points).query(scene.points, 4)[0][:, 1:]
    width = np.log(np.sqrt((gaps**2).mean(axis=1)).clip(1e-9))
    count = len(scene.points)
    arrays = {
        "means": torch.as_tensor(scene.points),
        "scales": torch.as_tensor(width)[:, None].repeat(1, 3),
        "quats": torch.rand(count, 4),
        "opacities": torch.logit(torch.full((count,), recipe.opacity)),
        "sh0": torch.as_tensor((scene.colours / 255 - 0.5) / SH_DEGREE_0)[:, None],
        "shN": torch.zeros(count, (recipe.sh_degree + 1) ** 2 - 1, 3),
    }
    return {name: array.to(torch.float32).contiguous() for name, array in arrays.items()}


def _optimizers(parameters: dict[str, Tensor], recipe: Recipe, size: float) -> dict[str, torch.optim.Optimizer]:
    return {
        name: torch.optim.Adam([parameters[name]], lr=rate * (size if name == "means" else 1), eps=1e-15)
        for name, rate in recipe.rates
    }


def _order(views: int, steps: int) -> list[int]:
    """Yields every view once, in random order, again and again."""
    rounds = steps // views + 1
    return torch.cat([torch.randperm(views) for _ in range(rounds)])[:steps].tolist()


def _drawn(
    parameters: dict[str, Tensor], target: Target, degree: int, near: float, rasterization: Rasterization
) -> tuple[Tensor, dict[str, Any]]:
    height, width = target.image.shape[:2]
    images, _, details = rasterization(
        means=parameters["means"],
        quats=parameters["quats"],
        scales=parameters["scales"].exp(),
        opacities=parameters["opacities"].sigmoid(),
        colors=torch.cat([parameters["sh0"], parameters["shN"]], dim=1),
        viewmats=target.camera_from_base[None],
        Ks=target.intrinsics[None],
        width=width,
        height=height,
        near_plane=near,
        sh_degree=degree,
        packed=False,
    )
    return images[0], details


def _loss(shown: Tensor, image: Tensor, ssim_share: float) -> Tensor:
    return torch.lerp((shown - image).abs().mean(), 1 - ssim(shown, image), ssim_share)


def _splats(parameters: dict[str, Tensor]) -> Splats:
    found = {name: value.detach().cpu() for name, value in parameters.items()}
    return Splats.of(
        means=found["means"].numpy(),
        quaternions=functional.normalize(found["quats"], dim=1).numpy(),
        scales=found["scales"].exp().numpy(),
        opacities=found["opacities"].sigmoid().numpy(),
        colours=(0.5 + SH_DEGREE_0 * found["sh0"][:, 0]).numpy(),
        sh=found["shN"].numpy(),
    )
