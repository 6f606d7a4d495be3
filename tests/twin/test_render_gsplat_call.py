"""The call of gsplat is checked without a GPU.

A fake takes gsplat's place. It holds its arguments to what gsplat's documentation says of them, and draws with a plain
NumPy reference written from that documentation: pinhole projection, SciPy's spherical harmonics, and dense compositing.
Neither shares code with `twin.render`.
"""

import inspect

import numpy as np
import pytest
from scipy.special import sph_harm_y

from twin import render
from twin.camera import Camera, look_at
from twin.render import FAR, NEAR_M, Image, gsplat_backend
from twin.splats import Splats

torch = pytest.importorskip("torch")
gsplat = pytest.importorskip("gsplat")
REAL = inspect.signature(gsplat.rasterization)
OPTIONS = {"near_plane": NEAR_M, "render_mode": "RGB+ED"}
"""Options that differ from gsplat's defaults, beside `sh_degree`."""


def rotations(quats: np.ndarray) -> np.ndarray:
    """Returns rotation matrices (N, 3, 3) of quaternions wxyz (N, 4) of any length: v + 2 w (u x v) + 2 u x (u x v)."""
    unit = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    w, u = unit[:, None, :1], unit[:, None, 1:]
    axes = np.eye(3)[None]
    across = np.cross(u, axes)
    return (axes + 2 * w * across + 2 * np.cross(u, across)).transpose(0, 2, 1)


def harmonics(directions: np.ndarray, degree: int) -> np.ndarray:
    """Returns real spherical harmonics (N, (degree + 1)^2) along directions (N, 3), degree by degree, order -l to l."""
    x, y, z = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    columns = []
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            value = sph_harm_y(n, abs(m), np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x))
            columns.append(value.real if m == 0 else np.sqrt(2) * (value.imag if m < 0 else value.real))
    return np.stack(columns, 1)


def drawn(means, quats, scales, opacities, coefficients, view, K, width, height):
    """Draws colour (H, W, 3), alpha and expected depth (H, W) by the formulas of Kerbl et al. 2023, section 4."""
    local = means @ view[:3, :3].T + view[:3, 3]
    order = np.argsort(local[:, 2])
    order = order[local[order, 2] > NEAR_M]
    focal, centre = np.array([K[0, 0], K[1, 1]]), K[:2, 2]
    size = np.array([width, height])
    rows, columns = np.mgrid[:height, :width] + 0.5
    eye = -view[:3, :3].T @ view[:3, 3]
    degree = int(np.sqrt(coefficients.shape[1])) - 1
    colours = np.maximum(np.einsum("nk,nkc->nc", harmonics(means - eye, degree), coefficients) + 0.5, 0)
    R = rotations(quats)
    through, colour, depth = np.ones((height, width)), np.zeros((height, width, 3)), np.zeros((height, width))
    for i in order:
        x, y, z = local[i]
        # the slope of the projection is taken at most 0.15 image sizes outside the image
        slope = np.clip([x / z, y / z], -(centre + 0.15 * size) / focal, (1.15 * size - centre) / focal)
        J = np.array([[focal[0] / z, 0, -focal[0] * slope[0] / z], [0, focal[1] / z, -focal[1] * slope[1] / z]])
        axes = J @ view[:3, :3] @ R[i] * scales[i]
        inverse = np.linalg.inv(axes @ axes.T + 0.3 * np.eye(2))
        d = np.stack([columns - (K[0, 0] * x / z + K[0, 2]), rows - (K[1, 1] * y / z + K[1, 2])], -1)
        alpha = np.minimum(opacities[i] * np.exp(-0.5 * np.einsum("hwi,ij,hwj->hw", d, inverse, d)), 0.999)
        weight = np.where((alpha >= 1 / 255) & (through > 1e-4), alpha, 0) * through
        colour += weight[..., None] * colours[i]
        depth += weight * z
        through = through - weight
    return colour, 1 - through, depth / np.maximum(1 - through, 1e-10)


