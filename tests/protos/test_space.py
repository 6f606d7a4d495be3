"""These tests sample configurations and find their cells again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import InputError
from protos.space import Box, ConfigurationSpace

SPACE = ConfigurationSpace(
    manipulated="cube",
    regions={"A": Box(x=(-0.62, -0.48), y=(0.06, 0.2)), "B": Box(x=(-0.62, -0.48), y=(-0.2, -0.06))},
    others={"target": Box(x=(-0.41, -0.37), y=(-0.03, 0.03)), "tool": Box(x=(0, 0), y=(0, 0), z=(0.15, 0.17))},
)


@given(cell=st.integers(0, SPACE.cells - 1), seed=st.integers(0, 2**31))
def test_a_cell_holds_its_samples(cell, seed):
    configuration = SPACE.sample(np.random.default_rng(seed), cell=cell)
    region, box = SPACE.cell_box(cell)
    x, y, _, _ = configuration.poses["cube"]
    assert configuration.cell == cell
    assert configuration.region == region
    assert box.x[0] <= x <= box.x[1]
    assert box.y[0] <= y <= box.y[1]
    assert set(configuration.poses) == {"cube", "target", "tool"}


def test_spread_visits_every_cell_equally():
    starts = SPACE.spread(np.random.default_rng(0), region="B", rollouts=40)
    assert len(starts) == 40
    assert sorted({one.cell for one in starts}) == list(range(20, 40))
    assert all(one.region == "B" for one in starts)


def test_few_rollouts_visit_different_cells():
    starts = SPACE.spread(np.random.default_rng(0), region="A", rollouts=5)
    assert len({one.cell for one in starts}) == 5


def test_outside_is_no_cell():
    assert SPACE.cell_of(-0.5, 0.0) == -1


@pytest.mark.parametrize("arguments", [{"region": "C"}, {"cell": 40}])
def test_unknown_places_are_refused(arguments):
    with pytest.raises(InputError):
        SPACE.sample(np.random.default_rng(0), **arguments)


def test_a_box_is_ordered():
    with pytest.raises(InputError, match=r"Box\.x"):
        Box(x=(1.0, 0.0), y=(0.0, 1.0))
