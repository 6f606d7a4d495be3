import numpy as np
import pytest

from protos.errors import InputError
from twin.camera import invert, look_at


def test_the_camera_looks_along_z_with_y_down():
    camera = look_at((1, 2, 3), at=(1, 5, 3), fovy_deg=90, px=64)
    np.testing.assert_allclose(camera.base_from_camera[:3, 2], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(camera.base_from_camera[:3, 1], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(camera.base_from_camera[:3, 0], [1, 0, 0], atol=1e-12)
    assert camera.fx == pytest.approx(32)


def test_projection_puts_the_aim_in_the_middle_and_right_to_the_right():
    camera = look_at((-1, 0, 0.5), at=(0, 0, 0), fovy_deg=50, px=100)
    u, v, z = camera.project((0, 0, 0))
    assert (u, v) == pytest.approx((50, 50))
    assert z == pytest.approx(np.hypot(1, 0.5))
    assert camera.project((0, -0.1, 0))[0] > 50  # seen from -x towards +x, -y is on the right
    assert camera.project((0, 0, 0.1))[1] < 50


def test_inverse_and_resizing_are_consistent():
    camera = look_at((-1, 0.2, 0.5), along=(1, 0, -0.4), fovy_deg=50, px=64)
    np.testing.assert_allclose(invert(camera.base_from_camera) @ camera.base_from_camera, np.eye(4), atol=1e-12)
    large = camera.resized(128, 192)
    point = (0.1, 0.1, 0.0)
    np.testing.assert_allclose(large.project(point)[:2], camera.project(point)[:2] * [2, 3])


@pytest.mark.parametrize(
    "call",
    [
        lambda: look_at((0, 0, 1), along=(0, 0, -1), fovy_deg=50, px=64),
        lambda: look_at((0, 0, 1), along=(1, 0, 0), at=(1, 0, 0), fovy_deg=50, px=64),
        lambda: look_at((0, 0, 1), fovy_deg=50, px=64),
        lambda: look_at((0, 0, 1), along=(1, 0, 0), fovy_deg=190, px=64),
        lambda: look_at((0, 0, 1), along=(1, 0, 0), fovy_deg=50, px=0),
    ],
)
def test_impossible_cameras_are_refused(call):
    with pytest.raises(InputError):
        call()
