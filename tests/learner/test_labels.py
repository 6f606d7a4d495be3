"""Hindsight labels are right for episodes made by hand."""

import numpy as np
import pytest

from learner.sft import LabelSettings, hindsight_labels, object_path
from protos.errors import InputError
from protos.schema import Configuration

CUBE, TARGET = (-0.55, 0.10, 0.018), (-0.40, 0.02, 0.001)
START = Configuration(region="A", poses={"cube": (*CUBE, 0.0), "target": (*TARGET, 0.0)})


def episode(rows):
    """Returns proprio and action from rows of (tool x, y, z, opening, gripper command)."""
    rows = np.asarray(rows, np.float32)
    proprio, action = np.zeros((len(rows), 25), np.float32), np.zeros((len(rows), 7), np.float32)
    proprio[:, :3], proprio[:, 18], action[:, 6] = rows[:, :3], rows[:, 3], rows[:, 4]
    return proprio, action


PICK = [
    (-0.54, 0.00, 0.160, 1.00, 1),  # on the way
    (-0.55, 0.10, 0.014, 1.00, -1),  # told to close
    (-0.55, 0.10, 0.014, 0.80, -1),  # closing, not on it yet
    (-0.55, 0.10, 0.014, 0.45, -1),  # has it
    (-0.50, 0.06, 0.080, 0.44, -1),  # carries
    (-0.40, 0.02, 0.014, 0.45, 1),  # told to open
    (-0.40, 0.02, 0.014, 0.90, 1),  # opened
    (-0.40, 0.02, 0.100, 1.00, 1),  # leaves
]


def test_the_object_waits_moves_with_the_tool_and_stays():
    path = object_path(START, *episode(PICK), LabelSettings())[:, :3]
    offset = np.subtract(CUBE, PICK[3][:3])
    assert np.allclose(path[:4], CUBE, atol=1e-6)
    assert np.allclose(path[4], np.add(PICK[4][:3], offset), atol=1e-6)
    assert np.allclose(path[6:], [-0.40, 0.02, CUBE[2]], atol=1e-6)


def test_labels_have_the_recipe_s_layout_and_scales():
    proprio, action = episode(PICK)
    labels = hindsight_labels(START, np.concatenate([proprio, proprio[-1:]]), action)  # one observation more
    assert labels.shape == (8, 9)
    assert labels.dtype == np.float32
    assert labels[0, :4] == pytest.approx([-0.25, 0.5, 0.5, 0.1], abs=1e-5)
    assert labels[0, 4:7] == pytest.approx([-0.01 / 0.06, 1.0, -1.0], abs=1e-5)  # clipped in y and z
    assert labels[0, 7:9] == pytest.approx([1.0, 0.02 / 0.06], abs=1e-5)
    assert np.abs(labels[:, 4:]).max() <= 1


def test_closing_far_away_or_on_nothing_moves_nothing():
    away = [(x, y + 0.05, z, o, g) for x, y, z, o, g in PICK]
    empty = [(x, y, z, 0.1 if g < 0 else o, g) for x, y, z, o, g in PICK]
    for rows in (away, empty):
        assert np.allclose(object_path(START, *episode(rows), LabelSettings())[:, :3], CUBE, atol=1e-6)


def test_an_object_that_slips_drops_where_it_was():
    rows = [*PICK[:5], (-0.45, 0.04, 0.08, 0.05, -1), (-0.40, 0.02, 0.014, 0.0, -1)]
    path = object_path(START, *episode(rows), LabelSettings())[:, :3]
    assert np.allclose(path[5:], [path[4, 0], path[4, 1], CUBE[2]], atol=1e-6)


def test_a_configuration_without_the_body_is_named():
    proprio, action = episode(PICK)
    with pytest.raises(InputError, match=r"no body 'peg'.*cube, target"):
        hindsight_labels(START, proprio, action, LabelSettings(manipulated="peg"))
