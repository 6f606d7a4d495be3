import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from learner.datasets import motion
from protos.proprioception import TOOL_DOWN_VECTOR, proprioception, tool_vector
from protos.schema import GRIPPER, PROPRIO_DIM, TCP_POSE, TCP_VELOCITY, UNDER_WAY, WRENCH
from twin.rotations import TOOL_DOWN, YAW_LIMIT_RAD, about_z, matrix_from_vector, vector_from_matrix

vectors = arrays(float, 3, elements=st.floats(-6, 6))


@given(vectors)
def test_a_tool_vector_is_the_same_rotation_whichever_vector_it_is_made_of(v):
    chosen = tool_vector(v)
    np.testing.assert_allclose(matrix_from_vector(chosen), matrix_from_vector(v), atol=1e-7)
    angle = np.linalg.norm(v)
    if 0.1 < angle % (2 * np.pi) < 2 * np.pi - 0.1 and abs(v @ TOOL_DOWN_VECTOR) > 0.1:
        np.testing.assert_allclose(tool_vector(v * (1 - 2 * np.pi / angle)), chosen, atol=1e-6)


@given(vectors)
def test_a_single_tool_vector_is_as_in_a_batch(v):
    assume(abs(v @ TOOL_DOWN_VECTOR) > 1e-9)  # else either of the two is as near
    np.testing.assert_allclose(tool_vector(v), tool_vector(v[None])[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("measured", "told"), [(3.12, 3.12), (np.pi - 3.16 + np.pi, None), (-3.12, 3.1632)])
def test_a_tool_that_points_down_reads_alike_either_side_of_pi(measured, told):
    vector = tool_vector(TOOL_DOWN_VECTOR / np.pi * measured)
    np.testing.assert_allclose(np.linalg.norm(vector), told or measured, atol=1e-3)
    assert vector @ TOOL_DOWN_VECTOR > 0


def test_the_tool_pose_does_not_jump_at_pi():
    tilts = np.linspace(-0.1, 0.1, 41)
    plain = vector_from_matrix(matrix_from_vector(np.stack([tilts, 0.5 * tilts, 0 * tilts], 1)) @ TOOL_DOWN)
    assert np.abs(np.diff(plain, axis=0)).max() > 3
    assert np.abs(np.diff(tool_vector(plain), axis=0)).max() < 0.02


@given(lean=arrays(float, 2, elements=st.floats(-0.25, 0.25)))
def test_turning_a_tool_as_far_as_it_may_never_jumps(lean):
    turns = about_z(np.linspace(-YAW_LIMIT_RAD, YAW_LIMIT_RAD, 101))
    tools = turns @ matrix_from_vector([*lean, 0.0]) @ TOOL_DOWN
    assert np.abs(np.diff(tool_vector(vector_from_matrix(tools)), axis=0)).max() < 0.1


def test_a_foreign_tool_whose_frame_is_the_bases_does_not_jump_at_zero():
    small = np.random.default_rng(0).normal(0, 0.1, (100, 3))
    np.testing.assert_allclose(tool_vector(small), small, atol=1e-12)


def test_the_layout_is_the_schemas():
    row = np.arange(6.0)[None]
    made = proprioception(
        position=[[0.1, 0.2, 0.3]],
        rotation=[-TOOL_DOWN_VECTOR * 0.99],
        velocity=row,
        wrench=row + 10,
        opening=[0.5],
        under_way=row + 20,
    )
    assert made.shape == (1, PROPRIO_DIM) and made.dtype == np.float32
    np.testing.assert_allclose(made[0, TCP_POSE], [0.1, 0.2, 0.3, *(TOOL_DOWN_VECTOR * 1.01)], rtol=1e-6)
    np.testing.assert_array_equal(made[0, TCP_VELOCITY], row[0])
    np.testing.assert_array_equal(made[0, WRENCH], row[0] + 10)
    np.testing.assert_array_equal(made[0, UNDER_WAY], row[0] + 20)
    assert made[0, GRIPPER] == 0.5


def test_a_dataset_has_the_pose_that_the_arm_would_have():
    noise = np.random.default_rng(1).normal(0, 0.02, (50, 3))
    plain = vector_from_matrix(matrix_from_vector(noise) @ TOOL_DOWN)
    assert np.abs(np.diff(plain, axis=0)).max() > 3
    rows = motion.proprio(np.zeros((50, 3)), motion.quaternions(plain, "rotation_vector"), np.ones(50), None)
    np.testing.assert_allclose(rows[:, 3:6], tool_vector(plain), atol=1e-5)
    assert np.abs(np.diff(rows[:, 3:6], axis=0)).max() < 0.3
