import numpy as np
import pytest

from protos.schema import Schema
from twin import robots
from twin.kinematics import Kinematics
from twin.physics import make
from twin.randomize import DOMAINS, Domain
from twin.render import rasterize
from twin.render.cameras import SPLATS, wrist_static
from twin.render.compositor import TwinRenderer
from twin.render.moving import moving_splats
from twin.scene import synthetic_scene
from twin.splats import Splats, concatenate
from twin.tasks.pick_and_place import CUBE, TARGET

UR5E = Kinematics(robots.get("ur5e"))


@pytest.fixture
def physics(task, configurations):
    physics = make("mujoco", robots.get("ur5e"), task, DOMAINS["twin"], n=2)
    for slot, configuration in enumerate(configurations("A", 1) + configurations("B", 1)):
        tool = task.pose(configuration, "tool")
        physics.reset(np.array([slot]), UR5E.start_joints(tool[:3]), task.body_poses(configuration))
    return physics


def world_splats(physics, slot: int, task) -> Splats:
    """Returns every moving splat in the base frame, by the slow way."""
    moving = moving_splats(physics.model, physics.robot, task)
    parts = []
    for body in np.unique(moving.body):
        pose = np.eye(4)
        pose[:3, :3] = physics.body_rotations[slot, body].reshape(3, 3)
        pose[:3, 3] = physics.body_positions[slot, body]
        parts.append(moving.splats[moving.body == body].transformed(pose))
    return concatenate(parts)


def test_the_side_image_is_close_to_a_full_render(scene, physics, task):
    renderer = TwinRenderer(scene, physics, DOMAINS["twin"], Schema())
    renderer.draw()
    for slot in range(2):
        full = rasterize(concatenate([scene.static, world_splats(physics, slot, task)]), scene.side.camera(64))
        difference = np.abs(renderer.side[slot] / 255.0 - np.clip(full.over(), 0, 1))
        assert difference.mean() < 0.01
        assert np.quantile(difference, 0.98) < 0.1


@pytest.mark.parametrize("slot", [0, 1])
def test_cube_and_disc_appear_where_the_cameras_project_them(scene, physics, slot):
    renderer = TwinRenderer(scene, physics, DOMAINS["twin"], Schema())
    renderer.draw()
    image = renderer.side[slot].astype(int)
    red = (image[..., 0] - image[..., 1:].max(2)) > 60
    blue = (image[..., 2] - image[..., :2].max(2)) > 60
    camera = scene.side.camera(64)
    for mask, body in ((red, CUBE), (blue, TARGET)):
        rows, columns = np.nonzero(mask)
        u, v, _ = camera.project(physics.body_position(body)[slot])
        assert abs(columns.mean() + 0.5 - u) < 1.5
        assert abs(rows.mean() + 0.5 - v) < 1.5


def test_the_wrist_camera_sees_what_lies_under_the_tool(scene, task, configurations):
    physics = make("mujoco", robots.get("ur5e"), task, DOMAINS["twin"], n=1)
    configuration = configurations("A", 1)[0]
    x, y, _, _ = task.pose(configuration, CUBE)
    physics.reset(np.zeros(1, int), UR5E.start_joints((x, y, 0.12)), task.body_poses(configuration))
    renderer = TwinRenderer(scene, physics, DOMAINS["twin"], Schema())
    renderer.draw()
    image = renderer.wrist[0].astype(int)
    rows, columns = np.nonzero((image[..., 0] - image[..., 1:].max(2)) > 60)
    base_from_tcp = np.eye(4)
    base_from_tcp[:3, :3], base_from_tcp[:3, 3] = physics.tool_rotation[0], physics.tool_position[0]
    u, v, _ = scene.wrist.camera(64, base_from_tcp).project((x, y, 0.018))
    assert abs(columns.mean() + 0.5 - u) < 2
    assert abs(rows.mean() + 0.5 - v) < 2


def test_threads_draw_the_same_images(scene, physics):
    one = TwinRenderer(scene, physics, DOMAINS["twin"], Schema(), threads=1)
    two = TwinRenderer(scene, physics, DOMAINS["twin"], Schema(), threads=2)
    one.draw()
    two.draw()
    two.close()
    np.testing.assert_array_equal(one.side, two.side)
    np.testing.assert_array_equal(one.wrist, two.wrist)


def test_the_wrist_layer_of_a_large_scan_stays_small():
    scene = synthetic_scene(spacing_m=0.005)
    layer = wrist_static(scene.static, scene)
    assert len(scene.static) > 20_000
    assert 500 < len(layer) <= SPLATS
    assert len(wrist_static(scene.static[:0], scene)) == 0


def test_a_domain_changes_the_appearance(scene, physics):
    plain, shifted = (
        TwinRenderer(scene, physics, domain, Schema())
        for domain in (DOMAINS["twin"], Domain(camera_shift_m=(0.0, 0.02, 0.0), colour_shift=0.3))
    )
    plain.draw()
    shifted.draw()
    table = (slice(50, 56), slice(20, 44))
    drop = plain.side[0][table].astype(int).mean((0, 1)) - shifted.side[0][table].astype(int).mean((0, 1))
    assert drop[0] > 8 and drop[2] < -3  # less red, more blue
