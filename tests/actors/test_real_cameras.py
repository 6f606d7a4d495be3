"""Cameras of an arm through OpenCV: recorded images, and a served camera that goes wrong in every way named."""

import re
import threading
import time
from contextlib import closing, contextmanager

import numpy as np
import pytest
from camera_server import cameras, scene
from standin import until

from actors.real import ConsoleLab, UsbCameraSettings
from actors.real.table.cameras import UsbCamera, UsbCameras, look
from actors.real.table.checks import Freshness, Views, correlation
from protos.errors import ArmStopped, InputError
from protos.schema import Schema

cv2 = pytest.importorskip("cv2")
SIDE, WRIST = scene(1), scene(2)


def camera(fake, **settings):
    return UsbCameraSettings(device=fake.url, **({"max_age_s": 1.0} | settings))


def sequence(folder, images):
    """Writes numbered images, which OpenCV opens as a camera that ends; returns its name."""
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:03d}.png"), image)
    return str(folder / "%03d.png")


def noisy(image, count, seed=0):
    rng = np.random.default_rng(seed)
    return [np.clip(image + rng.integers(-3, 4, image.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def read_until_it_stops(read, seconds=30.0):
    """Reads until the arm is stopped; returns the reason."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            read()
        except ArmStopped as stop:
            return str(stop)
        time.sleep(0.01)
    raise AssertionError("it went on and on")


def test_a_camera_gives_square_rgb_images_and_stops_the_arm_when_they_grow_old(tmp_path):
    device = sequence(tmp_path, noisy(np.full((48, 80, 3), (0, 40, 200), np.uint8), 20))
    with closing(UsbCamera(UsbCameraSettings(device=device, max_age_s=2.0), 32)) as opened:
        image = opened.read()
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        np.testing.assert_allclose(image.mean(axis=(0, 1)), [200, 40, 1], atol=3)
        why = read_until_it_stops(opened.read)  # the files end, as a camera whose cable is pulled
    assert "s old (limit 2 s): no image: check the cable" in why


def test_a_crop_outside_the_image_and_a_missing_camera_are_refused(tmp_path):
    device = sequence(tmp_path, noisy(SIDE, 3))
    settings = UsbCameraSettings(device=device, crop=(0, 0, 100_000), max_age_s=60.0)
    with closing(UsbCamera(settings, 64)) as opened, pytest.raises(InputError, match="crop"):
        opened.read()
    with pytest.raises(InputError, match="cannot be opened"):
        UsbCamera(UsbCameraSettings(device="/nowhere/video.mp4"), 64)


@pytest.mark.parametrize(
    ("goes_wrong", "words"),
    [
        (lambda fake: setattr(fake, "is_frozen", True), "it repeats images to the bit"),
        (lambda fake: setattr(fake, "is_silent", True), "no image: check the cable"),
        (lambda fake: setattr(fake, "shown", np.full_like(SIDE, 4)), r"the image is black \(brightness [2-6]"),
        (lambda fake: setattr(fake, "shown", np.full_like(SIDE, 255)), r"the image is blank \(brightness 25"),
    ],
    ids=["repeats", "silent", "black", "white"],
)
def test_a_camera_that_goes_wrong_stops_the_arm_with_the_reason(goes_wrong, words):
    with cameras(SIDE) as (fake,), closing(UsbCamera(camera(fake), 64)) as opened:
        opened.read()
        goes_wrong(fake)
        why = read_until_it_stops(opened.read)
    assert fake.url in why and "s old (limit 1 s)" in why
    assert re.search(words, why), why


def test_a_camera_that_is_wrong_from_the_start_is_never_used():
    with (
        cameras(np.full_like(SIDE, 4)) as (fake,),
        closing(UsbCamera(camera(fake, first_frame_timeout_s=1.0), 64)) as opened,
        pytest.raises(ArmStopped, match="first 1 s: the image is black"),
    ):
        opened.read()


def test_old_buffers_in_turn_are_recognised_and_noise_is_news():
    freshness, buffers = Freshness(), noisy(SIDE, 8)
    assert [freshness.fault(image) for image in noisy(SIDE, 100, seed=1)] == [""] * 100
    assert [freshness.fault(image) for image in buffers] == [""] * 8
    assert all("repeats" in freshness.fault(image) for image in buffers * 3)
    assert freshness.fault(noisy(SIDE, 1, seed=2)[0]) == ""


def test_a_dark_scene_with_something_in_it_is_not_black():
    dark = (SIDE * 0.15).astype(np.uint8)
    assert dark.mean() < 40 and Freshness().fault(dark) == ""


@pytest.fixture
def references(tmp_path):
    """Provides the folder of references that were made from both fake cameras."""
    with cameras(SIDE, WRIST) as (side, wrist):
        look(camera(side), camera(wrist), Schema()).save(tmp_path)
    return tmp_path


@contextmanager
def both(references, *shown):
    """Opens two fake cameras with their references."""
    with (
        cameras(*shown) as (side, wrist),
        closing(UsbCameras(camera(side), camera(wrist), Schema(), references)) as opened,
    ):
        yield opened, side, wrist


def test_each_camera_is_known_by_its_reference(references):
    with both(references, SIDE, WRIST) as (opened, side, wrist):
        assert [image.shape for image in opened.read()] == [(64, 64, 3)] * 2
        side.shown, wrist.shown = (SIDE * 0.5).astype(np.uint8), scene(3)
        time.sleep(0.3)
        opened.read()  # less light, and a wrist camera that sees another part of the table
        side.shown, wrist.shown = WRIST, SIDE
        swapped = re.compile("look swapped.*exchange the devices")
        # an image of one camera may come before the other's, and either late
        until(lambda: swapped.search(read_until_it_stops(opened.read)), "they are told to be swapped")


def test_one_device_under_two_names_is_noticed(references):
    with both(references, SIDE, SIDE) as (opened, side, wrist):
        with pytest.raises(ArmStopped, match=r"show the same \(correlation 1.00\)"):
            opened.read()
        with pytest.raises(ArmStopped, match="one device is opened twice"):
            look(camera(side), camera(wrist), Schema())


def test_without_references_nothing_is_opened(tmp_path):
    before = threading.active_count()
    with pytest.raises(InputError, match="start once without --arm"):
        UsbCameras(UsbCameraSettings(device="0"), UsbCameraSettings(device="1"), Schema(), tmp_path / "none")
    assert threading.active_count() == before


def test_references_survive_a_file(tmp_path):
    rng = np.random.default_rng(0)
    views = Views(*(rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(2)))
    views.save(tmp_path)
    loaded = Views.load(tmp_path)
    np.testing.assert_array_equal(loaded.side, views.side)
    np.testing.assert_array_equal(loaded.wrist, views.wrist)


def test_correlation_ignores_light_and_contrast():
    image = SIDE.astype(np.uint8)
    assert correlation(image, image) == pytest.approx(1)
    assert correlation(image, (image * 0.5 + 20).astype(np.uint8)) == pytest.approx(1, abs=0.01)
    assert correlation(image, 255 - image) == pytest.approx(-1, abs=0.01)
    assert abs(correlation(SIDE, WRIST)) < 0.5


@pytest.mark.parametrize(
    ("first", "second"), [("0", "0"), ("0", "/dev/video0"), ("0", "link"), ("http://a", "http://a")]
)
def test_one_device_named_twice_is_refused_in_the_settings(first, second, tmp_path):
    (tmp_path / "link").symlink_to("/dev/video0")
    second = str(tmp_path / "link") if second == "link" else second
    with pytest.raises(InputError, match="are one camera; name another"):
        ConsoleLab(side=UsbCameraSettings(device=first), wrist=UsbCameraSettings(device=second))
    ConsoleLab(side=UsbCameraSettings(device=first), wrist=UsbCameraSettings(device="/dev/video7"))
