"""The lab protocol: how the cameras and hands of the stand-in are reached."""

import socket
import struct

import numpy as np
import pytest
from standin import free_host, ideal_robot

from actors.lab import LAB_PORT, LabClient
from actors.real.table.cameras import LabCameras
from protos.errors import InputError, SchemaMismatch, Unreachable
from protos.schema import Configuration, Schema

POSES = {"cube": (-0.5, 0.1, 0.018, 0.5), "target": (-0.4, 0.0, 0.001, 0.0), "tool": (-0.54, 0.0, 0.16, 0.0)}


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
    with pytest.raises(InputError, match="choose one of images, place"):
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


def test_exact_images_of_a_world_that_stands_still_may_repeat(robot):
    cameras = LabCameras(robot.lab, Schema())
    for _ in range(3):
        np.testing.assert_array_equal(cameras.read()[0], cameras.read()[0])
