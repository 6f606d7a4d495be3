"""These tests check what differs between the cameras of two episodes, and that it repeats."""

import re

import numpy as np
import pytest

from protos.errors import InputError
from protos.schema import Schema
from twin.randomize import DOMAINS, Domain
from twin.render.appearance import Appearances
from twin.render.kernels import expose
from twin.render.lanes import LANES

VARIED = Domain(
    exposure_stops=(-1.0, 1.0),
    white_balance=(-0.2, 0.2),
    sensor_noise=(0.02, 0.02),
    camera_jitter_m=0.01,
    camera_jitter_rad=0.02,
)


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("exposure_stops", (0.0, 3.0), "two numbers from -2.0 to 2.0"),
        ("white_balance", 0.1, "two numbers from -0.5 to 0.5"),
        ("sensor_noise", (-0.1, 0.0), "two numbers from 0.0 to 0.2"),
        ("colour_jitter", 0.6, "0.0 to 0.5"),
        ("camera_jitter_m", 0.2, "0.0 to 0.05"),
        ("camera_jitter_rad", 1.0, "0.0 to 0.1"),
        ("camera_poses", 0, "1 to 64"),
        ("exposure_stops", (0.0, float("nan")), "two numbers from -2.0 to 2.0"),
    ],
)
def test_limits_name_the_value(name, value, limits):
    with pytest.raises(InputError, match=re.escape(f"{name}={value}: {limits}")):
        Domain(**{name: value})


@pytest.mark.parametrize("name", ["twin", "standin"])
def test_the_domains_of_the_demo_vary_nothing(name):
    appearances = Appearances(3, DOMAINS[name], 5)
    assert len(appearances.side_poses) == 1
    np.testing.assert_array_equal(appearances.side_poses[0], np.eye(4))
    for slot in range(3):
        np.testing.assert_array_equal(appearances[slot].wrist_pose, np.eye(4))
        assert (appearances[slot].gains == 1).all()


def flat(look) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in look])


def test_a_slot_has_the_appearance_of_its_own_episodes():
    one, other = Appearances(4, VARIED, 7), Appearances(4, VARIED, 7)
    for slot in (3, 0, 0, 2):
        one.reset(slot)
    for slot in (0, 2, 0, 3):
        other.reset(slot)
    for slot in range(4):
        np.testing.assert_array_equal(flat(one[slot]), flat(other[slot]))
    seen = {tuple(flat(one[slot])) for slot in range(4)}
    assert len(seen) == 4
    assert not np.array_equal(flat(Appearances(4, VARIED, 8)[0]), flat(Appearances(4, VARIED, 7)[0]))


def test_appearances_stay_within_their_limits():
    appearances = Appearances(200, VARIED, 0)
    gains = np.array([appearances[slot].gains for slot in range(200)])
    assert gains.max() <= 2 ** (1 / 2.2) * 1.2 and gains.min() >= 2 ** (-1 / 2.2) * 0.8
    assert gains[:, 1].max() > 1.3 and gains[:, 1].min() < 0.77
    moved = np.array([pose[:3, 3] for pose in appearances.side_poses])
    assert len(moved) == VARIED.camera_poses and 0.002 < np.abs(moved).mean() < 0.02
    assert len({appearances[slot].side_pose for slot in range(200)}) == VARIED.camera_poses


def test_noise_is_normal_and_repeats_with_its_seed():
    grey = np.zeros((200, 5, 200 + LANES), np.float32)
    grey[:, :3] = 0.5
    images = np.zeros((3, 200, 200, 3), np.uint8)
    for image, seed in zip(images, (1, 1, 2), strict=True):
        expose(grey, np.zeros((200, 200, 3), np.float32), np.ones(3, np.float32), 0.04, seed, image)
    np.testing.assert_array_equal(images[0], images[1])
    first, second = ((image / 255.0 - 0.5) / 0.04 for image in images[[0, 2]])
    assert abs(first.mean()) < 0.02 and first.std() == pytest.approx(1, abs=0.02)
    assert (np.abs(first) > 2).mean() == pytest.approx(0.0455, abs=0.006)
    for a, b in ((first, second), (first[1:], first[:-1]), (first[..., 0], first[..., 1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


def test_gains_and_no_noise():
    canvas = np.full((2, 5, 2 + LANES), 0.25, np.float32)
    image = np.zeros((2, 2, 3), np.uint8)
    expose(canvas, np.full((2, 2, 3), 0.4, np.float32), np.array([1, 2, 4], np.float32), 0.0, 0, image)
    np.testing.assert_array_equal(image[0, 0], [89, 179, 255])  # 0.35 x gains


def test_a_varied_twin_repeats_and_differs_between_episodes(scene, task, configurations, make_twin):
    (configuration,) = configurations("A", 1)

    def images(seed: int, threads: int = 1) -> np.ndarray:
        twin = make_twin(3, domain=VARIED, seed=seed, px=32, threads=threads)
        shown = []
        for _ in range(2):
            for slot in range(3):
                twin.reset(slot, configuration)
            first, second = twin.observe(), twin.observe()
            shown.append([first.side, second.side, first.wrist, second.wrist])
        return np.array(shown).astype(int)  # (episode, image, slot, 32, 32, 3)

    one = images(seed=4)
    np.testing.assert_array_equal(one, images(seed=4, threads=2))
    assert np.abs(one - images(seed=5)).mean() > 5
    between_images = np.abs(one[:, 0] - one[:, 1]).mean()
    assert 2 < between_images < 8  # sensor noise alone
    assert np.abs(one[0, 0] - one[1, 0]).mean() > 2 * between_images
    assert np.abs(one[0, 0, 0] - one[0, 0, 1]).mean() > 2 * between_images


def test_jittered_cameras_draw_what_they_see(scene, task, configurations):
    """The background of a jittered pose is the scene from that pose."""
    from twin.camera import Camera
    from twin.physics import MujocoPhysics
    from twin.render import rasterize
    from twin.render.compositor import TwinRenderer

    domain = Domain(camera_jitter_m=0.02, camera_jitter_rad=0.03, camera_poses=3)
    physics = MujocoPhysics(scene.robot, task, domain, 1)
    (configuration,) = configurations("A", 1)
    physics.reset(np.zeros(1, int), np.array([[0.3, -1.8, 1.9, -1.7, -1.5, 0.1]]), task.body_poses(configuration))
    renderer = TwinRenderer(scene, physics, domain, Schema(), seed=3)
    renderer.draw()
    appearances = Appearances(1, domain, 3)
    camera = scene.side.camera(64)
    pose = camera.base_from_camera @ appearances.side_poses[appearances[0].side_pose]
    actual = rasterize(scene.static, Camera(**vars(camera) | {"base_from_camera": pose})).over() * 255
    nominal = rasterize(scene.static, camera).over() * 255
    table = np.s_[50:62, 4:20]  # neither arm nor objects
    assert np.abs(renderer.side[0][table] - actual[table]).mean() < 1.5
    assert np.abs(renderer.side[0][table] - nominal[table]).mean() > 1.5
