"""`twinrl view` on a free port: what is served, what is in the scene, and how it ends."""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import viser

from protos.errors import InputError
from services.net import free_port
from twin import surfaces, tasks
from twin.kinematics import Kinematics
from twin.objects import CutSettings, cut
from twin.scene import synthetic_scene
from twin.splats import concatenate, write_ply
from twinrl.viewer import serve
from twinrl.viewer.robot import PosedRobot
from twinrl.viewer.serve import ViewSettings, serving

FREE = ViewSettings(port=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scene with one capture camera and one scanned object."""
    path, scene = tmp_path_factory.mktemp("view"), synthetic_scene(0.03)
    points, normals = surfaces.cylinder(0.04, 0.05, 0.008)
    mug = surfaces.surface_splats((points + np.array([-0.5, -0.3, 0.05]), normals), 0.008, (0.2, 0.6, 0.2))
    replace(scene, static=concatenate([scene.static, mug])).save(path)
    cut(path, "mug", CutSettings(centre=(-0.5, -0.3, 0.06), size=(0.12, 0.12, 0.13)))
    pose = scene.side.camera(64).base_from_camera.tolist()
    lens = {"width": 64, "height": 48, "fx": 50, "fy": 50, "cx": 32, "cy": 24, "distortion": [0, 0, 0, 0]}
    (path / "report.json").write_text(json.dumps({"cameras": {"07.jpg": pose}, "lens": lens}))
    return path


@pytest.fixture
def servers(monkeypatch):
    """The servers that were started, to look into."""
    started, make = [], serve._server
    monkeypatch.setattr(serve, "_server", lambda settings: started.append(make(settings)) or started[-1])
    return started


def fetched(address):
    with urllib.request.urlopen(address, timeout=20) as answer:
        return answer.status, answer.read().decode()


def test_a_scene_is_served_on_loopback_and_gone_afterwards(folder, servers):
    with serving(folder, FREE) as address:
        assert address.startswith("http://127.0.0.1:")
        status, page = fetched(address)
        assert status == 200
        assert "<html" in page
        shown = servers[0].scene.get_handle_by_name
        names = [
            "/splats",
            "/table",
            "/base",
            "/workspace",
            "/cameras/side",
            "/cameras/wrist",
            "/regions/A",
            "/regions/B",
        ]
        names += [
            "/robot/forearm",
            "/robot/cube",
            "/cameras/capture/07.jpg",
            "/objects/mug/splats",
            "/objects/mug/part_0",
        ]
        assert [name for name in names if shown(name) is None] == []
        assert shown("/objects/mug/splats").position == pytest.approx([-0.5, -0.3, 0], abs=0.01)
    with pytest.raises(urllib.error.URLError):
        fetched(address)


def test_a_file_of_splats_is_shown_alone(folder, tmp_path, servers):
    write_ply(tmp_path / "thing.ply", synthetic_scene(0.05).static)
    with serving(tmp_path / "thing.ply", FREE) as address:
        assert fetched(address)[0] == 200
        assert servers[0].scene.get_handle_by_name("/splats") is not None
        assert servers[0].scene.get_handle_by_name("/robot") is None


def test_sliders_move_the_robot(folder):
    scene, task = synthetic_scene(0.05), tasks.get("pick_and_place")
    server = viser.ViserServer(host="127.0.0.1", port=free_port(), verbose=False)
    try:
        robot = PosedRobot(server, scene, task, task.space.sample(np.random.default_rng(0)))
        joints = np.array(scene.robot.home) + 0.2
        for index, angle in enumerate(joints):
            robot.turn(index, float(np.degrees(angle)))
        position, rotation = Kinematics(scene.robot).forward(joints[None])
        gripper = server.scene.get_handle_by_name("/robot/gripper").position
        flange = position[0] - rotation[0, :, 2] * scene.robot.gripper.tcp_m
        assert gripper == pytest.approx(flange, abs=1e-6)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ViewSettings(port=70000), "--port 70000: 0"),
        (ViewSettings(task="juggle"), "'juggle'"),
    ],
)
def test_wrong_settings_are_refused(folder, settings, message):
    with pytest.raises(InputError, match=message), serving(folder, settings):
        pass


def test_ctrl_c_ends_the_command(folder):
    command = [sys.executable, "-m", "twinrl.cli", "view", str(folder), "--port", str(free_port())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = next(text for text in process.stdout if text.startswith("http://127.0.0.1:"))
        assert fetched(line.split(": ")[0])[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
