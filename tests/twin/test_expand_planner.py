"""Ways around obstacles, in a world of points that knows nothing of arms."""

import numpy as np
import pytest

from protos.space import Box
from twin.camera import pose_of
from twin.expand.path import angle_between
from twin.expand.planner import Planner
from twin.rotations import TOOL_DOWN, about_z

BOX = Box(x=(0.0, 1.0), y=(0.0, 1.0), z=(0.0, 0.4))
START, GOAL = pose_of((0.1, 0.5, 0.1), TOOL_DOWN), pose_of((0.9, 0.5, 0.1), about_z(1.0) @ TOOL_DOWN)
HOME = np.zeros(6)


class World:
    """A world is free wherever `blocked` is not; it keeps what it is asked."""

    def __init__(self, blocked):
        self.blocked, self.asked = blocked, []

    def __call__(self, position, rotation, near):
        assert position.shape == (3,) and rotation.shape == (3, 3) and near.shape == (6,)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        self.asked.append(position)
        return None if self.blocked(position, rotation) else near


def densely(path):
    """Points of a path every millimetre."""
    for a, b in zip(path.positions, path.positions[1:], strict=False):
        yield from a + (b - a) * np.linspace(0, 1, max(int(np.linalg.norm(b - a) * 1000), 2))[:, None]


def plan(blocked, seed=0):
    return Planner(BOX, World(blocked), np.random.default_rng(seed)).plan(START, GOAL, HOME)


def wall(gap_y, height, grown=0.0):
    """Across the box at x = 0.5, 4 cm thick, with a gap and an upper edge; `grown` on all sides."""
    low, high = gap_y[0] + grown, gap_y[1] - grown
    return lambda p, _: abs(p[0] - 0.5) < 0.02 + grown and not (low < p[1] < high) and p[2] < height + grown


def test_nothing_in_the_way_is_a_straight_line():
    found = plan(lambda p, r: False)
    assert len(found) == 2
    np.testing.assert_allclose(found.pose(0), START, atol=1e-9)
    np.testing.assert_allclose(found.pose(1), GOAL, atol=1e-9)


def test_a_low_wall_is_passed_above_by_the_lowest_way():
    found = plan(wall((2, 3), 0.15))
    assert len(found) == 4
    assert found.positions[:, 2].max() == pytest.approx(0.18)


@pytest.mark.parametrize("seed", range(4))
def test_a_high_wall_is_passed_through_its_gap(seed):
    found = plan(wall((0.7, 0.9), 1.0, grown=0.005), seed)
    np.testing.assert_allclose(found.pose(0), START, atol=1e-9)
    np.testing.assert_allclose(found.pose(len(found) - 1), GOAL, atol=1e-9)
    assert not any(map(wall((0.7, 0.9), 1.0), densely(found), [None] * 10_000))
    turned = [float(angle_between(rotation, TOOL_DOWN)) for rotation in found.rotations]
    assert all(0 <= each <= 1 + 1e-6 for each in turned)
    assert len(found) <= 8  # shortcuts leave few corners


def test_a_turn_that_is_blocked_in_the_middle_is_made_elsewhere():
    """The tool may not be half turned in the lower half of the box."""

    def blocked(position, rotation):
        return 0.3 < float(angle_between(rotation, TOOL_DOWN)) < 0.7 and position[2] < 0.2

    found = plan(blocked)
    assert found is not None
    assert found.positions[:, 2].max() >= 0.2


def test_a_goal_that_is_not_free_or_walled_in_has_no_way():
    assert plan(lambda p, _: np.linalg.norm(p - GOAL[:3, 3]) < 0.05) is None
    assert plan(wall((2, 3), 1.0)) is None


def test_plans_depend_on_the_seed_alone():
    blocked = wall((0.7, 0.9), 1.0)
    first, again = plan(blocked, 3), plan(blocked, 3)
    np.testing.assert_array_equal(first.positions, again.positions)
