"""These tests check the measures of a practice by hand-counted episodes, and the comparison's arms and tables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.method.arms import ARMS
from benchmarks.method.measures import CONVERGED_EPISODES, Point, area, converged_at, dip, median_interval, practice
from benchmarks.method.run import MethodBench, plan
from benchmarks.method.tables import start_key, tables
from benchmarks.method.units import Trial, starts
from protos.errors import InputError
from protos.settings import from_json, to_json


def episodes(text):
    """Lines of a practice: s success alone, h success with help, f failure alone; 20 steps and 3 s each."""
    return [
        {
            "success": each in "sh",
            "human_steps": 5 if each == "h" else 0,
            "total_steps": 20 * (place + 1),
            "robot_s": 3.0 * (place + 1),
        }
        for place, each in enumerate(text)
    ]


def test_a_practice_converges_with_ten_successes_in_a_row_without_help():
    found = practice(episodes("ffh" + "s" * 9 + "h" + "s" * 10 + "fh"))
    assert (found.converged_steps, found.converged_min) == (23 * 20, 23 * 3.0 / 60)
    assert (found.episodes, found.steps, found.helped, found.helped_until) == (25, 500, 3, 2)
    assert found.human_steps == 15 and found.robot_min == 25 * 3.0 / 60


def test_a_practice_that_never_converges_says_so():
    found = practice(episodes("sssssssssf" * 3 + "h"))
    assert found.converged_steps is None and found.converged_min is None
    assert found.helped_until == found.helped == 1
    assert practice([]).episodes == 0


@given(st.text("shf", max_size=60))
def test_the_first_run_counts(text):
    place = text.find("s" * CONVERGED_EPISODES)
    assert converged_at(episodes(text)) == (None if place < 0 else place + CONVERGED_EPISODES - 1)


def point(steps, a, b):
    return Point(steps=steps, successes={"A": a, "B": b}, rollouts=10)


def test_dip_and_area_of_a_curve():
    curve = [point(0, 8, 4), point(1000, 4, 4), point(3000, 10, 10)]
    assert dip(curve) == pytest.approx(0.2)
    assert dip(curve[1:]) == 0.0
    assert area(curve) == pytest.approx((0.5 * 1000 + 0.7 * 2000) / 3000)
    assert area(curve, "B") == pytest.approx((0.4 * 1000 + 0.7 * 2000) / 3000)
    assert area(curve[:1]) == pytest.approx(0.6)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9))
def test_a_median_lies_in_its_interval(values):
    middle, low, high = median_interval(values)
    assert min(values) <= low <= middle <= high <= max(values)


def test_what_was_never_reached_counts_as_infinite():
    middle, low, high = median_interval([100.0, math.inf, math.inf, math.inf, math.inf])
    assert math.isinf(middle) and math.isinf(high) and low >= 100.0


def test_arms_do_without_what_their_names_say():
    real_rl = plan(MethodBench(), 0).real_rl
    plans = {name: arm.plan(real_rl) for name, arm in ARMS.items()}
    assert plans["twinrl"] == real_rl
    assert plans["unguided"].scan.actors == 0 and plans["unguided"].tau == 0 and plans["unguided"].twin_share > 0
    assert plans["no_twin_buffer"].twin_share == 0 and plans["no_twin_buffer"].tau == real_rl.tau
    assert plans["autonomous"].operator == "none" and plans["autonomous"].regions == ("B",)
    for name in ("no_twin", "no_fine_tuning", "autonomous"):
        assert (plans[name].tau, plans[name].twin_share, plans[name].seed_twin_episodes) == (0, 0, 0)
    budgets = {(each.env_steps, each.utd, each.explore, each.eta) for each in plans.values()}
    assert len(budgets) == 1


def test_arms_of_a_lab_share_their_stages(tmp_path):
    settings = MethodBench(folder=tmp_path, quick=True)
    of_lab = plan(settings, 7)
    assert of_lab.lab == "7" and of_lab.seed == 7
    common = starts(of_lab, None)
    assert common.needed("twin_rl")[:2] == common.shown
    assert common.needed("sft_a")[0] == common.shown[0]
    folders = [unit.folder for name in common.policies for unit in common.needed(name)]
    assert len(set(folders)) == 6


def test_tables_show_what_is_there():
    found = {
        (start_key("twin_rl"), 3): Trial(points=(point(0, 8, 5),)),
        ("twinrl", 3): Trial(practice=practice(episodes("h" + "s" * 12)), points=(point(240, 10, 9),)),
    }
    found = {key: from_json(Trial, to_json(each), "trial") for key, each in found.items()}
    text = tables("pick_and_place", (3, 4), ("twinrl", "no_twin"), found)
    row = next(line for line in text.splitlines() if line.startswith("| TwinRL | 1 |"))
    assert "1 of 1" in row and "220 (220 – 220)" in row and "80 (80 – 80) / 50 (50 – 50)" in row
    assert "| without twin (ConRFT) | 0 |" in text
    assert "0: 8 / 5, 240: 10 / 9" in text


def test_refusals():
    with pytest.raises(InputError, match="labs"):
        MethodBench(labs=(1, 1))
    with pytest.raises(InputError, match="env_steps=0"):
        MethodBench(env_steps=0)
