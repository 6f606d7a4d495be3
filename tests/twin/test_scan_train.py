"""These tests compare the training rasterizer with plain torch, and train on a scene made of splats."""

import numpy as np
import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

from twin.camera import look_at
from twin.render import rasterize
from twin.scan.rasterize import render
from twin.scan.train import SeedSettings, TrainSettings, start, train
from twin.splats import Splats

WIDTH, HEIGHT = 64, 48


def random_splats(count=500):
    rng = np.random.default_rng(0)
    quaternions = rng.normal(size=(count, 4))
    return Splats.of(
        means=rng.uniform(-0.3, 0.3, (count, 3)),
        quaternions=quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True),
        scales=rng.uniform(0.004, 0.05, (count, 3)),
        opacities=rng.uniform(0.05, 0.97, count),
        colours=rng.uniform(0, 1, (count, 3)),
    )


def tensors(splats):
    arrays = (splats.means, splats.quaternions, splats.scales, splats.opacities, splats.colours)
    return [torch.from_numpy(array.copy()).requires_grad_(True) for array in arrays]


def view():
    camera = look_at((-1, 0.1, 0.2), at=(0, 0, 0), fovy_deg=40, px=HEIGHT)
    camera = type(camera)(**(vars(camera) | {"width": WIDTH, "cx": WIDTH / 2}))
    pose, matrix = (torch.tensor(m, dtype=torch.float32) for m in (camera.camera_from_base, camera.intrinsics))
    return camera, pose, matrix


def dense(means, quaternions, scales, opacities, colours, pose, matrix, width, height):
    """Draws all splats at all pixels, with torch's own derivatives."""
    covariances, _ = _quat_scale_to_covar_preci(quaternions, scales, compute_preci=False)
    radii, centres, depths, conics, _ = _fully_fused_projection(
        means, covariances, pose[None], matrix[None], width, height, near_plane=0.015
    )
    seen = torch.where((radii[0] > 0).all(-1))[0]
    seen = seen[torch.argsort(depths[0, seen])]
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    dx, dy = (torch.stack([columns, rows], -1).reshape(-1, 1, 2) - centres[0, seen]).unbind(-1)
    a, b, c = conics[0, seen].unbind(-1)
    alpha = (opacities[seen] * torch.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy)).clamp(max=0.999)
    alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
    before = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1), 1)[:, :-1]
    return (alpha * before * (before > 1e-4) @ colours[seen]).reshape(height, width, 3)


def test_gradients_match_torch_autograd():
    _, pose, matrix = view()
    target = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    results = []
    for function in (dense, lambda *arguments: render(*arguments).image):
        parameters = tensors(random_splats())
        image = function(*parameters, pose, matrix, WIDTH, HEIGHT)
        gradients = torch.autograd.grad(((image - target) ** 2).mean(), parameters)
        results.append([image.detach(), *gradients])
    for reference, own in zip(*results, strict=True):
        assert (reference - own).norm() <= 1e-3 * reference.norm()


def test_training_and_twin_draw_the_same_image():
    camera, pose, matrix = view()
    splats = random_splats()
    with torch.no_grad():
        trained = render(*tensors(splats), pose, matrix, WIDTH, HEIGHT).image.numpy()
    difference = np.abs(trained - rasterize(splats, camera).over())
    assert difference.max() < 5e-3
    assert difference.mean() < 1e-4


def test_training_improves_views_it_has_not_seen(photographed):
    def after(steps):
        settings = TrainSettings(steps=steps, width=96, seeds=SeedSettings(splats=2500))
        return train(photographed, settings, lambda stage, share: None)

    short, longer = after(1), after(60)
    assert longer.held_out == ("4",)
    assert longer.psnr_db > short.psnr_db + 4
    assert longer.psnr_db > 22


def test_seeds_fill_what_the_points_left_empty(photographed):
    means, *_ = start(photographed, SeedSettings(splats=9000))
    assert len(means) <= 9000
    assert len(start(photographed, SeedSettings(splats=500))[0]) == 500
    for shot in photographed.views:
        u, v, z = shot.camera.project(means).T
        inside = (z > 0) & (u >= 0) & (v >= 0) & (u < 96) & (v < 96)
        counts, _, _ = np.histogram2d(u[inside], v[inside], bins=8, range=((0, 96), (0, 96)))
        assert counts.min() > 0
