"""These tests cut objects out of scenes whose truth is known: shape, mass, the table behind them, their fall."""

import json
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import mujoco
import numpy as np
import pytest

from protos.errors import SceneError, SchemaMismatch
from protos.schema import Configuration, Schema
from protos.space import Box
from twin import surfaces, tasks
from twin.camera import look_at, pose_of
from twin.labs import Lab
from twin.objects import ScannedObject
from twin.objects.cutting import FOLDER, CutSettings, cut
from twin.objects.hull import HullSettings, convex_parts, hull, mass_properties
from twin.objects.select import OrientedBox
from twin.randomize import DOMAINS
from twin.render import rasterize
from twin.scene import Scene, synthetic_scene
from twin.splats import concatenate, read_splats
from twin.tasks.pick_and_place import PickAndPlace
from twin.world import ArmWorld
from twinrl.commands import scene as command

SHARED = Path(os.environ.get("TWINRL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
DOG = SHARED / "splats" / "plush_dog.ply"
RADIUS, HEIGHT, PLACE = 0.042, 0.10, (-0.55, 0.12)
GREEN = (0.15, 0.6, 0.2)
BOX = CutSettings(centre=(*PLACE, 0.06), size=(0.13, 0.13, 0.13))


def cylinder(spacing=0.006):
    points, normals = surfaces.cylinder(RADIUS, HEIGHT / 2, spacing)
    bottom = normals[:, 2] < -0.9  # never photographed
    return surfaces.surface_splats((points[~bottom] + [*PLACE, HEIGHT / 2], normals[~bottom]), spacing, GREEN)


def ghosts():
    """Makes faint and stray splats as training leaves them around an object."""
    rng = np.random.default_rng(0)
    means = rng.uniform(-0.062, 0.062, (60, 3)) + np.array([*PLACE, 0.06])
    some = cylinder()[:60]
    opacities = np.where(np.arange(60) < 50, 0.05, 0.6)
    return replace(some, means=means.astype(np.float32), opacities=opacities.astype(np.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cuts a green cylinder from its table: (folder, bare scene, object)."""
    path = tmp_path_factory.mktemp("scene")
    bare = synthetic_scene(0.01)
    replace(bare, static=concatenate([bare.static, cylinder(), ghosts()])).save(path)
    return path, bare, cut(path, "mug", BOX)


def test_the_object_has_the_size_and_place_of_the_truth(folder):
    _, _, mug = folder
    assert mug.size_m == pytest.approx([2 * RADIUS, 2 * RADIUS, HEIGHT], abs=0.004)
    assert mug.stood_at == pytest.approx((*PLACE, 0, 0), abs=0.002)
    volume = math.pi * RADIUS**2 * HEIGHT
    assert mug.mass_properties.volume_m3 == pytest.approx(volume, rel=0.1)
    assert mug.mass_kg == pytest.approx(400 * volume, rel=0.1)
    assert mug.mass_properties.centre == pytest.approx([0, 0, HEIGHT / 2], abs=0.003)
    wide = RADIUS**2 / 4 + HEIGHT**2 / 12
    assert mug.mass_properties.inertia == pytest.approx(np.diag([wide, wide, RADIUS**2 / 2]), rel=0.15, abs=3e-5)
    assert len(mug.parts[0].vertices) <= HullSettings().corners


def photographed_with_masks(folder, radius, height, blind=()):
    """Writes cameras around the object to the scene's report, and a mask for each, cast from the true solid."""
    angles = np.linspace(0, 2 * math.pi, 40)
    rims = [np.c_[radius * np.cos(angles), radius * np.sin(angles), np.full(40, z)] for z in (0, height)]
    solid = np.concatenate(rims) + np.array([*PLACE, 0])
    (folder / "masks").mkdir()
    cameras = {}
    for number, angle in enumerate(np.linspace(0, 2 * math.pi, 12, endpoint=False)):
        up = (0.35, 0.6, 0.9)[number % 3]
        eye = (PLACE[0] + 0.6 * math.cos(angle), PLACE[1] + 0.6 * math.sin(angle), up)
        camera = look_at(eye, at=(*PLACE, 0.04), fovy_deg=45, px=400)
        mask = np.zeros((400, 400), np.uint8)
        if number in blind:
            mask[:4, :4] = 255
        else:
            cv2.fillConvexPoly(mask, cv2.convexHull(camera.project(solid)[:, :2].astype(np.int32)), 255)
        cv2.imwrite(str(folder / "masks" / f"{number:02d}.png"), mask)
        cameras[f"{number:02d}.jpg"] = camera.base_from_camera.tolist()
    lens = {name: getattr(camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")}
    report = {"cameras": cameras, "lens": lens | {"distortion": [0, 0, 0, 0]}}
    (folder / "report.json").write_text(json.dumps(report))


@pytest.mark.parametrize("blind", [(), (4,)])
def test_masks_cut_back_what_coarse_splats_make_too_large(tmp_path, blind):
    """Splats 10 mm too far out, as a quick scan has them; one mask of twelve may be wrong."""
    scene = synthetic_scene(0.01)
    fat = cylinder()
    away = fat.means - np.float32([*PLACE, HEIGHT / 2])
    fat = replace(fat, means=fat.means + np.float32(0.010) * away / np.linalg.norm(away, axis=1, keepdims=True))
    replace(scene, static=concatenate([scene.static, fat])).save(tmp_path)
    photographed_with_masks(tmp_path, RADIUS, HEIGHT, blind)
    mug = cut(tmp_path, "mug", CutSettings(masks=tmp_path / "masks", yaw_deg=30))
    assert mug.stood_at[:2] == pytest.approx(PLACE, abs=0.003)
    assert mug.size_m[:2] == pytest.approx([2 * RADIUS] * 2, abs=0.006)
    assert mug.size_m[2] == pytest.approx(HEIGHT, abs=0.012)


def test_the_table_is_closed_behind_it(folder):
    path, bare, _ = folder
    after = Scene.load(path).static
    near = np.hypot(after.means[:, 0] - PLACE[0], after.means[:, 1] - PLACE[1]) < RADIUS + 0.005
    assert after.means[near, 2].max() < 0.02, "something of the object is left"
    camera = look_at((-1.0, 0.1, 0.5), at=(*PLACE, 0), fovy_deg=22, px=96)
    difference = np.abs(rasterize(after, camera).over() - rasterize(bare.static, camera).over())
    assert difference.mean() < 0.02
    assert np.percentile(difference, 99) < 0.2
    assert rasterize(after, camera).transmittance.max() < 0.3, "there is a hole in the table"


def test_an_object_in_the_open_gets_an_even_table(tmp_path):
    """No piece of bare table of that shape is near: colours around the hole are continued."""
    table = synthetic_scene(0.01).static
    small = np.flatnonzero(np.hypot(table.means[:, 0] - PLACE[0], table.means[:, 1] - PLACE[1]) < RADIUS + 0.03)
    replace(synthetic_scene(0.02), static=concatenate([table[small], cylinder()])).save(tmp_path)
    cut(tmp_path, "mug", BOX)
    after = Scene.load(tmp_path).static
    camera = look_at((PLACE[0] - 0.02, PLACE[1], 0.5), at=(*PLACE, 0), fovy_deg=6, px=32)
    image = rasterize(after, camera)
    assert image.transmittance.max() < 0.1
    assert np.abs(image.over().mean((0, 1)) - rasterize(table, camera).over().mean((0, 1))).max() < 0.05


def test_folders_keep_everything(folder, tmp_path):
    path, _, mug = folder
    back = ScannedObject.load(path / FOLDER / "mug")
    assert (back.name, back.mass_kg, back.stood_at) == (mug.name, mug.mass_kg, mug.stood_at)
    assert back.parts[0].vertices == pytest.approx(mug.parts[0].vertices, abs=1e-6)
    assert (back.parts[0].faces == mug.parts[0].faces).all()
    assert back.splats.means == pytest.approx(mug.splats.means, abs=1e-6)


@pytest.mark.parametrize(
    ("file", "old", "new", "error", "says"),
    [
        ("object.toml", "format = 1", "format = 9", SchemaMismatch, "object format 9"),
        ("object.toml", "parts = 1", "parts = 1000000", SceneError, "parts = 1000000"),
        ("object.toml", "mass_kg = ", "mass_kg = -", SceneError, "more than 0"),
        ("object.toml", 'name = "mug"', 'name = "a/../b"', SceneError, "letters, digits and underscores"),
        ("object.toml", "parts = 1", "", SceneError, "no entry 'parts'"),
        ("part_0.obj", "v ", "v 1e9 ", SceneError, "vertices within 2 m"),
        ("part_0.obj", "f 1", "f 99", SceneError, "triangles between them"),
    ],
)
def test_broken_folders_are_refused_in_one_line(folder, tmp_path, file, old, new, error, says):
    folder[2].save(tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(error, match=says) as raised:
        ScannedObject.load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (CutSettings(), "--centre X Y Z --size X Y Z"),
        (CutSettings(centre=(-0.3, -0.3, 0.06), size=(0.1, 0.1, 0.1)), "the box hold.*12 are needed"),
        (replace(BOX, size=(0.1, -0.1, 0.1)), "greater than 0, at most 2"),
    ],
)
def test_boxes_without_an_object_are_refused(tmp_path, settings, says):
    synthetic_scene(0.02).save(tmp_path)
    with pytest.raises(ValueError, match=says):
        cut(tmp_path, "mug", settings)
    assert not (tmp_path / FOLDER).exists()


def test_the_command_says_what_it_cut(tmp_path, capsys):
    scene = synthetic_scene(0.02)
    replace(scene, static=concatenate([scene.static, cylinder()])).save(tmp_path)
    words = ["--centre", "-0.55", "0.12", "0.06", "--size", "0.13", "0.13", "0.13", "--mass", "0.3"]
    assert command.cut([str(tmp_path), "--name", "mug", *words]) == 0
    said = capsys.readouterr().out
    assert "300 g" in said
    assert "it stood at x -0.550, y 0.120 m" in said


def test_boxes_turn(folder):
    box = OrientedBox(centre=(1, 2, 0), size=(2, 0.2, 1), yaw_deg=90)
    assert box.holds(np.array([[1, 2.9, 0], [1.9, 2, 0], [1, 2, 0.6]])).tolist() == [True, False, False]


def test_hulls_are_convex_closed_and_small():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4000, 3))
    points *= 0.05 / np.linalg.norm(points, axis=1, keepdims=True)
    part = hull(points, HullSettings(corners=40))
    assert len(part.vertices) == 40
    assert len(part.faces) == 2 * 40 - 4, "Euler: a closed surface"
    volume, centre, _ = mass_properties((part,))
    assert volume == pytest.approx(4 / 3 * math.pi * 0.05**3, rel=0.2)
    assert np.linalg.norm(centre) < 0.003


def test_splats_that_reach_into_the_table_do_not_tilt_the_object():
    points = surfaces.box((0.05, 0.03, 0.02), 0.004)[0] + [0, 0, 0.02]
    points[:40, 2] -= 0.015
    part = convex_parts(points, HullSettings())[0]
    assert part.vertices[:, 2].min() == 0
    assert (part.vertices[:, 2] == 0).sum() >= 4


def test_a_hollow_object_can_be_decomposed():
    """An L of two slabs: its convex hull is half air, its parts are not."""
    slabs = [surfaces.box((0.06, 0.03, 0.01), 0.004), surfaces.box((0.01, 0.03, 0.05), 0.004)]
    points = np.concatenate([slabs[0][0] + [0, 0, 0.01], slabs[1][0] + [-0.05, 0, 0.05]])
    settings = HullSettings(upright=False)
    truth = 8 * (0.06 * 0.03 * 0.01 + 0.01 * 0.03 * 0.04)
    one = mass_properties(convex_parts(points, settings)).volume_m3
    parts = convex_parts(points, replace(settings, parts=4))
    assert one > 1.5 * truth
    assert 2 <= len(parts) <= 4
    assert mass_properties(parts).volume_m3 == pytest.approx(truth, rel=0.3)


@dataclass(frozen=True, kw_only=True)
class WithMug(PickAndPlace):
    """Pick-and-place with the scanned object's appearance and shape in place of the cube's."""

    mug: ScannedObject = field(kw_only=True)

    def assets(self, conditions):
        return self.mug.assets()

    def splat_spacing(self, body):
        return 0.01 if body == "mug" else super().splat_spacing(body)

    def mjcf(self, conditions):
        return super().mjcf(conditions) + self.mug.mjcf(conditions.friction)


def test_it_falls_comes_to_rest_and_its_splats_follow(folder):
    path, _, mug = folder
    base = tasks.get("pick_and_place")
    others = dict(base.space.others) | {"mug": Box(x=(-0.5, -0.5), y=(0.22, 0.22), z=(0.08, 0.08))}
    space = replace(base.space, others=others)
    task = WithMug(mug=mug, splats={"mug": mug.splats}, free_bodies=(*base.free_bodies, "mug"), space=space)
    start = space.sample(np.random.default_rng(0), region="B")
    poses = dict(start.poses) | {"mug": (-0.5, 0.22, 0.08, 0.7)}
    world = ArmWorld(Scene.load(path), task, Lab(domain=DOMAINS["twin"]), schema=Schema(side_px=128, wrist_px=32))
    world.place(Configuration(**(vars(start) | {"poses": poses})))
    world.advance(0.02)
    falling = world.object_pose("mug")[2]
    world.advance(1.5)
    x, y, z, yaw = world.object_pose("mug")
    assert falling > 0.05
    assert abs(z) < 0.004, "its bottom is on the table"
    assert (x, y) == pytest.approx((-0.5, 0.22), abs=0.01)
    assert yaw == pytest.approx(0.7, abs=0.1)
    side = world.render()[0].astype(int)
    rows, columns = np.nonzero((side[..., 1] - side[..., [0, 2]].max(2)) > 40)
    u, v, _ = Scene.load(path).side.camera(128).project(np.array([x, y, HEIGHT / 2]))
    assert len(rows) > 40
    assert columns.mean() + 0.5 == pytest.approx(u, abs=2.5)
    assert rows.mean() + 0.5 == pytest.approx(v, abs=3.5)


@pytest.mark.skipif(not DOG.is_file(), reason="needs the splat files in TWINRL_SHARED_DATA")
def test_a_photographed_toy_stands_where_it_is_dropped(tmp_path):
    """A real splat file, made 15 cm tall, on a made-up table: cut out, dropped, and still on its feet."""
    dog = read_splats(DOG)
    dog = dog[np.flatnonzero(dog.opacities > 0.1)]
    low, high = np.percentile(dog.means, [1, 99], axis=0)
    scale = 0.15 / (high[2] - low[2])
    stand = pose_of([*(np.array([-0.5, 0.0]) - scale * (low + high)[:2] / 2), -scale * low[2]], np.eye(3))
    scene = synthetic_scene(0.02)
    replace(scene, static=concatenate([scene.static, dog.transformed(stand, scale)])).save(tmp_path)
    box = CutSettings(centre=(-0.5, 0, 0.1), size=(0.4, 0.4, 0.22), hull=HullSettings(upright=False))
    found = cut(tmp_path, "dog", box)
    assert found.size_m[2] == pytest.approx(0.15, abs=0.02)
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><asset>{found.assets()}</asset><worldbody><geom type="plane" size="1 1 .1"/>'
        f"{found.mjcf(0.8)}</worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    data.qpos[:3] = -0.5, 0, 0.03
    mujoco.mj_step(model, data, nstep=1000)
    assert np.abs(data.qvel).max() < 0.02
    assert data.qpos[2] == pytest.approx(0, abs=0.01)
    assert data.xmat[1].reshape(3, 3)[2, 2] > 0.97, "it fell over"
