import numpy as np
import pytest
from situations import situation

from protos.errors import InputError
from twin import tasks
from twin.randomize import Domain
from twin.rotations import matrix_from_vector

PAPERS = ("pick_and_place", "insert_hexagon_block", "insert_triple_column_block", "erase_whiteboard")


@pytest.mark.parametrize("name", PAPERS)
def test_regions_mirror_each_other_and_lie_in_the_work_box(name):
    task = tasks.get(name)
    a, b = task.space.regions["A"], task.space.regions["B"]
    assert a.x == b.x and a.y == (-b.y[1], -b.y[0]) and a.yaw == b.yaw == (-a.yaw[1], -a.yaw[0])
    for box in (a, b, *task.space.others.values()):
        for axis in ("x", "y"):
            low, high = getattr(task.work_box, axis)
            assert low <= getattr(box, axis)[0] <= getattr(box, axis)[1] <= high


@pytest.mark.parametrize("name", PAPERS)
def test_a_task_describes_itself(name):
    task = tasks.get(name)
    assert task.name == name and task.instruction.endswith(".")
    assert task.space.manipulated in task.free_bodies
    assert set(task.space.others) == {*task.fixed_bodies, "tool"}
    assert all(task.splat_spacing(body) > 0 for body in task.bodies)


def test_an_unknown_task_is_refused_with_the_choices():
    with pytest.raises(InputError, match="pick_and_place, insert_hexagon_block"):
        tasks.get("juggle")
    assert tasks.names() == PAPERS


@pytest.mark.parametrize(
    ("cube", "closing", "done"),
    [
        ((-0.39, 0.0, 0.02), False, True),
        ((-0.39, 0.034, 0.02), False, True),
        ((-0.39, 0.036, 0.02), False, False),
        ((-0.39, 0.0, 0.031), False, False),
        ((-0.39, 0.0, 0.02), True, False),
    ],
)
def test_the_cube_is_placed_near_low_and_released(task, cube, closing, done):
    state = situation(bodies={"cube": cube, "target": (-0.39, 0.0, 0.001)}, closing=closing)
    assert task.succeeded(state).tolist() == [done]


@pytest.mark.parametrize(
    ("block", "closing", "done"),
    [
        ((-0.39, 0.0, 0.027, 0.1), False, True),
        ((-0.39, 0.0, 0.027, 0.1 + np.pi / 3), False, True),
        ((-0.39, 0.0, 0.027, 0.1 - np.pi), False, True),
        ((-0.39, 0.0, 0.027, 0.1 + np.pi / 6), False, False),
        ((-0.39, 0.0, 0.032, 0.1), False, False),
        ((-0.386, 0.0, 0.027, 0.1), False, False),
        ((-0.39, 0.0, 0.027, 0.1), True, False),
    ],
)
def test_the_block_is_seated_turned_by_any_sixth_and_released(block, closing, done):
    state = situation(bodies={"block": block, "socket": (-0.39, 0.0, 0.0, 0.1)}, closing=closing)
    assert tasks.get("insert_hexagon_block").succeeded(state).tolist() == [done]


@pytest.mark.parametrize(
    ("block", "closing", "done"),
    [
        ((-0.39, 0.0, 0.002, 0.1), False, True),
        ((-0.39, 0.003, 0.002, 0.1 - 2 * np.pi / 3), False, True),
        ((-0.39, 0.0, 0.002, 0.1 + np.pi / 3), False, False),
        ((-0.39, 0.0, 0.007, 0.1), False, False),
        ((-0.39, 0.005, 0.002, 0.1), False, False),
        ((-0.39, 0.0, 0.002, 0.1), True, False),
    ],
)
def test_the_columns_stand_in_their_holes_turned_by_any_third(block, closing, done):
    state = situation(bodies={"block": block, "board": (-0.39, 0.0, 0.0, 0.1)}, closing=closing)
    assert tasks.get("insert_triple_column_block").succeeded(state).tolist() == [done]


def wiping(eraser=(-0.395, 0.0, 0.006), *, gone=(), **arm):
    """The eraser over marks 2 and 3 of a row along y, 17 mm apart."""
    bodies = {"eraser": eraser, "board": (-0.395, 0.0, 0.003)}
    marks = {f"mark_{k}": (-0.39, 0.017 * (k - 2.5), -0.5 if k in gone else 0.007) for k in range(6)}
    return situation(bodies=bodies | marks, **arm)


@pytest.mark.parametrize(
    ("eraser", "velocity", "wiped"),
    [
        ((-0.395, 0.0, 0.006), (0.0, 0.05, 0.0), {2, 3}),
        ((-0.395, 0.0, 0.004), (0.05, 0.0, 0.0), {2, 3}),
        ((-0.395, 0.034, 0.006), (0.0, 0.05, 0.0), {4, 5}),
        ((-0.395, 0.0, 0.006, np.pi / 2), (0.0, 0.05, 0.0), {1, 2, 3, 4}),
        ((-0.345, 0.0, 0.006), (0.0, 0.05, 0.0), set()),
        ((-0.395, 0.0, 0.006), (0.0, 0.0, -0.05), set()),
        ((-0.395, 0.0, 0.009), (0.0, 0.05, 0.0), set()),
    ],
)
def test_marks_vanish_where_the_eraser_slides_over_them(eraser, velocity, wiped):
    gone = tasks.get("erase_whiteboard").retired(wiping(eraser, velocity=velocity))
    assert {k for k in range(6) if gone[f"mark_{k}"][0]} == wiped


def test_a_tilted_eraser_wipes_nothing():
    state = wiping(velocity=(0.0, 0.05, 0.0))
    state.rotations["eraser"][:] = matrix_from_vector([0.3, 0.0, 0.0])
    assert not any(gone[0] for gone in tasks.get("erase_whiteboard").retired(state).values())


def test_the_board_is_clean_when_the_last_mark_is_gone():
    task = tasks.get("erase_whiteboard")
    assert not task.succeeded(wiping(gone=range(5)))[0]
    assert task.succeeded(wiping(gone=range(6)))[0]


@pytest.mark.parametrize(
    "setting",
    [
        {"gain": 0},
        {"gain": (1.0, 0.9)},
        {"latency_steps": ()},
        {"latency_steps": (11,)},
        {"camera_delay_steps": (-1,)},
        {"friction": (float("nan"), 1.0)},
        {"object_size": (0.9, 3.0)},
    ],
)
def test_domains_refuse_nonsense(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        Domain(**setting)
