"""This module tests what contacts alone decide: which blocks fit their sockets, and that nothing creeps in the grip."""

from dataclasses import replace

import numpy as np
import pytest

from protos.schema import Configuration, Schema
from twin import tasks
from twin.env import VectorTwin
from twin.randomize import Domain
from twin.scene import synthetic_scene
from twin.tasks.insertion import COLUMNS_SEAT, HEXAGON_SEAT

PROMPT = Domain(latency_steps=(0,))
SOCKETS = {"insert_hexagon_block": ("socket", HEXAGON_SEAT), "insert_triple_column_block": ("board", COLUMNS_SEAT)}
IDLE = np.array([[0, 0, 0, 0, 0, 0, 1]], np.float32)


@pytest.fixture
def twin_of():
    made = []

    def make(name, n=1):
        schema = Schema(side_px=16, wrist_px=16)
        task, scene = tasks.get(name), synthetic_scene(spacing_m=0.05)
        made.append(VectorTwin(scene, task, n=n, domain=PROMPT, seed=0, schema=schema))
        return made[-1]

    yield make
    for twin in made:
        twin.close()


def dropped(twin, *, off_m=0.0, turn_deg=0.0):
    """Tells whether a block, let go just above the socket, comes to rest in it."""
    socket, seat = SOCKETS[twin.task.name]
    poses = {
        socket: (-0.39, 0.0, 0.0, 0.1),
        "block": (-0.39 + off_m, 0.0, seat.high_m + 0.017, 0.1 + np.radians(turn_deg)),
        "tool": (-0.54, 0.0, 0.2, 0.0),
    }
    twin.reset(0, Configuration(region="A", poses=poses))
    done = [bool(twin.step(IDLE).success[0]) for _ in range(12)]
    return done[-1]


@pytest.mark.parametrize("name", SOCKETS)
@pytest.mark.parametrize(
    ("misplaced", "seated"),
    [
        ({}, True),
        ({"off_m": 0.004}, True),
        ({"off_m": -0.003, "turn_deg": 4}, True),
        ({"off_m": 0.015}, False),
        ({"turn_deg": 30}, False),
        ({"turn_deg": 120}, True),
    ],
)
def test_a_block_falls_in_when_it_nearly_fits(twin_of, name, misplaced, seated):
    assert dropped(twin_of(name), **misplaced) == seated


@pytest.mark.parametrize(("name", "seated"), [("insert_hexagon_block", True), ("insert_triple_column_block", False)])
def test_a_sixth_of_a_turn_fits_six_flats_but_not_three_columns(twin_of, name, seated):
    assert dropped(twin_of(name), turn_deg=60) == seated


@pytest.mark.parametrize("name", tasks.names())
def test_what_is_carried_does_not_slip(twin_of, name):
    twin, n = twin_of(name, 6), 6
    body = twin.task.space.manipulated
    rng = np.random.default_rng(0)
    for slot in range(n):
        twin.reset(slot, twin.task.space.sample(rng, region="A"))
    start, slips, before = twin.state().bodies[body][:, 2].copy(), [], None
    for _ in range(20):
        twin.step(twin.expert_action())
        state = twin.state()
        held = state.bodies[body] + twin.task.hold.height_m * state.rotations[body][:, :, 2]
        # in the tool's frame, as the tool turns while it carries
        offset = np.einsum("nji,nj->ni", state.tool_rotation, held - state.tool)
        carried = state.closing & (state.bodies[body][:, 2] > start + 0.03)
        if before is not None:
            slips += np.linalg.norm(offset - before[0], axis=1)[carried & before[1]].tolist()
        before = offset.copy(), carried
    assert len(slips) > 20
    assert np.mean(slips) < 0.5e-3
    assert np.max(slips) < 1.5e-3


def test_pressing_the_eraser_down_does_not_wipe_but_sliding_does(twin_of):
    twin = twin_of("erase_whiteboard")
    start = twin.task.space.sample(np.random.default_rng(0), region="A")
    at = {"eraser": (-0.395, -0.06, 0.007, 0.0), "tool": (-0.395, -0.06, 0.028, 0.0)}
    twin.reset(0, replace(start, poses=dict(start.poses) | at))
    close = np.array([[0, 0, 0, 0, 0, 0, -1]], np.float32)
    for action in [close] * 4 + [close + np.array([[0, 0, -0.1, 0, 0, 0, 0]], np.float32)] * 3:
        twin.step(action)
    assert left(twin) == 6
    for _ in range(10):
        twin.step(close + np.array([[0, 0.6, 0, 0, 0, 0, 0]], np.float32))
    assert left(twin) <= 1


def left(twin):
    """Marks on the board."""
    return sum(pose[0, 2] > 0 for name, pose in twin.state().bodies.items() if name.startswith("mark"))
