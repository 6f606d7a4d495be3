import math

import numpy as np
import pytest

from twin.camera import Camera, look_at
from twin.render import rasterize
from twin.rotations import quaternion_from_matrix
from twin.splats import Splats


def cloud(count: int, seed: int) -> Splats:
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(count, 4))
    return Splats.of(
        means=rng.uniform(-0.4, 0.4, (count, 3)),
        quaternions=q / np.linalg.norm(q, axis=1, keepdims=True),
        scales=np.exp(rng.uniform(np.log(0.004), np.log(0.06), (count, 3))),
        opacities=rng.uniform(0.002, 1, count),
        colours=rng.uniform(0, 1, (count, 3)),
    )


def one_splat(z: float, colour: tuple[float, float, float], opacity: float = 0.95) -> Splats:
    return Splats.of(
        means=[[z, 0, 0]],
        quaternions=[[1, 0, 0, 0]],
        scales=[[0.05, 0.05, 0.05]],
        opacities=[opacity],
        colours=[colour],
    )


def test_the_nearer_splat_covers_the_farther_one_and_gives_the_depth():
    from twin.splats import concatenate

    camera = look_at((0, 0, 0), along=(1, 0, 0), fovy_deg=60, px=33)
    both = concatenate([one_splat(2.0, (0, 0, 1)), one_splat(1.0, (1, 0, 0))])
    image = rasterize(both, camera)
    red, _, blue = image.colour[16, 16]
    assert red == pytest.approx(0.95, abs=0.01)
    assert blue == pytest.approx(0.05 * 0.95, abs=0.01)
    assert image.depth[16, 16] == pytest.approx(1.0, abs=1e-5)
    assert image.depth[0, 0] > 1e6
    assert image.over((0, 1, 0))[0, 0] == pytest.approx([0, 1, 0])


def test_footprints_have_the_size_of_the_projected_gaussian():
    camera = look_at((0, 0, 0), along=(1, 0, 0), fovy_deg=60, px=65)
    image = rasterize(one_splat(1.0, (1, 1, 1), opacity=0.5), camera)
    sigma = math.sqrt((0.05 * camera.fx) ** 2 + 0.3)
    row = image.colour[32, :, 0]
    offset = np.arange(65) + 0.5 - 32.5
    expected = 0.5 * np.exp(-0.5 * (offset / sigma) ** 2)
    np.testing.assert_allclose(row, np.where(expected >= 1 / 255, expected, 0), atol=2e-3)


def test_turning_camera_and_splats_together_changes_nothing():
    from twin.rotations import matrix_from_vector

    splats = cloud(200, 1)
    camera = look_at((-1, 0, 0.3), at=(0, 0, 0), fovy_deg=60, px=32)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = matrix_from_vector([0.4, -0.9, 1.3]), (0.5, -2, 1)
    turned = Camera(**{**vars(camera), "base_from_camera": pose @ camera.base_from_camera})
    difference = np.abs(rasterize(splats.transformed(pose), turned).colour - rasterize(splats, camera).colour)
    assert difference.mean() < 1e-4
    assert quaternion_from_matrix(pose[:3, :3])[0] > 0


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("place", [0.016, 1.0, 1e6])
def test_absurd_splats_neither_crash_nor_spread_nan(scale, place):
    """A file may hold them; their footprints overflow float32."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=(40, 4))
    huge = Splats.of(
        means=place * np.abs(rng.normal(1, 0.3, (40, 3))) + [0.01, 0, 0],
        quaternions=q / np.linalg.norm(q, axis=1, keepdims=True),
        scales=scale * rng.uniform(0, 1, (40, 3)) ** 8,
        opacities=rng.uniform(0, 1, 40),
        colours=rng.uniform(0, 1, (40, 3)),
    )
    for fovy_deg in (1, 60, 170):
        image = rasterize(huge, look_at((0, 0, 0), along=(1, 1, 1), fovy_deg=fovy_deg, px=33))
        assert np.isfinite(image.colour).all() and np.isfinite(image.transmittance).all()
        assert image.transmittance.min() > -1e-6 and image.transmittance.max() <= 1
