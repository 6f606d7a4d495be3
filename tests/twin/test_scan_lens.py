"""These tests compare undistortion with OpenCV's model and with photos of known distortion."""

import cv2
import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.scan.sfm import Lens

LENSES = {
    "PINHOLE": [310.0, 290.0, 150.0, 130.0],
    "SIMPLE_RADIAL": [300.0, 155.0, 125.0, -0.12],
    "OPENCV": [310.0, 290.0, 150.0, 130.0, -0.15, 0.03, 0.004, -0.003],
}
WIDTH, HEIGHT = 300, 250


@pytest.mark.parametrize("model", LENSES)
def test_distortion_is_colmaps(model):
    camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=LENSES[model])
    rays = np.random.default_rng(0).uniform(-0.4, 0.4, (50, 2))
    lens = Lens.of(model, LENSES[model])
    pinhole = rays * [lens.fx, lens.fy] + [lens.cx, lens.cy]
    assert np.allclose(lens.distort(pinhole), camera.img_from_cam(np.c_[rays, np.ones(50)]), atol=1e-9)


@given(st.floats(-0.2, 0.2), st.floats(-0.05, 0.05), st.floats(-0.01, 0.01), st.floats(-0.01, 0.01))
@settings(max_examples=40, deadline=None)
def test_undistort_inverts_distort_or_says_that_it_cannot(k1, k2, p1, p2):
    lens = Lens.of("OPENCV", [300, 290, 150, 125, k1, k2, p1, p2])
    rng = np.random.default_rng(0)
    photo = rng.uniform([0, 0], [WIDTH, HEIGHT], (100, 2))
    view = lens.undistort(photo)
    known = np.isfinite(view[:, 0])
    assert known[np.linalg.norm(photo - [150, 125], axis=1) < 60].all()
    assert np.allclose(lens.distort(view[known]), photo[known], atol=1e-3)


def test_a_coefficient_of_almost_nothing_is_nothing():
    """COLMAP may end a fit with any number; the turning point of such a polynomial lies beyond float64."""
    tiny, none = (Lens.of("OPENCV", [300, 290, 150, 125, -0.1, k2, 0, 0]) for k2 in (5e-324, 0.0))
    photo = np.random.default_rng(0).uniform([0, 0], [WIDTH, HEIGHT], (100, 2))
    np.testing.assert_array_equal(tiny.undistort(photo), none.undistort(photo))


def chessboard_of_points(lens):
    """Returns a photo of smooth stripes as the lens shows them, and the same without distortion."""
    column, row = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    view = np.stack([column.ravel(), row.ravel()], 1)

    def stripes(pixels):
        u, v = pixels.T
        value = 127 + 60 * np.sin(u / 9) + 60 * np.cos(v / 7)
        return value.reshape(HEIGHT, WIDTH).astype(np.float32)

    return stripes(lens.undistort(view)), stripes(view)


@pytest.mark.parametrize("model", LENSES)
def test_a_photo_becomes_what_a_pinhole_would_have_shown(model):
    lens = Lens.of(model, LENSES[model])
    photo, truth = chessboard_of_points(lens)
    maps, shown = lens.maps(WIDTH, HEIGHT)
    straight = cv2.remap(photo, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(straight - truth)[shown].max() < 1.5
    assert shown.mean() > 0.85
    assert shown[HEIGHT // 4 : -HEIGHT // 4, WIDTH // 4 : -WIDTH // 4].all()


def test_pixels_that_the_photo_does_not_show_are_not_valid():
    """With a pincushion lens the photo's corners lie inside the view, beyond them there is nothing."""
    lens = Lens.of("SIMPLE_RADIAL", [300, 150, 125, 0.2])
    _, shown = lens.maps(WIDTH, HEIGHT)
    assert not shown[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert shown[HEIGHT // 2, WIDTH // 2]


def test_the_rim_is_not_shown_twice():
    """With k1 < 0 the polynomial turns back at r = sqrt(1 / (3 |k1|)); pixels beyond would repeat the photo."""
    lens = Lens.of("SIMPLE_RADIAL", [60, 150, 125, -0.12])
    maps, shown = lens.maps(WIDTH, HEIGHT)
    limit = 60 * np.sqrt(1 / 0.36)
    column, row = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    radius = np.hypot(column - 150, row - 125)
    assert not shown[radius > limit].any()
    inside_photo = ((maps >= 0) & (maps <= [WIDTH - 1, HEIGHT - 1])).all(axis=-1)
    assert (inside_photo & (radius > limit)).any()
    assert np.isnan(lens.undistort(np.array([[0.5, 0.5]]))).all()
