"""Every rasterizer draws the images of the torch reference."""

import numpy as np
import pytest

from protos.errors import InputError
from twin import render
from twin.camera import Camera, look_at
from twin.render.interface import FAR, Image
from twin.splats import Splats, concatenate

OUTSIDE, INSIDE = (-1.0, 0.2, 0.5), (-0.2, 0.1, 0.1)
COEFFICIENTS = (0, 3, 8, 15)


def cloud(count: int, seed: int, *, degree: int = 0, flat: bool = False, densest: float = 1.0) -> Splats:
    """Makes rotated ellipsoids; `flat` ones are needles and discs, up to 60 times longer than thick."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(count, 4))
    low = 0.001 if flat else 0.004
    return Splats.of(
        means=rng.uniform(-0.4, 0.4, (count, 3)),
        quaternions=q / np.linalg.norm(q, axis=1, keepdims=True),
        scales=np.exp(rng.uniform(np.log(low), np.log(0.06), (count, 3))),
        opacities=rng.uniform(0.002, densest, count),
        colours=rng.uniform(0, 1, (count, 3)),
        sh=rng.normal(0, 0.3, (count, COEFFICIENTS[degree], 3)),
    )


def assert_alike(ours: Image, theirs: Image) -> None:
    for a, b in ((ours.colour, theirs.colour), (ours.transmittance, theirs.transmittance)):
        difference = np.abs(a - b)
        assert difference.mean() <= 1e-4
        assert difference.max() <= 5e-3


@pytest.fixture(scope="module")
def reference():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return render.get("torch")


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("flat", [False, True], ids=["round", "flat"])
@pytest.mark.parametrize("eye", [OUTSIDE, INSIDE], ids=["outside", "inside"])
def test_numba_draws_what_the_reference_draws(reference, degree, flat, eye):
    splats = cloud(600, seed=degree, degree=degree, flat=flat)
    camera = look_at(eye, at=(0.1, 0, 0), fovy_deg=60, px=48)
    (ours,), (theirs,) = render.get("numba").render(splats, [camera]), reference.render(splats, [camera])
    assert_alike(ours, theirs)
    same = np.abs(ours.depth - theirs.depth) < 1e-4
    assert same.mean() > 0.99  # a pixel whose transmittance is one half to the last bit may choose the next splat


def test_splats_at_the_near_plane(reference):
    splats = cloud(300, 7, degree=2, flat=True)
    ahead = Splats.of(**{**vars(splats), "means": splats.means * [0.02, 0.05, 0.05] + [0.02, 0, 0]})
    camera = look_at((0, 0, 0), along=(1, 0, 0), fovy_deg=70, px=32)
    (ours,), (theirs,) = render.get("numba").render(ahead, [camera]), reference.render(ahead, [camera])
    assert (theirs.transmittance < 0.5).any()
    assert_alike(ours, theirs)


def test_images_need_not_be_square_or_centred(reference):
    square = look_at((-1, 0, 0.4), at=(0, 0, 0), fovy_deg=50, px=48)
    camera = Camera(base_from_camera=square.base_from_camera, width=53, height=30, fx=50, fy=44, cx=20.5, cy=17)
    splats = cloud(300, 5, degree=3)
    (ours,), (theirs,) = render.get("numba").render(splats, [camera]), reference.render(splats, [camera])
    assert ours.colour.shape == (30, 53, 3)
    assert_alike(ours, theirs)


def test_a_call_with_several_cameras_is_one_call_per_camera():
    splats = cloud(200, 2, degree=1)
    cameras = [look_at(eye, at=(0, 0, 0), fovy_deg=60, px=24) for eye in (OUTSIDE, INSIDE, (0.9, 0.3, 0.2))]
    numba = render.get("numba")
    for image, camera in zip(numba.render(splats, cameras), cameras, strict=True):
        np.testing.assert_array_equal(image.colour, numba.render(splats, [camera])[0].colour)


def test_constant_colours_below_zero_are_black_not_dark_light():
    black = Splats.of(
        means=[[1, 0, 0]], quaternions=[[1, 0, 0, 0]], scales=[[0.1] * 3], opacities=[0.9], colours=[[-1.0, 0.5, 2.0]]
    )
    camera = look_at((0, 0, 0), along=(1, 0, 0), fovy_deg=60, px=9)
    pixel = render.rasterize(black, camera).colour[4, 4]
    assert pixel == pytest.approx([0, 0.45, 1.8], abs=0.02)


def test_harmonics_give_other_colours_from_other_sides():
    sh = np.zeros((1, 3, 3))
    sh[0, 2] = [-0.8, 0, 0.8]  # the function -0.489 x: red seen along +x, blue seen along -x
    ball = Splats.of(
        means=[[0, 0, 0]],
        quaternions=[[1, 0, 0, 0]],
        scales=[[0.1] * 3],
        opacities=[1.0],
        colours=[[0.5, 0.5, 0.5]],
        sh=sh,
    )
    front, back = render.get("numba").render(
        ball, [look_at((x, 0, 0), at=(0, 0, 0), fovy_deg=60, px=9) for x in (-1, 1)]
    )
    assert front.colour[4, 4, 0] > 0.8 > 0.2 > front.colour[4, 4, 2]
    assert back.colour[4, 4, 2] > 0.8 > 0.2 > back.colour[4, 4, 0]


def test_harmonics_turn_with_their_splats():
    from twin.rotations import matrix_from_vector

    splats = cloud(200, 1, degree=3)
    camera = look_at((-1, 0, 0.3), at=(0, 0, 0), fovy_deg=60, px=32)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = matrix_from_vector([0.4, -0.9, 1.3]), (0.5, -2, 1)
    turned = Camera(**{**vars(camera), "base_from_camera": pose @ camera.base_from_camera})
    there = render.rasterize(splats.transformed(pose), turned)
    difference = np.abs(there.colour - render.rasterize(splats, camera).colour)
    assert difference.mean() < 1e-4


def test_splats_of_several_degrees_keep_their_colours_when_put_together():
    camera = look_at(OUTSIDE, at=(0, 0, 0), fovy_deg=60, px=32)
    plain, shiny = cloud(100, 3), cloud(100, 4, degree=2)
    both = concatenate([plain, shiny])
    assert both.degree == 2
    for part, kept in ((plain, both[:100]), (shiny, both[100:])):
        np.testing.assert_allclose(
            render.rasterize(part, camera).colour, render.rasterize(kept, camera).colour, atol=1e-6
        )


def test_the_registry_names_its_choices_and_says_why_one_cannot_run():
    with pytest.raises(InputError, match="numba, gsplat, torch"):
        render.get("opengl")
    reasons = render.available()
    assert set(reasons) == {"numba", "gsplat", "torch"}
    assert reasons["numba"] is None
    assert all(reason is None or "\n" not in reason for reason in reasons.values())


@pytest.mark.parametrize("name", ["numba", "torch"])
def test_cameras_of_one_call_have_one_size(name):
    pytest.importorskip("torch")
    cameras = [look_at(OUTSIDE, at=(0, 0, 0), fovy_deg=60, px=px) for px in (16, 32)]
    with pytest.raises(InputError, match="2 different sizes"):
        render.get(name).render(cloud(5, 0), cameras)


def test_gsplat_refuses_machines_without_a_gpu():
    gsplat = render.get("gsplat")
    if gsplat.obstacle() is None:
        pytest.skip("this machine has a CUDA GPU: see test_gsplat_draws_what_numba_draws")
    with pytest.raises(InputError, match=r"GPU|not installed"):
        gsplat.render(cloud(5, 0), [look_at((-1, 0, 0), at=(0, 0, 0), fovy_deg=60, px=32)])


@pytest.mark.parametrize("degree", range(4))
def test_gsplat_draws_what_numba_draws(degree):
    """Opacities up to 0.95: behind denser splats gsplat ends a pixel one splat earlier (see its module)."""
    gsplat = render.get("gsplat")
    obstacle = gsplat.obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    splats = cloud(600, degree, degree=degree, flat=True, densest=0.95)
    cameras = [look_at(eye, at=(0.1, 0, 0), fovy_deg=60, px=48) for eye in (OUTSIDE, INSIDE)]
    for ours, theirs in zip(gsplat.render(splats, cameras), render.get("numba").render(splats, cameras), strict=True):
        assert_alike(ours, theirs)
        hit = (ours.depth < FAR) & (theirs.depth < FAR)
        assert np.median(np.abs(ours.depth - theirs.depth)[hit]) < 0.2
