"""No command gets past the limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actors.real.safety import Limits, LimitSettings
from protos.errors import ArmStopped, InputError
from protos.space import Box

BOX = Box(x=(-0.70, -0.30), y=(-0.28, 0.28), z=(0.012, 0.24))
PERIOD_S = 0.1


def make(**settings):
    return Limits(BOX, LimitSettings(**settings))


def near(limits, reach):
    """Generates positions up to `reach` outside of the work box."""
    return st.tuples(
        *(st.floats(low - reach, high + reach) for low, high in zip(limits.low, limits.high, strict=True))
    ).map(np.array)


turn = arrays(float, 3, elements=st.floats(-4, 4))


@st.composite
def situations(draw):
    limits = make(jump_m=10.0)
    measured = np.concatenate([draw(near(limits, limits.settings.ceiling_m * 0.999)), draw(turn)])
    commanded = np.concatenate([draw(near(limits, 0.2)), draw(turn)])
    target = commanded + draw(arrays(float, 6, elements=st.floats(-0.5, 0.5)))
    return limits, target, commanded, measured


@given(situations())
def test_the_result_is_inside_box_and_ceiling(situation):
    limits, target, commanded, measured = situation
    result = limits.clip(target, commanded=commanded, measured=measured, period_s=PERIOD_S)
    assert limits.outside(result[:3]) <= 1e-12
    assert np.abs(result - measured)[:3].max() <= limits.settings.ceiling_m + 1e-9
    assert np.abs(result - measured)[3:].max() <= limits.settings.ceiling_rad + 1e-9


@given(situations())
def test_clipping_twice_changes_nothing(situation):
    limits, target, commanded, measured = situation
    once = limits.clip(target, commanded=commanded, measured=measured, period_s=PERIOD_S)
    twice = limits.clip(once, commanded=once, measured=measured, period_s=PERIOD_S)
    np.testing.assert_allclose(once, twice, atol=1e-12)


@given(position=near(make(), 0.0), turned=turn, change=arrays(float, 6, elements=st.floats(-0.5, 0.5)))
def test_the_speed_limit_holds_wherever_nothing_else_pulls_back(position, turned, change):
    limits, commanded = make(jump_m=10.0), np.concatenate([position, turned])
    target = commanded + change
    result = limits.clip(target, commanded=commanded, measured=commanded, period_s=PERIOD_S)
    assert np.linalg.norm(result[:3] - commanded[:3]) <= limits.settings.speed_m_s * PERIOD_S + 1e-9
    assert np.linalg.norm(result[3:] - commanded[3:]) <= limits.settings.speed_rad_s * PERIOD_S + 1e-9


@given(delta=arrays(float, 3, elements=st.floats(-0.03, 0.03)))
def test_a_harmless_command_passes_unchanged(delta):
    limits = make()
    pose = np.array([-0.5, 0.0, 0.12, 2.2, -2.2, 0.0])
    target = pose + np.concatenate([delta, np.zeros(3)])
    np.testing.assert_array_equal(
        limits.clip(target, commanded=pose, measured=pose, period_s=PERIOD_S).round(12), target.round(12)
    )
    assert sum(limits.clipped.values()) == 0


def test_clipped_commands_are_counted_by_name():
    limits = make()
    pose = np.array([-0.5, 0.0, 0.013, 2.2, -2.2, 0.0])
    limits.clip(pose - 0.03 * np.eye(6)[2], commanded=pose, measured=pose, period_s=PERIOD_S)
    limits.clip(pose + 0.09 * np.eye(6)[1], commanded=pose, measured=pose, period_s=PERIOD_S)
    assert limits.clipped == {"box": 1, "speed": 1, "ceiling": 0}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(6))
def test_what_is_not_finite_is_refused(bad, place):
    pose = np.array([-0.5, 0.0, 0.12, 2.2, -2.2, 0.0])
    target = pose.copy()
    target[place] = bad
    with pytest.raises(InputError, match="finite"):
        make().clip(target, commanded=pose, measured=pose, period_s=PERIOD_S)


def test_a_jump_is_refused_not_clipped():
    pose = np.array([-0.5, 0.0, 0.12, 2.2, -2.2, 0.0])
    millimetres = pose * [1000, 1000, 1000, 1, 1, 1]
    with pytest.raises(ArmStopped, match="refused a target"):
        make().clip(millimetres, commanded=pose, measured=pose, period_s=PERIOD_S)


def test_a_tool_outside_the_box_is_not_commanded():
    pose = np.array([-0.5, 0.0, 0.5, 2.2, -2.2, 0.0])
    with pytest.raises(ArmStopped, match=r"26\.0 cm outside the work box"):
        make().clip(pose, commanded=pose, measured=pose, period_s=PERIOD_S)


@pytest.mark.parametrize(
    ("joints", "force", "words"),
    [
        ([0] * 6, [0, 0, 90], "force at the TCP 90 N"),
        ([0, 0, 0, 0, 0, 6.25], [0, 0, 0], "joint 6 at 358 degrees"),
        ([0] * 6, [0, 0, 10], ""),
    ],
)
def test_what_holds_the_arm(joints, force, words):
    why = make().check_measured(np.array([-0.5, 0, 0.1]), np.array(joints, float), np.array(force, float))
    assert why.startswith(words) and bool(why) == bool(words)


def test_the_tool_far_outside_the_box_holds_the_arm():
    assert "outside" in make().check_measured(np.array([-0.9, 0, 0.1]), np.zeros(6), np.zeros(3))


@pytest.mark.parametrize(
    "wrong", [{"ceiling_m": 0.0}, {"speed_m_s": -1.0}, {"force_n": float("nan")}, {"jump_m": 0.05}]
)
def test_limits_cannot_be_switched_off(wrong):
    with pytest.raises(InputError):
        LimitSettings(**wrong)
