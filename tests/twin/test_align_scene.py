"""These tests align a scene folder with the robot in it by the command."""

import json

import cv2
import numpy as np
import pytest
from robot_photos import JOINTS, arc, displaced, error, photographed, seen_from
from scipy.spatial import cKDTree

from protos.errors import InputError, SceneError
from twin.align.refine import Similarity
from twin.align.robot import robot_model
from twin.align.scene import SceneAlignSettings, align_scene
from twin.align.views import cleaned, read_cameras, read_masks
from twin.scene import Scene, synthetic_scene
from twin.splats import concatenate
from twinrl.commands import scene as command


@pytest.fixture
def folder(tmp_path):
    """Makes (scene folder whose frame is 20 mm and 3 deg off, masks, the error)."""
    from dataclasses import replace

    off, photos = displaced(np.random.default_rng(3), 20, 3), photographed(arc())
    scene = synthetic_scene(0.02)
    seen = concatenate([scene.static, robot_model("ur5e").splats(JOINTS, 0.02)])
    replace(scene, static=seen.transformed(off.pose)).save(tmp_path / "scene")
    cameras = seen_from({name: camera for name, (camera, _) in photos.items()}, off)
    write_report(tmp_path / "scene", cameras)
    (tmp_path / "masks").mkdir()
    for name, (_, mask) in photos.items():
        cv2.imwrite(str(tmp_path / "masks" / name.replace(".jpg", ".png")), (mask * 255).astype(np.uint8))
    return tmp_path / "scene", tmp_path / "masks", off


def write_report(folder, cameras, distortion=(0, 0, 0, 0)):
    one = next(iter(cameras.values()))
    lens = {name: getattr(one, name) for name in ("width", "height", "fx", "fy", "cx", "cy")}
    poses = {name: camera.base_from_camera.tolist() for name, camera in cameras.items()}
    report = {"cameras": poses, "lens": lens | {"distortion": list(distortion)}, "registered": len(cameras)}
    (folder / "report.json").write_text(json.dumps(report))


def test_the_command_moves_the_scene_and_says_how_well_it_fits(folder, tmp_path, capsys):
    scene, masks, off = folder
    words = ["--masks", str(masks), "--joints", *(f"{angle:.6f}" for angle in JOINTS), "--out", str(tmp_path / "out")]
    assert command.align([str(scene), *words]) == 0
    said = capsys.readouterr().out
    assert "px" in said
    assert "mm of play" in said
    found = json.loads((tmp_path / "out" / "alignment.json").read_text())
    pose = Similarity(pose=np.array(found["base_from_scan"]["pose"]), scale=found["base_from_scan"]["scale"])
    base_mm, deg, _ = error(pose, off.inverse())
    assert base_mm < 2
    assert deg < 0.3
    aligned = Scene.load(tmp_path / "out")
    assert aligned.alignment.residual_px == pytest.approx(found["residual_px"])
    assert aligned.alignment.views == 6
    robot = robot_model("ur5e").surface(JOINTS, 0.02).points
    distance = cKDTree(robot).query(aligned.static.means[aligned.static.means[:, 2] > 0.02])[0]
    assert distance.min() > 0.015, "the robot is still in the static scene"
    assert len(aligned.static) > 0.9 * len(synthetic_scene(0.02).static)
    truth = arc()["02.jpg"].base_from_camera
    assert read_cameras(tmp_path / "out").cameras["02.jpg"].base_from_camera == pytest.approx(truth, abs=2e-3)
    image = cv2.imread(str(tmp_path / "out" / "alignment.png"))
    assert image.shape == (240, 4 * 240, 3)


@pytest.mark.parametrize(
    ("joints", "robot", "message"),
    [
        ((0.0, 0.0), "", r"ur5e has 6 joints \(shoulder"),
        (tuple(JOINTS), "ur6", "'ur6': choose one of ur5e.*or give a .urdf"),
    ],
)
def test_wrong_joints_and_robots_are_refused(folder, tmp_path, joints, robot, message):
    scene, masks, _ = folder
    settings = SceneAlignSettings(masks=masks, joints=joints, robot=robot)
    with pytest.raises(InputError, match=message):
        align_scene(scene, tmp_path / "out", settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.pop("lens"), "no entry 'lens'; scan again"),
        (lambda report: report["lens"].update(fx=1e9), "lens value"),
        (lambda report: report["lens"].update(fx=-3), "must be positive"),
        (lambda report: report["cameras"].update(x=[[1, 2]]), "a camera pose of shape"),
    ],
)
def test_broken_reports_are_refused(folder, change, message):
    path = folder[0] / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    with pytest.raises(SceneError, match=message):
        read_cameras(folder[0])


