"""The lab protocol, cameras and hands: everything around the arm."""

import os
import socket
import struct
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from standin import free_host, ideal_robot

from actors.lab import LAB_PORT, LabClient
from actors.real.cameras import LabCameras, UsbCamera, UsbCameraSettings
from actors.real.hands import ConsoleHands
from protos.errors import ArmStopped, InputError, SchemaMismatch, Unreachable
from protos.schema import Configuration, Schema

POSES = {"cube": (-0.5, 0.1, 0.018, 0.5), "target": (-0.4, 0.0, 0.001, 0.0), "tool": (-0.54, 0.0, 0.16, 0.0)}
DATA = Path(os.environ.get("TWINRL_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


@pytest.fixture(scope="module")
def robot():
    with ideal_robot() as robot:
        yield robot


def test_the_lab_places_and_sees(robot):
    robot.lab.place(Configuration(region="A", cell=3, poses=POSES))
    assert robot.lab.objects() == {name: POSES[name] for name in ("cube", "target")}
    side, wrist, t = robot.lab.images()
    assert side.shape == wrist.shape == (64, 64, 3) and side[0, 0, 0] == 7 and wrist[0, 0, 0] == 9 and t > 0
    assert robot.lab.success() is False


def test_the_lab_says_what_is_wrong_and_goes_on(robot):
    with pytest.raises(InputError, match="no cube"):
        robot.lab.place(Configuration(region="A", poses={}))
    with pytest.raises(InputError, match="choose images, place"):
        robot.lab._ask({"op": "dance"})
    assert robot.lab.success() is False


@pytest.mark.parametrize("junk", [struct.pack(">II", 1 << 31, 0), struct.pack(">II", 3, 0) + b"{x}"])
def test_junk_closes_that_connection_only(robot, junk):
    with socket.create_connection((robot.host, LAB_PORT), timeout=5) as wire:
        wire.sendall(junk)
        assert wire.recv(1) == b""
    assert robot.lab.success() is False


def test_no_lab_is_said_with_address_and_deadline():
    host = free_host()
    with pytest.raises(Unreachable, match=rf"{host}:{LAB_PORT}.*deadline 1 s"):
        LabClient(host, timeout_s=1)


def test_cameras_of_another_size_are_refused(robot):
    assert LabCameras(robot.lab, Schema()).read()[0].shape == (64, 64, 3)
    with pytest.raises(SchemaMismatch, match="64 and 64 pixels, the schema 128 and 64"):
        LabCameras(robot.lab, Schema(side_px=128)).read()


def video():
    pytest.importorskip("cv2")
    path = DATA / "llff_fern" / "fern.mp4"
    if not path.exists():
        pytest.skip(f"no video at {path}: set TWINRL_SHARED_DATA")
    return str(path)


def test_a_camera_gives_square_rgb_images_and_stops_the_arm_when_they_grow_old():
    camera = UsbCamera(UsbCameraSettings(device=video(), max_age_s=2.0), 64)
    image = camera.read()
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.std() > 5
    with pytest.raises(ArmStopped, match=r"image is .* old \(limit 2 s\)"):
        for _ in range(600):  # the file ends, as a camera whose cable is pulled
            camera.read()
            time.sleep(0.05)
    camera.close()


def test_a_crop_outside_the_image_and_a_missing_camera_are_refused():
    camera = UsbCamera(UsbCameraSettings(device=video(), crop=(0, 0, 100_000), max_age_s=60.0), 64)
    with pytest.raises(InputError, match="crop"):
        camera.read()
    camera.close()
    with pytest.raises(InputError, match="cannot be opened"):
        UsbCamera(UsbCameraSettings(device="/nowhere/video.mp4"), 64)


def test_the_operator_places_and_judges_at_the_terminal():
    inside, outside = os.pipe()
    answers, keyboard, screen = os.fdopen(inside), os.fdopen(outside, "w"), StringIO()
    hands = ConsoleHands(answers, screen)
    keyboard.write("\n")
    keyboard.flush()
    hands.place(Configuration(region="A", poses=POSES))
    assert "cube: x = -50.0 cm, y = 10.0 cm, turned 29 degrees" in screen.getvalue()
    assert "tool" not in screen.getvalue()
    assert hands.judge() is False
    keyboard.write("\n")
    keyboard.flush()
    assert hands.judge() and hands.judge()
    keyboard.write("\n")
    keyboard.flush()
    hands.place(Configuration(region="A", poses=POSES))
    assert hands.judge() is False, "a new episode is not solved yet"
    keyboard.close()
    with pytest.raises(InputError, match="terminal is closed"):
        hands.place(Configuration(region="A", poses=POSES))
