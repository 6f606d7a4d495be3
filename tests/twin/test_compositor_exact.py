"""The exact images are those of a full render, to the last bit."""

from dataclasses import replace

import numpy as np
import pytest

from protos.schema import Schema
from twin.camera import Camera, pose_of
from twin.env import VectorTwin
from twin.physics import MujocoPhysics
from twin.randomize import DOMAINS, Domain
from twin.render import kernels
from twin.render.cameras import BIAS_M, DEPTH_SLACK_M
from twin.render.compositor import TwinRenderer
from twin.render.interface import STOP
from twin.render.kernels import FAR, Layer
from twin.render.moving import PosedSplats, moving_splats
from twin.render.rasterizer import footprints, layer_of, workspace_for
from twin.splats import Splats, concatenate

SCHEMA = Schema(side_px=64, wrist_px=48)


@pytest.fixture
def physics(scene, task, configurations):
    physics = MujocoPhysics(scene.robot, task, DOMAINS["twin"], 2)
    rng = np.random.default_rng(0)
    for slot, configuration in enumerate(configurations("A", 1) + configurations("B", 1)):
        joints = np.array([0.3, -1.8, 1.9, -1.7, -1.5, 0.1]) + 0.1 * rng.normal(size=6)
        physics.reset(np.array([slot]), joints[None], task.body_poses(configuration))
    return physics


def posed(physics, slot: int) -> PosedSplats:
    moving = PosedSplats(moving_splats(physics.model, physics.robot, physics.task))
    rotations = physics.body_rotations[slot].reshape(-1, 3, 3)
    moving.pose(physics.body_positions[slot].astype(np.float32), rotations.astype(np.float32))
    return moving


def full_image(layers: list[Layer], camera: Camera, *, behind: int | None = None, by_m: float = 0.0) -> np.ndarray:
    """Blends all layers from scratch; the one of number `behind` is sorted `by_m` farther away."""
    work = workspace_for(sum(len(layer.means) for layer in layers), camera.width, camera.height)
    count = 0
    for number, layer in enumerate(layers):
        first, count = count, footprints(layer, camera, work, count)
        if number == behind:
            work.depth[first:count] += np.float32(by_m)
    kernels.sort_by_depth(work, count)
    kernels.clear(work)
    kernels.blend(work, count, STOP)
    image = np.zeros((camera.height, camera.width, 3), np.uint8)
    kernels.to_bytes(work.canvas, np.zeros(image.shape, np.float32), image)
    return image


@pytest.mark.parametrize("slot", [0, 1])
def test_the_exact_side_image_is_a_full_render_to_the_last_bit(scene, physics, slot):
    renderer = TwinRenderer(scene, physics, DOMAINS["twin"], SCHEMA, exact=True)
    renderer.draw()
    layers = [layer_of(scene.static), posed(physics, slot).layer]
    image = full_image(layers, scene.side.camera(64), behind=0, by_m=DEPTH_SLACK_M)
    np.testing.assert_array_equal(renderer.side[slot], image)
    plain = full_image(layers, scene.side.camera(64)).astype(int)
    assert (np.abs(plain - image) > 8).any(axis=2).mean() < 0.04  # thin things on the table


@pytest.mark.parametrize("slot", [0, 1])
def test_the_exact_wrist_image_is_a_full_render_to_the_last_bit(scene, physics, slot):
    renderer = TwinRenderer(scene, physics, DOMAINS["twin"], SCHEMA, exact=True)
    renderer.draw()
    first = moving_splats(physics.model, physics.robot, physics.task).first_wrist
    near = Layer(*(array[first:] for array in posed(physics, slot).layer))
    gripper = physics.model.body("gripper").id
    rotation = physics.body_rotations[slot, gripper].reshape(3, 3).astype(np.float32)
    base_from_tcp = pose_of(physics.body_positions[slot, gripper].astype(np.float32), rotation) @ pose_of(
        (0, 0, scene.robot.gripper.tcp_m), np.eye(3)
    )
    camera = scene.wrist.camera(48, base_from_tcp)
    image = full_image([near, layer_of(scene.static)], camera, behind=1, by_m=BIAS_M).astype(int)
    assert (image != renderer.wrist[slot]).mean() < 1e-3  # the pose is a product of matrices in another order
    assert np.abs(image - renderer.wrist[slot]).max() <= 2


def test_exact_images_follow_what_moves(scene, physics, task, configurations):
    """Blocks touched in one image and not in the next show the background again."""
    kept = TwinRenderer(scene, physics, DOMAINS["twin"], SCHEMA, exact=True)
    for configuration in configurations("A", 3, seed=5):
        physics.place(np.array([0]), task.body_poses(configuration))
        kept.draw()
        fresh = TwinRenderer(scene, physics, DOMAINS["twin"], SCHEMA, exact=True)
        fresh.draw()
        np.testing.assert_array_equal(kept.side, fresh.side)
        np.testing.assert_array_equal(kept.wrist, fresh.wrist)


def test_fast_images_are_close_to_exact_ones(scene, physics):
    fast, exact = (TwinRenderer(scene, physics, DOMAINS["twin"], SCHEMA, exact=mode) for mode in (False, True))
    fast.draw()
    exact.draw()
    for ours, theirs, most in ((fast.side, exact.side, 2.5), (fast.wrist, exact.wrist, 20)):
        assert np.abs(ours.astype(int) - theirs).mean() < most


def test_a_disc_on_the_table_is_whole_in_both_modes(scene, physics):
    for exact in (False, True):
        renderer = TwinRenderer(scene, physics, DOMAINS["twin"], Schema(side_px=128, wrist_px=16), exact=exact)
        renderer.draw()
        u, v, _ = scene.side.camera(128).project(physics.body_position("target")[0])
        disc = renderer.side[0, int(v) - 3 : int(v) + 4, int(u) - 4 : int(u) + 5].astype(int)
        assert ((disc[..., 2] - disc[..., 0]) > 80).all()