class Fake:
    """Takes the place of `gsplat.rasterization`; keeps what it returned."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.images: list[np.ndarray] = []
        self.alphas: list[np.ndarray] = []

    def __call__(self, *args, **kwargs):
        given = REAL.bind(*args, **kwargs).arguments
        self.check(given)
        names = ("means", "quats", "scales", "opacities", "colors")
        splats = [given[name].double().numpy() for name in names]
        for view, K in zip(given["viewmats"].double().numpy(), given["Ks"].double().numpy(), strict=True):
            colour, alpha, depth = drawn(*splats, view, K, given["width"], given["height"])
            self.images.append(np.concatenate([colour, depth[..., None]], 2).astype(np.float32))
            self.alphas.append(alpha[..., None].astype(np.float32))
        count = len(given["viewmats"])
        self.batches.append(count)
        return torch.from_numpy(np.stack(self.images[-count:])), torch.from_numpy(np.stack(self.alphas[-count:])), {}

    @staticmethod
    def check(given) -> None:
        """Asserts shapes, types, devices and conventions as documented by gsplat 1.5.3."""
        optional = {name: value for name, value in given.items() if REAL.parameters[name].default is not inspect._empty}
        degree = optional.pop("sh_degree")
        assert optional == OPTIONS
        n, views = len(given["means"]), len(given["viewmats"])
        shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,)}
        shapes |= {"colors": (n, (degree + 1) ** 2, 3), "viewmats": (views, 4, 4), "Ks": (views, 3, 3)}
        for name, shape in shapes.items():
            tensor = given[name]
            assert tensor.shape == shape and tensor.dtype == torch.float32 and tensor.is_contiguous(), name
            assert tensor.isfinite().all(), name
        assert (given["scales"] > 0).all() and (given["quats"].norm(dim=1) > 0).all()
        assert ((given["opacities"] >= 0) & (given["opacities"] <= 1)).all()
        turn = given["viewmats"][:, :3, :3]  # world to camera: rigid, and what is seen lies along +z
        assert torch.allclose(turn @ turn.transpose(1, 2), torch.eye(3).expand_as(turn), atol=1e-5)
        assert (torch.linalg.det(turn) > 0).all()
        assert (given["viewmats"][:, 3] == torch.tensor([0.0, 0, 0, 1])).all()
        middle = given["means"].mean(0)
        assert ((turn[:, 2] @ middle + given["viewmats"][:, 2, 3]) > 0).all()
        K = given["Ks"]
        assert (K[:, 2] == torch.tensor([0.0, 0, 1])).all() and (K[:, 0, 1] == 0).all() and (K[:, 1, 0] == 0).all()
        assert (K[:, 0, 2] > 0).all() and (K[:, 0, 2] < given["width"]).all()
        assert (K[:, 1, 2] > 0).all() and (K[:, 1, 2] < given["height"]).all()


@pytest.fixture
def fake(monkeypatch):
    fake = Fake()
    monkeypatch.setattr(gsplat, "rasterization", fake)
    monkeypatch.setattr(gsplat_backend, "_upload", lambda a: torch.from_numpy(np.ascontiguousarray(a, np.float32)))
    monkeypatch.setattr(gsplat_backend.GsplatRasterizer, "obstacle", lambda self: None)
    return fake


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


def cameras() -> list[Camera]:
    square = look_at((-1, 0.2, 0.4), at=(0, 0, 0), fovy_deg=50, px=24)
    return [
        Camera(base_from_camera=look_at(eye, at=(0, 0, 0), fovy_deg=50, px=24).base_from_camera,
               width=26, height=18, fx=square.fx, fy=0.9 * square.fy, cx=11.0, cy=10.5)
        for eye in ((-1, 0.2, 0.4), (0.3, -0.9, 0.6), (0.8, 0.8, 0.1))
    ]  # fmt: skip


def assert_alike(ours: Image, theirs: Image) -> None:
    """Asserts equal images; a splat that reaches a pixel with an opacity of 1/255 may be drawn there or not."""
    for a, b in ((ours.colour, theirs.colour), (ours.transmittance, theirs.transmittance)):
        assert np.abs(a - b).mean() < 1e-4 and np.abs(a - b).max() < 5e-3


@pytest.mark.parametrize("degree", range(4))
def test_splats_and_cameras_arrive_as_gsplat_wants_them(fake, degree):
    """The NumPy reference, fed through the backend, draws what the numba rasterizer draws of the same splats."""
    ours, theirs = (render.get(name).render(cloud(degree), cameras()) for name in ("gsplat", "numba"))
    for a, b in zip(ours, theirs, strict=True):
        assert_alike(a, b)
        assert b.transmittance.min() < 0.3 and a.colour.max() > 0.5


@pytest.mark.parametrize("degree", range(4))
def test_the_numpy_reference_draws_what_gsplats_own_projection_and_harmonics_give(fake, degree):
    reference = render.get("torch")
    if reference.obstacle() is not None:
        pytest.skip(reference.obstacle())
    ours, theirs = (render.get(name).render(cloud(degree), cameras()) for name in ("gsplat", "torch"))
    for a, b in zip(ours, theirs, strict=True):
        assert_alike(a, b)


def test_colour_alpha_and_depth_are_taken_from_their_channels(fake):
    for image, pixels, alpha in zip(
        render.get("gsplat").render(cloud(2), cameras()), fake.images, fake.alphas, strict=True
    ):
        np.testing.assert_array_equal(image.colour, pixels[..., :3])
        np.testing.assert_array_equal(image.transmittance, 1 - alpha[..., 0])
        hit = alpha[..., 0] > 0.5
        np.testing.assert_array_equal(image.depth[hit], pixels[..., 3][hit])
        assert hit.any() and not hit.all() and (image.depth[~hit] == FAR).all()


def test_a_single_splat_has_the_colour_opacity_and_depth_that_it_was_given(fake):
    """It is red in the middle of the image, 0.8 opaque there, 2 m along the view axis."""
    ball = Splats.of(
        means=[[2, 0, 0]], quaternions=[[1, 0, 0, 0]], scales=[[0.5] * 3], opacities=[0.8], colours=[[1, 0.25, 0]]
    )
    camera = look_at((0, 0, 0), along=(1, 0, 0), fovy_deg=60, px=9)
    (image,) = render.get("gsplat").render(ball, [camera])
    assert image.colour[4, 4] == pytest.approx([0.8, 0.2, 0], abs=1e-5)
    assert image.transmittance[4, 4] == pytest.approx(0.2, abs=1e-5)
    assert image.depth[4, 4] == pytest.approx(2, abs=1e-5)


def test_many_cameras_are_drawn_in_batches(fake, monkeypatch):
    monkeypatch.setattr(gsplat_backend, "BATCH", 4)
    cameras = [look_at((-1, 0.02 * k, 0.4), at=(0, 0, 0), fovy_deg=50, px=16) for k in range(10)]
    images = render.get("gsplat").render(cloud(0), cameras)
    assert fake.batches == [4, 4, 2] and len(images) == 10
    for image, camera in zip(images, cameras, strict=True):
        assert_alike(image, render.rasterize(cloud(0), camera))


def test_bytes_are_rounded_colours(fake):
    camera = look_at((-1, 0.2, 0.4), at=(0, 0, 0), fovy_deg=50, px=16)
    (image,) = gsplat_backend.Uploaded(cloud(1)).draw_bytes([camera])
    expected = np.clip(fake.images[0][..., :3] * 255, 0, 255)
    assert image.dtype == np.uint8 and np.abs(image - expected).max() <= 0.51
