import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from twin.rotations import (
    TOOL_DOWN,
    TOOL_DOWN_VECTOR,
    about_z,
    continuous,
    matrix_from_quaternion,
    matrix_from_vector,
    multiply,
    quaternion_from_matrix,
    upright,
    vector_from_matrix,
    within_angle,
    yaw_of,
)

vectors = arrays(float, 3, elements=st.floats(-6, 6))
quaternions = arrays(float, 4, elements=st.floats(-1, 1)).filter(lambda q: np.linalg.norm(q) > 0.1)


@given(quaternions)
def test_matrices_of_quaternions_are_rotations_and_invert(q):
    matrix = matrix_from_quaternion(q)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) > 0
    np.testing.assert_allclose(matrix_from_quaternion(quaternion_from_matrix(matrix)), matrix, atol=1e-9)


@given(quaternions, quaternions)
def test_the_quaternion_product_is_the_matrix_product(a, b):
    product = matrix_from_quaternion(multiply(a, b))
    np.testing.assert_allclose(product, matrix_from_quaternion(a) @ matrix_from_quaternion(b), atol=1e-12)


@given(vectors)
def test_rotation_vectors_round_trip(v):
    matrix = matrix_from_vector(v)
    back = vector_from_matrix(matrix)
    assert np.linalg.norm(back) <= np.pi + 1e-9
    np.testing.assert_allclose(matrix_from_vector(back), matrix, atol=1e-7)


@given(vectors, vectors)
def test_continuous_keeps_the_rotation_and_never_moves_away(v, reference):
    chosen = continuous(v, reference)
    np.testing.assert_allclose(matrix_from_vector(chosen), matrix_from_vector(v), atol=1e-7)
    assert np.linalg.norm(chosen - reference) <= np.linalg.norm(v - reference) + 1e-9


def test_the_tool_pose_does_not_jump_at_pi():
    tilts = np.linspace(-0.1, 0.1, 41)
    matrices = matrix_from_vector(np.stack([tilts, 0.5 * tilts, 0 * tilts], 1)) @ TOOL_DOWN
    plain = vector_from_matrix(matrices)
    smooth = continuous(plain, TOOL_DOWN_VECTOR)
    assert np.abs(np.diff(plain, axis=0)).max() > 3
    assert np.abs(np.diff(smooth, axis=0)).max() < 0.02


def test_tool_down_points_down_and_matches_its_vector():
    np.testing.assert_allclose(TOOL_DOWN[:, 2], [0, 0, -1])
    np.testing.assert_allclose(matrix_from_vector(TOOL_DOWN_VECTOR), TOOL_DOWN, atol=1e-12)


@given(st.floats(-3.1, 3.1))
def test_yaw_is_the_turn_about_z(angle):
    assert abs(yaw_of(about_z(angle)) - angle) < 1e-9


@given(vectors, st.floats(0, 1))
def test_upright_limits_the_lean_and_leaves_the_rest(vector, tilt):
    tool = matrix_from_vector(vector) @ TOOL_DOWN
    lean = np.arccos(np.clip(-tool[2, 2], -1, 1))
    assume(lean < 3.1)
    limited = upright(tool, tilt)
    left = np.arccos(np.clip(-limited[2, 2], -1, 1))
    assert left == pytest.approx(min(lean, tilt), abs=1e-6)
    moved = np.linalg.norm(vector_from_matrix(limited @ tool.T))
    assert moved == pytest.approx(max(lean - tilt, 0), abs=1e-6)


@given(vectors, st.floats(0.01, 4))
def test_a_vector_within_an_angle_keeps_its_direction(vector, limit):
    short = within_angle(vector, limit)
    assert np.linalg.norm(short) == pytest.approx(min(np.linalg.norm(vector), limit))
    np.testing.assert_allclose(np.cross(short, vector), 0, atol=1e-9)