def shiny(splats: Splats, seed: int) -> Splats:
    return replace(splats, sh=np.random.default_rng(seed).normal(0, 0.15, (len(splats), 8, 3)).astype(np.float32))


@pytest.mark.parametrize("exact", [False, True], ids=["fast", "exact"])
def test_harmonics_of_what_moves_turn_with_it(scene, physics, task, exact):
    """It equals splats whose harmonics were turned with their bodies, rendered from scratch."""
    rng = np.random.default_rng(1)
    ball = Splats.of(
        means=rng.normal(0, 0.02, (60, 3)),
        quaternions=np.tile([1.0, 0, 0, 0], (60, 1)),
        scales=np.full((60, 3), 0.008),
        opacities=np.full(60, 0.9),
        colours=rng.uniform(0.3, 0.7, (60, 3)),
        sh=rng.normal(0, 0.4, (60, 15, 3)),
    )
    glossy = replace(task, splats={"cube": ball})
    lit = replace(scene, static=shiny(scene.static, 2))
    world = MujocoPhysics(scene.robot, glossy, Domain(), 1)
    turned = {"cube": np.array([[-0.5, 0.1, 0.05, 2.0]]), "target": np.array([[-0.4, 0, 0.001, 0]])}
    world.reset(np.array([0]), np.array([[0.3, -1.8, 1.9, -1.7, -1.5, 0.1]]), turned)
    renderer = TwinRenderer(lit, world, Domain(), SCHEMA, exact=exact)
    renderer.draw()
    parts = [lit.static]
    moving = moving_splats(world.model, world.robot, glossy)
    for body in np.unique(moving.body):
        pose = pose_of(world.body_positions[0, body], world.body_rotations[0, body].reshape(3, 3))
        parts.append(moving.splats[moving.body == body].transformed(pose))
    camera = scene.side.camera(64)
    layers = [layer_of(parts[0]), layer_of(concatenate(parts[1:]))]
    image = full_image(layers, camera, behind=0, by_m=DEPTH_SLACK_M).astype(int)
    u, v, _ = camera.project(turned["cube"][0, :3])
    spot = (slice(int(v) - 2, int(v) + 3), slice(int(u) - 2, int(u) + 3))
    assert np.abs(image[spot] - renderer.side[0][spot]).mean() < (2 if exact else 6)
    assert np.abs(image - renderer.side[0]).mean() < (0.1 if exact else 3)


def test_bodies_with_splats_of_their_own_are_drawn_from_them(scene, task, configurations):
    green = Splats.of(
        means=np.random.default_rng(0).uniform(-0.018, 0.018, (300, 3)),
        quaternions=np.tile([1.0, 0, 0, 0], (300, 1)),
        scales=np.full((300, 3), 0.005),
        opacities=np.full(300, 0.9),
        colours=np.tile([0.05, 0.9, 0.05], (300, 1)),
    )
    scanned = replace(task, splats={"cube": green})
    world = MujocoPhysics(scene.robot, scanned, Domain(), 1)
    (configuration,) = configurations("A", 1)
    world.reset(np.zeros(1, int), np.array([[0.3, -1.8, 1.9, -1.7, -1.5, 0.1]]), task.body_poses(configuration))
    moving = moving_splats(world.model, world.robot, scanned)
    cube = moving.body == world.model.body("cube").id
    np.testing.assert_array_equal(moving.splats.means[cube], green.means)
    renderer = TwinRenderer(scene, world, Domain(), Schema())
    renderer.draw()
    image = renderer.side[0].astype(int)
    rows, columns = np.nonzero((image[..., 1] - image[..., [0, 2]].max(2)) > 60)
    u, v, _ = scene.side.camera(64).project(world.body_position("cube")[0])
    assert abs(columns.mean() + 0.5 - u) < 1.5 and abs(rows.mean() + 0.5 - v) < 1.5
    assert not ((image[..., 0] - image[..., 1:].max(2)) > 60).any()  # no red cube


def test_limits_close_untouched_blocks():
    """A footprint whose box ends inside a block opens that block and no other."""
    from twin.render.cameras import restore, touched

    work = workspace_for(1, 24, 24)
    work.footprints[0, [0, 1, 10, 11]] = [12.0, 4.0, 3.9, 3.9]
    blocks = touched(work, 0, 1)
    np.testing.assert_array_equal(blocks, [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    canvas = np.random.default_rng(0).random(work.canvas.shape).astype(np.float32)
    kernels.clear(work)
    restore(work, blocks, canvas)
    limit = work.canvas[:, 4]
    assert (limit[:8, 8:16] == FAR).all() and (limit == FAR).sum() == 64
    np.testing.assert_array_equal(work.canvas[8:, :4, :24], canvas[8:, :4, :24])
    assert work.blocks.tolist() == [[0, 64, 0], [0, 0, 0], [0, 0, 0]]


def test_an_exact_twin_shows_exact_images(scene, task, configurations):
    """Nothing that a vector twin does between its renderer and its observation changes them."""
    (configuration,) = configurations("A", 1)
    shown = []
    for exact in (False, True):
        twin = VectorTwin(scene, task, n=1, domain=Domain(), seed=0, schema=SCHEMA, exact=exact)
        twin.reset(0, configuration)
        shown.append(twin.observe())
        twin.close()
    fast, exact = shown
    np.testing.assert_array_equal(fast.proprio, exact.proprio)
    difference = np.abs(fast.side.astype(int) - exact.side)
    assert 0 < difference.mean() < 2.5 and (difference > 0).any(axis=-1).mean() > 0.05
