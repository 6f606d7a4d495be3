"""What the gsplat backend hands over, without a GPU: a stand-in for gsplat checks it and draws on the CPU."""

import inspect

import numpy as np
import pytest

from twin import render
from twin.camera import Camera, invert, look_at
from twin.render import gsplat_backend
from twin.render.interface import FAR, NEAR_M
from twin.splats import SH_DEGREE_0, Splats

torch = pytest.importorskip("torch")
gsplat = pytest.importorskip("gsplat")
REAL = inspect.signature(gsplat.rasterization)


class StandIn:
    """Takes what gsplat 1.5.3 takes, holds it to gsplat's assertions, and draws it with numba."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, *args, **kwargs):
        given = REAL.bind(*args, **kwargs).arguments
        assert set(given) - set(list(REAL.parameters)[:9]) <= {"near_plane", "sh_degree", "render_mode"}
        assert given["near_plane"] == NEAR_M and given["render_mode"] == "RGB+ED"
        n, views = len(given["means"]), given["viewmats"]
        count = (given["sh_degree"] + 1) ** 2
        shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "colors": (n, count, 3)}
        shapes |= {"viewmats": (len(views), 4, 4), "Ks": (len(views), 3, 3)}
        for name, shape in shapes.items():
            assert given[name].shape == shape and given[name].dtype == torch.float32, name
            assert given[name].is_contiguous(), name
        self.batches.append(len(views))
        drawn = [self._draw(given, view.numpy(), K.numpy()) for view, K in zip(views, given["Ks"], strict=True)]
        images = np.stack([np.concatenate([p.colour, p.depth[..., None]], 2) for p in drawn])
        alphas = np.stack([1 - p.transmittance for p in drawn])[..., None]
        return torch.from_numpy(images), torch.from_numpy(alphas), {}

    def _draw(self, given, view, K):
        coefficients = given["colors"].numpy()
        splats = Splats.of(
            means=given["means"],
            quaternions=given["quats"],
            scales=given["scales"],
            opacities=given["opacities"],
            colours=0.5 + SH_DEGREE_0 * coefficients[:, 0],
            sh=coefficients[:, 1:],
        )
        camera = Camera(
            base_from_camera=invert(view),
            width=given["width"],
            height=given["height"],
            fx=float(K[0, 0]),
            fy=float(K[1, 1]),
            cx=float(K[0, 2]),
            cy=float(K[1, 2]),
        )
        return render.rasterize(splats, camera)


@pytest.fixture
def standin(monkeypatch):
    standin = StandIn()
    monkeypatch.setattr(gsplat, "rasterization", standin)
    monkeypatch.setattr(gsplat_backend, "_upload", lambda a: torch.from_numpy(np.ascontiguousarray(a, np.float32)))
    monkeypatch.setattr(gsplat_backend.GsplatRasterizer, "obstacle", lambda self: None)
    return standin


def cloud(degree: int) -> Splats:
    rng = np.random.default_rng(degree)
    q = rng.normal(size=(80, 4))
    return Splats.of(
        means=rng.uniform(-0.3, 0.3, (80, 3)),
        quaternions=q / np.linalg.norm(q, axis=1, keepdims=True),
        scales=rng.uniform(0.01, 0.05, (80, 3)),
        opacities=rng.uniform(0.1, 0.9, 80),
        colours=rng.uniform(0, 1, (80, 3)),
        sh=rng.normal(0, 0.2, (80, (0, 3, 8, 15)[degree], 3)),
    )


@pytest.mark.parametrize("degree", range(4))
def test_splats_and_cameras_arrive_as_gsplat_wants_them(standin, degree):
    square = look_at((-1, 0.2, 0.4), at=(0, 0, 0), fovy_deg=50, px=24)
    cameras = [
        Camera(base_from_camera=look_at(eye, at=(0, 0, 0), fovy_deg=50, px=24).base_from_camera,
               width=26, height=18, fx=square.fx, fy=0.9 * square.fy, cx=11.0, cy=10.5)
        for eye in ((-1, 0.2, 0.4), (0.3, -0.9, 0.6), (0.8, 0.8, 0.1))
    ]  # fmt: skip
    splats = cloud(degree)
    ours, theirs = (render.get(name).render(splats, cameras) for name in ("gsplat", "numba"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.colour, b.colour, atol=1e-4)
        np.testing.assert_allclose(a.transmittance, b.transmittance, atol=1e-4)
        hit = b.transmittance < 0.49
        np.testing.assert_allclose(a.depth[hit], b.depth[hit], atol=1e-4)
        assert hit.any() and (a.depth[b.transmittance > 0.51] == FAR).all()


def test_many_cameras_are_drawn_in_batches(standin, monkeypatch):
    monkeypatch.setattr(gsplat_backend, "BATCH", 4)
    cameras = [look_at((-1, 0.02 * k, 0.4), at=(0, 0, 0), fovy_deg=50, px=16) for k in range(10)]
    images = render.get("gsplat").render(cloud(0), cameras)
    assert standin.batches == [4, 4, 2] and len(images) == 10
    np.testing.assert_allclose(images[9].colour, render.rasterize(cloud(0), cameras[9]).colour, atol=1e-4)


def test_bytes_are_rounded_colours(standin):
    camera = look_at((-1, 0.2, 0.4), at=(0, 0, 0), fovy_deg=50, px=16)
    (image,) = gsplat_backend.Uploaded(cloud(1)).draw_bytes([camera])
    expected = np.clip(render.rasterize(cloud(1), camera).colour * 255, 0, 255)
    assert image.dtype == np.uint8 and np.abs(image - expected).max() <= 0.51
