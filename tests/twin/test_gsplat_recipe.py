"""These tests run gsplat's recipe on the CPU: its projection and harmonics in torch, compositing at every pixel."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from benchmarks.scan import gpu as scan_gpu
from benchmarks.scan.gsplat_recipe import Recipe, scene_size, ssim, train_by
from twin.scan.report import draw

torch = pytest.importorskip("torch")
gsplat = pytest.importorskip("gsplat")
from gsplat.cuda import _torch_impl as reference  # noqa: E402

REAL = inspect.signature(gsplat.rasterization)


def rasterization(*args, **kwargs):
    """Takes what gsplat.rasterization takes; one view, no tiles."""
    given = REAL.bind(*args, **kwargs).arguments
    assert given["packed"] is False and len(given["viewmats"]) == 1
    means, pose, width, height = given["means"], given["viewmats"], given["width"], given["height"]
    covariances, _ = reference._quat_scale_to_covar_preci(given["quats"], given["scales"], True, False)
    radii, means2d, depths, conics, _ = reference._fully_fused_projection(
        means, covariances, pose, given["Ks"], width, height, near_plane=given["near_plane"]
    )
    eye = torch.linalg.inv(pose[0])[:3, 3]
    colours = (reference._spherical_harmonics(given["sh_degree"], means - eye, given["colors"]) + 0.5).clamp_min(0)
    order = torch.argsort(depths[0])
    pixels = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1) + 0.5
    dx, dy = (pixels[:, :, None] - means2d[0, order]).unbind(-1)
    a, b, c = conics[0, order].unbind(-1)
    power = 0.5 * (a * dx**2 + c * dy**2) + b * dx * dy
    seen = (radii[0, order] > 0).all(-1)
    alpha = (given["opacities"][order] * torch.exp(-power)).clamp_max(0.999) * seen
    before = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha[..., :-1]], -1), -1)
    image = (alpha * before) @ colours[order]
    details = {"means2d": means2d, "radii": radii, "width": width, "height": height, "n_cameras": 1}
    return image[None], (alpha * before).sum(-1)[None, ..., None], details | {"gaussian_ids": None}


def test_it_learns_to_show_views_that_it_has_not_seen(photographed):
    held, camera = ["4"], photographed.views[4].camera
    made = {
        steps: train_by(replace(Recipe(), steps=steps), photographed, held, 32, rasterization) for steps in (1, 250)
    }
    before, after = (draw(splats, photographed.views, held, camera, 32).psnr_db() for splats in made.values())
    assert after > 18 and after > before + 6
    assert made[250].degree == 3 and not made[250].sh.any(), "the first degree is switched on after 1,000 steps"


def test_its_structural_similarity_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    one = rng.random((40, 30, 3))
    other = np.clip(one + rng.normal(0, 0.1, one.shape), 0, 1)
    _, full = structural_similarity(
        one, other, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    whole = full[5:-5, 5:-5].mean()  # windows that lie inside the image
    assert float(ssim(torch.tensor(one), torch.tensor(other))) == pytest.approx(whole, abs=1e-6)


def test_the_scenes_size_is_the_trainers(photographed):
    eyes = np.stack([view.camera.base_from_camera[:3, 3] for view in photographed.views])
    farthest = max(np.linalg.norm(eye - eyes.mean(0)) for eye in eyes)
    assert scene_size(photographed.views) == pytest.approx(1.1 * farthest)


def test_without_a_gpu_one_line_says_so(capsys, monkeypatch, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA GPU")
    monkeypatch.setattr("sys.argv", ["scan_gpu", str(tmp_path)])
    assert scan_gpu.main() == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("GPU" in said or "not installed" in said)
