"""These tests guess what numbers of foreign data mean, on motions whose meaning is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from learner.datasets.evidence import action_evidence, gripper_evidence, rotation_evidence


def walk(seed, steps=60, size=0.004):
    """Returns positions (steps + 1, 3) of a smooth motion in a robot's workspace, and its steps."""
    rng = np.random.default_rng(seed)
    moved = np.zeros((steps, 3))
    for row in range(1, steps):
        moved[row] = 0.8 * moved[row - 1] + size * rng.normal(size=3)
    start = rng.uniform((-0.6, -0.3, 0.1), (-0.4, 0.3, 0.3))
    return start + np.concatenate([np.zeros((1, 3)), np.cumsum(moved, axis=0)]), moved


def turning(seed, steps=60, start=(np.pi - 0.05, 0.1, 1.0)):
    """Returns orientations of a tool that points down and turns, and the turns applied on the left."""
    rng = np.random.default_rng(seed)
    turns = np.cumsum(rng.normal(size=(steps, 3)) * (0.01, 0.01, 0.02), axis=0).clip(-0.1, 0.1)
    path = [Rotation.from_euler("xyz", start)]
    for turn in turns:
        path.append(Rotation.from_rotvec(turn) * path[-1])
    return Rotation.concatenate(path[:-1]), turns


SEEDS = st.integers(0, 2**20)


UNITS = st.sampled_from([("m", 1.0), ("mm", 1000.0), ("", 30.0), ("", 1 / 0.3)])


@given(seed=SEEDS, unit=UNITS, lag=st.integers(0, 2))
def test_motions_are_deltas_in_their_unit_and_lag(seed, unit, lag):
    name, per_metre = unit
    positions, moved = walk(seed)
    action = np.roll(moved, -lag, axis=0) * per_metre
    found = action_evidence([positions[:-1]], [action])
    assert (found.guess, found.unit) == ("delta", name)
    assert found.moved_per_unit == pytest.approx(1 / per_metre, rel=0.05)
    assert found.absolute_error > 0.5


@given(seed=SEEDS, ahead=st.integers(1, 3), per_metre=st.sampled_from([1.0, 1000.0]), noise=st.floats(0, 0.003))
def test_poses_to_go_to_are_absolute(seed, ahead, per_metre, noise):
    positions, _ = walk(seed)
    rng = np.random.default_rng(seed)
    action = per_metre * (positions[ahead:] + noise * rng.normal(size=positions[ahead:].shape))
    found = action_evidence([positions[: len(action)]], [action])
    assert (found.guess, found.absolute_per_state) == ("absolute", per_metre)
    assert ahead > 1 or noise > 1e-7 or found.next_state_share == 1.0


def test_a_controller_whose_action_depends_on_its_place_moves_by_deltas():
    goal, place, positions, actions = np.array([-0.5, 0.0, 0.02]), np.array([-0.4, 0.3, 0.3]), [], []
    for _ in range(60):
        positions.append(place)
        actions.append(0.1 * (goal - place))
        place = place + actions[-1]
    assert action_evidence([np.array(positions)], [np.array(actions)]).guess == "delta"


def test_a_straight_line_at_a_steady_speed_is_told_apart():
    positions = np.array([-0.5, 0.0, 0.2]) + np.arange(12)[:, None] * (0.003, 0.0, 0.0)
    step = np.tile((0.003, 0.0, 0.0), (12, 1))
    assert action_evidence([positions], [step]).guess == "delta"
    assert action_evidence([positions], [positions + step]).guess == "absolute"


def test_motions_in_the_tools_frame_are_told():
    positions, moved = walk(3)
    orientation, _ = turning(3)
    quaternions = orientation.as_quat()[:, (3, 0, 1, 2)]
    assert action_evidence([positions[:-1]], [moved], [quaternions]).frame == "base"
    assert action_evidence([positions[:-1]], [orientation.inv().apply(moved)], [quaternions]).frame == "tool"


def test_what_does_not_move_or_is_too_short_tells_nothing():
    still = np.tile((0.1, 0.2, 0.3), (20, 1))
    assert action_evidence([still], [still]) is None
    assert action_evidence([], []) is None
    assert action_evidence([still[:2]], [still[:2]]) is None


def test_actions_without_relation_are_unclear():
    positions, _ = walk(0)
    assert action_evidence([positions], [np.random.default_rng(1).normal(size=positions.shape)]).guess == "unclear"


@pytest.mark.parametrize("seed", range(5))
def test_forms_of_a_rotation_are_told_by_what_actions_turn(seed):
    orientation, turns = turning(seed, start=(2.6, 0.2, 1.0))
    euler, vector = orientation.as_euler("xyz"), orientation.as_rotvec()
    assert rotation_evidence([euler], [turns]).guess == "euler"
    assert rotation_evidence([vector], [turns]).guess == "rotation_vector"
    assert rotation_evidence([orientation.as_quat()]).guess == "quaternion_xyzw"


def test_forms_of_a_rotation_are_told_by_its_jumps():
    """Half a turn about x and a growing one about the vertical: roll jumps past ±π, and so does the vector."""
    path = Rotation.from_rotvec(np.linspace(-0.3, 0.3, 40)[:, None] * (1.0, 0.0, 0.0)) * Rotation.from_euler(
        "xyz", (np.pi, 0.0, 1.0)
    )
    found = rotation_evidence([path.as_euler("xyz")])
    assert found.guess == "euler" and "jump past π" in found.reason


def test_degrees_are_told_by_their_size():
    orientation, _ = turning(1)
    found = rotation_evidence([orientation.as_euler("xyz", degrees=True)])
    assert found.degrees and "so degrees" in found.reason
    assert not rotation_evidence([orientation.as_euler("xyz")]).degrees


def test_small_turns_have_every_form():
    small = np.random.default_rng(0).uniform(-0.05, 0.05, (30, 3))
    assert rotation_evidence([small]).guess == "unclear"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 0.085), (3.0, 226.0)])
def test_a_grippers_ends_and_sense(low, high):
    opening = np.repeat([1.0, 0.0, 1.0], 10)
    values = low + opening * (high - low)
    found = gripper_evidence([values, values], [1.0 - opening, 1.0 - opening])
    assert (found.low, found.high, found.two_valued, found.opens_at_high) == (low, high, True, True)
    assert found.correlation == pytest.approx(-1.0)
    assert not gripper_evidence([low + high - values], []).opens_at_high
    assert gripper_evidence([np.ones(5)], [np.ones(5)]) is None