def test_masks_are_looked_for_by_the_photos_names(folder, tmp_path):
    scene, masks, _ = folder
    capture = read_cameras(scene)
    views = read_masks(masks, capture, 120)
    assert list(views) == [f"{index:02d}.jpg" for index in range(6)]
    camera, mask = views["00.jpg"]
    assert (camera.width, mask.shape) == (120, (120, 120))
    (tmp_path / "black").mkdir()
    cv2.imwrite(str(tmp_path / "black" / "00.jpg.png"), np.zeros((240, 240), np.uint8))
    with pytest.raises(SceneError, match="no mask is white anywhere in any of 6 views"):
        read_masks(tmp_path / "black", capture, 120)
    cv2.imwrite(str(tmp_path / "black" / "00.jpg.png"), np.full((240, 300), 255, np.uint8))
    with pytest.raises(SceneError, match="300 x 240 px, its photo 240 x 240"):
        read_masks(tmp_path / "black", capture, 120)


def test_specks_go_and_holes_close():
    mask = np.zeros((60, 60), bool)
    mask[10:50, 10:50] = True
    spoilt = mask.copy()
    spoilt[20:23, 20:23] = False
    spoilt[2:4, 2:4] = True
    assert (cleaned(spoilt) == mask).all()


def test_masks_lose_the_lenss_distortion(tmp_path):
    """A point of a distorted mask lands where the pinhole camera sees it."""
    cameras = arc(count=1)
    write_report(tmp_path, cameras, distortion=(-0.2, 0.03, 0.001, -0.002))
    capture = read_cameras(tmp_path)
    camera = capture.cameras["00.jpg"]
    pixel = np.array([200.5, 60.5])
    x, y = (pixel - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    r2, (k1, k2, p1, p2) = x * x + y * y, capture.distortion
    radial = 1 + k1 * r2 + k2 * r2**2
    bent = np.array(
        [radial * x + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), radial * y + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y]
    )
    u, v = bent * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    rows, columns = np.mgrid[:240, :240] + 0.5
    photo = (255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 18)).astype(np.uint8)
    straight = capture.undistorted(photo, "00.jpg").astype(float)
    found = (straight[..., None] * np.stack([columns, rows], -1)).sum((0, 1)) / straight.sum()
    assert found == pytest.approx(pixel, abs=0.15)


def test_any_robot_with_a_urdf_can_be_aligned(tmp_path):
    """The robot is one moving mesh, a wedge on a hinge."""
    obj = "v 0 0 0\nv .2 0 0\nv 0 .1 0\nv 0 0 .3\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 3 1 4\n"
    (tmp_path / "wedge.obj").write_text(obj)
    urdf = """<robot name="w"><link name="base"/><link name="arm">
      <collision><geometry><mesh filename="wedge.obj"/></geometry></collision>
      <inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial></link>
      <joint name="turn" type="revolute"><parent link="base"/><child link="arm"/><axis xyz="0 0 1"/>
      <limit lower="-3" upper="3" effort="1" velocity="1"/></joint></robot>"""
    (tmp_path / "w.urdf").write_text(urdf)
    model = robot_model(str(tmp_path / "w.urdf"))
    assert model.joints == ("turn",)
    points = model.surface([np.pi / 2], 0.02).points
    assert points.min(0) == pytest.approx([-0.1, 0, 0], abs=0.02)
    assert points.max(0) == pytest.approx([0, 0.2, 0.3], abs=0.03)
    (tmp_path / "bad.xml").write_text("<mujoco><nothing/></mujoco>")
    with pytest.raises(SceneError, match="MuJoCo cannot compile it"):
        robot_model(str(tmp_path / "bad.xml"))
