"""This benchmark counts images of the CPU renderer per second of one core: `python -m benchmarks.twin.render`.

Everything is 128 x 128 pixels over the synthetic table of 20 000 splats. The moving splats are those of the arm, the
gripper and pick-and-place's bodies, each split into eight: 6 900, as many as a finely drawn robot has. Time is CPU time
of the drawing thread, so a busy machine counts less than with a clock; the cases take turns.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks.measure import hardware, spread, table, take_turns
from protos.schema import Schema
from twin import tasks
from twin.camera import Camera
from twin.kinematics import Kinematics
from twin.physics import Physics, make
from twin.randomize import Domain
from twin.render import interface, kernels
from twin.render.cameras import ExactSide, FastSide
from twin.render.compositor import TwinRenderer
from twin.render.moving import MovingSplats, PosedSplats, moving_splats
from twin.render.rasterizer import footprints, layer_of, workspace_for
from twin.rotations import matrix_from_quaternion
from twin.scene import Scene, synthetic_scene
from twin.splats import Splats
from twin.tasks import TOOL

PX, STATIC = 128, 20_000
PARTS = 8
"""Number of splats that each moving splat is split into."""
SLICE_S = 0.15
"""CPU time of one measurement."""
FULL, FULL_SH = "full render, 20k", "full render, 20k with harmonics of degree 3"
CACHED, EXACT, BOTH = "cached background, 20k + 7k moving", "exact, 20k + 7k moving", "both cameras of the bundled twin"
GOALS = {FULL: 200, CACHED: 500}
"""Images per CPU-second that the project promises."""


def figures(rounds: int = 5) -> Mapping[str, list[float]]:
    """Measures images per CPU-second by case, one number per round (for `BOTH` pairs of images)."""
    scene = scene_of(STATIC)
    camera = scene.side.camera(PX)
    shiny = replace(scene.static, sh=np.random.default_rng(0).normal(0, 0.1, (STATIC, 15, 3)).astype(np.float32))
    cases = {
        FULL: _full(scene.static, camera),
        FULL_SH: _full(shiny, camera),
        CACHED: _composed(scene, FastSide),
        EXACT: _composed(scene, ExactSide),
        BOTH: _bundled(scene),
    }
    for draw in cases.values():
        draw()
    return take_turns({name: partial(_rate, draw) for name, draw in cases.items()}, rounds)


def scene_of(splats: int) -> Scene:
    """Returns the synthetic scene with exactly so many splats on table and wall."""
    low, high = 0.001, 0.1
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if len(synthetic_scene(middle).static) > splats else (low, middle)
    scene = synthetic_scene(low)
    chosen = np.sort(np.random.default_rng(0).permutation(len(scene.static))[:splats])
    return replace(scene, static=scene.static[chosen])


def split(moving: MovingSplats) -> MovingSplats:
    """Splits every splat into `PARTS` smaller ones that cover the same place."""
    splats = moving.splats
    angle = 2 * np.pi * np.arange(PARTS) / PARTS
    offset = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    axes = matrix_from_quaternion(splats.quaternions) * splats.scales[:, None, :]
    places = np.repeat(np.arange(len(splats)), PARTS)
    finer = splats[places]
    means = splats.means[:, None] + np.einsum("nij,pj->npi", axes, offset)
    scales = finer.scales * np.array([PARTS**-0.5, PARTS**-0.5, 1])
    return MovingSplats(
        splats=replace(finer, means=means.reshape(-1, 3).astype(np.float32), scales=scales.astype(np.float32)),
        body=moving.body[places],
        first_wrist=moving.first_wrist * PARTS,
    )


def _full(splats: Splats, camera: Camera) -> Callable[[], None]:
    layer, work = layer_of(splats), workspace_for(len(splats), PX, PX)
    image, black = np.zeros((PX, PX, 3), np.uint8), np.zeros((PX, PX, 3), np.float32)

    def draw() -> None:
        count = footprints(layer, camera, work, 0)
        kernels.sort_by_depth(work, count)
        kernels.clear(work)
        kernels.blend(work, count, interface.STOP)
        kernels.to_bytes(work.canvas, black, image)

    return draw


def _composed(scene: Scene, kind: type[FastSide] | type[ExactSide]) -> Callable[[], None]:
    physics = _physics(scene)
    moving = PosedSplats(split(moving_splats(physics.model, physics.robot, physics.task)))
    positions = physics.body_positions[0].astype(np.float32)
    rotations = physics.body_rotations[0].reshape(-1, 3, 3).astype(np.float32)
    side = kind(layer_of(scene.static), scene.side.camera(PX))
    work, image = workspace_for(STATIC + len(moving), PX, PX), np.zeros((PX, PX, 3), np.uint8)

    def draw() -> None:
        moving.pose(positions, rotations)
        side.draw(moving, work)
        kernels.to_bytes(work.canvas, side.background, image)

    return draw


def _physics(scene: Scene) -> Physics:
    """Returns one world of pick-and-place at an episode's start."""
    task = tasks.get("pick_and_place")
    physics = make("mujoco", scene.robot, task, Domain(), n=1)
    configuration = task.space.sample(np.random.default_rng(0))
    x, y, z, yaw = task.pose(configuration, TOOL)
    joints = Kinematics(scene.robot).start_joints((x, y, z), yaw)
    physics.reset(np.zeros(1, int), joints, task.body_poses(configuration))
    return physics


def _bundled(scene: Scene) -> Callable[[], None]:
    return TwinRenderer(scene, _physics(scene), Domain(), Schema(side_px=PX, wrist_px=PX)).draw


def _rate(draw: Callable[[], None]) -> float:
    """Returns calls per CPU-second of this thread."""
    calls, started = 0, time.thread_time()
    while (spent := time.thread_time() - started) < SLICE_S:
        draw()
        calls += 1
    return calls / spent


def render_table(rounds: int = 5) -> str:
    """Returns the figures as markdown: median and range."""
    rows = [(name, spread(values), GOALS.get(name, "")) for name, values in figures(rounds).items()]
    return f"{hardware()}\n\n{table(['128 x 128', 'images per CPU-second', 'goal'], rows)}"


if __name__ == "__main__":
    sys.stdout.write(render_table() + "\n")
