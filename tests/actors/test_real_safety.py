"""No command gets past the limits."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from standin import BOX, PERIOD_S

from actors.real.arm import ArmSettings
from actors.real.safety import Limits, LimitSettings, angle_between
from protos.errors import ArmStopped, InputError
from protos.proprioception import TOOL_DOWN_VECTOR
from twin.rotations import TOOL_DOWN, YAW_LIMIT_RAD, about_z, heading, matrix_from_vector, vector_from_matrix

SAFETY_PAGE = Path(__file__).resolve().parents[2] / "docs" / "safety.md"


def state(**changes):
    """Returns the state of an arm that is well."""
    rest = {"t": 1.0, "joints": np.zeros(6), "velocity": np.zeros(6), "wrench": np.zeros(6)}
    rest["pose"] = np.array([-0.5, 0.0, 0.1, *TOOL_DOWN_VECTOR])
    return rest | {name: np.array(value, float) for name, value in changes.items()}


def make(**settings):
    return Limits(BOX, LimitSettings(**settings))


def near(limits, reach):
    """Generates positions up to `reach` outside of the work box."""
    return st.tuples(
        *(st.floats(low - reach, high + reach) for low, high in zip(limits.low, limits.high, strict=True))
    ).map(np.array)


turn = arrays(float, 3, elements=st.floats(-4, 4))


def shifted(pose, way, turned):
    """Returns a pose moved by `way` and turned by `turned`, applied on the left, base frame."""
    rotation = matrix_from_vector(turned) @ matrix_from_vector(pose[3:])
    return np.concatenate([pose[:3] + way, vector_from_matrix(rotation)])


@st.composite
def situations(draw):
    limits = make(jump_m=0.5)
    measured = np.concatenate([draw(near(limits, limits.settings.ceiling_m * 0.999)), draw(turn)])
    step = arrays(float, 3, elements=st.floats(-0.2, 0.2))
    commanded = shifted(measured, draw(step), draw(turn))
    return limits, shifted(commanded, draw(step), draw(turn)), commanded, measured


@given(situations())
def test_the_result_is_inside_box_and_ceiling(situation):
    limits, target, commanded, measured = situation
    result = limits.clip(target, commanded=commanded, measured=measured, period_s=PERIOD_S)
    assert limits.outside(result[:3]) <= 1e-12
    assert np.abs(result - measured)[:3].max() <= limits.settings.ceiling_m + 1e-9
    assert angle_between(result, measured) <= limits.settings.ceiling_rad + 1e-6


@given(situations())
def test_clipping_twice_changes_nothing(situation):
    limits, target, commanded, measured = situation
    once = limits.clip(target, commanded=commanded, measured=measured, period_s=PERIOD_S)
    twice = limits.clip(once, commanded=once, measured=measured, period_s=PERIOD_S)
    np.testing.assert_allclose(once[:3], twice[:3], atol=1e-12)
    assert angle_between(once, twice) < 1e-6 or limits.clipped["yaw"]


@given(position=near(make(), 0.0), turned=turn, change=arrays(float, 6, elements=st.floats(-0.5, 0.5)))
def test_the_speed_limit_holds_wherever_nothing_else_pulls_back(position, turned, change):
    limits, commanded = make(jump_m=0.5), np.concatenate([position, turned])
    target = shifted(commanded, change[:3], change[3:])
    result = limits.clip(target, commanded=commanded, measured=commanded, period_s=PERIOD_S)
    assert np.linalg.norm(result[:3] - commanded[:3]) <= limits.settings.speed_m_s * PERIOD_S + 1e-9
    if not limits.clipped["yaw"]:
        assert angle_between(result, commanded) <= limits.settings.speed_rad_s * PERIOD_S + 1e-6


@given(delta=arrays(float, 3, elements=st.floats(-0.03, 0.03)), yaw=st.floats(-2.0, 2.0), turned=st.floats(-0.1, 0.1))
def test_a_full_action_passes_unchanged_and_uncounted(delta, yaw, turned):
    limits = make()
    pose = np.array([-0.5, 0.0, 0.12, *vector_from_matrix(about_z(yaw) @ TOOL_DOWN)])
    target = shifted(pose, delta, [0, 0, turned])
    result = limits.clip(target, commanded=pose, measured=pose, period_s=PERIOD_S)
    np.testing.assert_allclose(result[:3], target[:3], atol=1e-12)
    assert angle_between(result, target) < 1e-6
    assert sum(limits.clipped.values()) == 0


@pytest.mark.parametrize("side", [1, -1])
def test_a_tool_that_is_turned_on_and_on_stays_upright_and_stops_at_the_yaw_limit(side):
    limits, pose = make(), np.array([-0.5, 0.0, 0.12, *TOOL_DOWN_VECTOR])
    for _ in range(40):
        # measured on the other branch of the same rotation
        other = np.concatenate([pose[:3], vector_from_matrix(matrix_from_vector(pose[3:]))])
        pose = limits.clip(shifted(pose, 0, [0, 0, 0.1 * side]), commanded=pose, measured=other, period_s=PERIOD_S)
        assert matrix_from_vector(pose[3:])[2, 2] == pytest.approx(-1.0, abs=1e-9)
    assert heading(matrix_from_vector(pose[3:])) == pytest.approx(side * YAW_LIMIT_RAD)
    assert limits.clipped == {"speed": 0, "ceiling": 0, "box": 0, "yaw": 40 - int(YAW_LIMIT_RAD / 0.1)}


def test_clipped_commands_are_counted_by_name():
    limits = make()
    pose = np.array([-0.5, 0.0, 0.013, 2.2, -2.2, 0.0])
    limits.clip(pose - 0.03 * np.eye(6)[2], commanded=pose, measured=pose, period_s=PERIOD_S)
    limits.clip(pose + 0.09 * np.eye(6)[1], commanded=pose, measured=pose, period_s=PERIOD_S)
    assert limits.clipped == {"box": 1, "speed": 1, "ceiling": 0, "yaw": 0}


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
    why = make().check_measured(**state(joints=joints, wrench=[*force, 0, 0, 0]))
    assert why.startswith(words) and bool(why) == bool(words)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["t", "joints", "pose", "velocity", "wrench"])
def test_what_is_measured_as_no_number_holds_the_arm(name, bad):
    measured = state()
    measured[name] = np.where(np.arange(np.size(measured[name])) == 3, bad, measured[name]) if name != "t" else bad
    assert "finite" in make().check_measured(**measured)


def test_the_tool_far_outside_the_box_holds_the_arm():
    assert "outside" in make().check_measured(**state(pose=[-0.9, 0, 0.1, *TOOL_DOWN_VECTOR]))


def test_an_arm_that_does_not_follow_is_held():
    limits, pose = make(), np.array([-0.5, 0.0, 0.12, *TOOL_DOWN_VECTOR])
    assert limits.check_following(pose, shifted(pose, [0.14, 0, 0], [0, 0, 0.5])) == ""
    assert "16.0 cm from where" in limits.check_following(pose, shifted(pose, [0.16, 0, 0], [0, 0, 0]))
    assert "40 degrees from where" in limits.check_following(pose, shifted(pose, [0, 0, 0], [0, 0, np.radians(40)]))


@pytest.mark.parametrize("name", LimitSettings.BOUNDS)
@pytest.mark.parametrize("wrong", ["below", "above", 0.0, -9.0, float("inf"), float("-inf"), float("nan")])
def test_limits_cannot_be_switched_off(name, wrong):
    low, high = LimitSettings.BOUNDS[name]
    value = {"below": low * 0.99, "above": high * 1.01}.get(wrong, wrong)
    with pytest.raises(InputError, match=name) as caught:
        LimitSettings(**{name: value})
    assert f"{high:g}" in str(caught.value)


def test_every_limit_has_bounds_and_the_order_among_them_holds():
    assert set(LimitSettings.BOUNDS) == {one.name for one in fields(LimitSettings)}
    for wrong in ({"jump_m": 0.05}, {"following_m": 0.1}, {"following_rad": 0.3}):
        with pytest.raises(InputError, match="must be above ceiling"):
            LimitSettings(**wrong)


def test_the_table_of_bounds_is_the_codes():
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| (\S+) \| (\S+) \| (\S+) \|$", SAFETY_PAGE.read_text(), re.MULTILINE)
    kinds = {"limits": LimitSettings, "arm": ArmSettings}
    told = {(kind, name): (value, low, high) for kind, name, value, low, high in rows}
    assert told == {
        (kind, name): (f"{getattr(settings(), name):g}", f"{low:g}", f"{high:g}")
        for kind, settings in kinds.items()
        for name, (low, high) in settings.BOUNDS.items()
    }


@pytest.mark.parametrize("name", ArmSettings.BOUNDS)
@pytest.mark.parametrize("wrong", ["below", "above", -1.0, float("inf"), float("nan")])
def test_no_number_of_the_arm_is_without_bounds(name, wrong):
    low, high = ArmSettings.BOUNDS[name]
    with pytest.raises(InputError, match=name):
        ArmSettings(**{name: {"below": low * 0.99, "above": high * 1.01}.get(wrong, wrong)})
    assert {one.name for one in fields(ArmSettings) if one.type is float or one.type == "float"} == set(
        ArmSettings.BOUNDS
    )
