import numpy as np
import pytest

from protos.errors import InputError
from twin.expand import expand
from twin.rotations import TOOL_DOWN_VECTOR, about_z, matrix_from_vector

OLD = {"tool": (-0.54, 0.0, 0.16, 0.0), "cube": (-0.55, 0.10, 0.018, 0.0), "target": (-0.39, 0.0, 0.001, 0.0)}
NEW = {"tool": (-0.53, 0.01, 0.15, 0.0), "cube": (-0.50, -0.15, 0.018, 0.5), "target": (-0.38, 0.02, 0.001, 0.0)}


def demonstration():
    """Down to the cube in 10 steps, over to the target in 10, up in 5."""
    corners = np.array([OLD["tool"][:3], (-0.55, 0.10, 0.014), (-0.39, 0.0, 0.016), (-0.39, 0.0, 0.10)])
    legs = [np.linspace(a, b, n, endpoint=False) for a, b, n in zip(corners, corners[1:], (10, 10, 5), strict=False)]
    positions = np.concatenate([*legs, corners[-1:]])
    path = np.concatenate([positions, np.tile(TOOL_DOWN_VECTOR, (len(positions), 1))], 1)
    closed = np.zeros(len(path), bool)
    closed[10:21] = True
    return path, closed


def test_the_same_configuration_gives_the_same_path():
    path, closed = demonstration()
    np.testing.assert_allclose(expand(path, closed, OLD, OLD), path, atol=1e-9)


def test_start_grasp_and_release_meet_the_new_poses():
    path, closed = demonstration()
    moved = expand(path, closed, OLD, NEW)
    np.testing.assert_allclose(moved[0, :3], NEW["tool"][:3], atol=1e-9)
    np.testing.assert_allclose(moved[10, :3], [-0.50, -0.15, 0.014], atol=1e-9)
    np.testing.assert_allclose(moved[20, :3], [-0.38, 0.02, 0.016], atol=1e-9)
    np.testing.assert_allclose(moved[-1, :3], [-0.38, 0.02, 0.10], atol=1e-9)


def test_the_tool_turns_with_the_object_and_back():
    path, closed = demonstration()
    turns = matrix_from_vector(expand(path, closed, OLD, NEW)[:, 3:]) @ matrix_from_vector(TOOL_DOWN_VECTOR).T
    np.testing.assert_allclose(turns[10], about_z(0.5), atol=1e-9)
    np.testing.assert_allclose(turns[5], about_z(0.25), atol=1e-9)
    np.testing.assert_allclose(turns[20], np.eye(3), atol=1e-9)


def test_the_path_stays_smooth_and_turns_the_short_way():
    path, closed = demonstration()
    around = NEW | {"cube": (-0.50, -0.15, 0.018, 3.0), "target": (-0.38, 0.02, 0.001, -3.0)}
    moved = expand(path, closed, OLD, around)
    between = np.arctan2(*(matrix_from_vector(moved[15, 3:]) @ matrix_from_vector(TOOL_DOWN_VECTOR).T)[[1, 0], 0])
    assert abs(abs(between) - np.pi) < 0.05
    assert np.linalg.norm(np.diff(expand(path, closed, OLD, NEW)[:, :3], axis=0), axis=1).max() < 0.06


def test_a_path_without_a_grasp_is_refused():
    path, closed = demonstration()
    with pytest.raises(InputError, match="closed"):
        expand(path, np.zeros_like(closed), OLD, NEW)
