import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from protos.proprioception import TOOL_DOWN_VECTOR
from twin.rotations import (
    TOOL_DOWN,
    YAW_LIMIT_RAD,
    about_z,
    heading,
    matrix_from_quaternion,
    matrix_from_vector,
    multiply,
    quaternion_from_matrix,
    turn_between,
    upright,
    vector_from_matrix,
    within_angle,
    within_yaw,
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


singles = arrays(float, 3, elements=st.floats(-6, 6) | st.sampled_from([0.0, 1e-12, 1e-5, np.pi, -np.pi]))


@given(singles, singles)
def test_a_single_rotation_is_converted_as_a_batch_of_one(v, w):
    (batched,) = matrix_from_vector(v[None])
    np.testing.assert_allclose(matrix_from_vector(v), batched, rtol=0, atol=1e-14)
    (back,) = vector_from_matrix(batched[None])
    np.testing.assert_allclose(vector_from_matrix(batched), back, rtol=0, atol=1e-13)
    (between,) = turn_between(batched[None], matrix_from_vector(w[None]))
    start = matrix_from_vector(w)
    (between,) = matrix_from_vector(turn_between(start[None], batched[None]))
    np.testing.assert_allclose(matrix_from_vector(turn_between(start, batched)), between, rtol=0, atol=1e-9)
    np.testing.assert_allclose(within_angle(v, 1.5), within_angle(v[None], 1.5)[0], rtol=0, atol=1e-14)
    for tilt in (0.0, 0.2):
        np.testing.assert_allclose(upright(batched, tilt), upright(batched[None], tilt)[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_rotation_stays_none(bad):
    with np.errstate(invalid="ignore"):
        assert np.isnan(matrix_from_vector(np.array([0.1, bad, 0.2]))).any()
        assert np.isnan(vector_from_matrix(np.diag([1.0, 1.0, np.nan]))).all()


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


@given(vectors, vectors)
def test_the_turn_between_two_rotations_leads_from_one_to_the_other(a, b):
    start, end = matrix_from_vector(a), matrix_from_vector(b)
    turn = turn_between(start, end)
    assert np.linalg.norm(turn) <= np.pi + 1e-9
    np.testing.assert_allclose(matrix_from_vector(turn) @ start, end, atol=1e-7)


@given(st.floats(-YAW_LIMIT_RAD, YAW_LIMIT_RAD), st.floats(-3.0, 3.0), st.floats(-0.2, 0.2))
def test_the_yaw_limit_stops_a_turn_and_never_sends_it_round(start, turn, lean):
    before = about_z(start) @ TOOL_DOWN
    wanted = about_z(turn) @ matrix_from_vector([lean, 0, 0]) @ before
    limited = within_yaw(wanted, before)
    assert heading(limited) == pytest.approx(np.clip(start + turn, -YAW_LIMIT_RAD, YAW_LIMIT_RAD), abs=1e-9)
    assert limited[2, 2] == pytest.approx(wanted[2, 2]), "the lean stays"
    if abs(start + turn) <= YAW_LIMIT_RAD:
        np.testing.assert_allclose(limited, wanted, atol=1e-9)
