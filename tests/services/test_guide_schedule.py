"""These tests check the distribution of draws, the success map, and refusals."""

import json
from collections import Counter
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import InputError
from protos.schema import Configuration, Outcome
from protos.settings import from_json, to_json
from protos.space import Box, ConfigurationSpace
from services.guide.schedule import REMEMBERED_REPORTS, GuideSettings, Schedule

SPACE = ConfigurationSpace(
    manipulated="cube",
    regions={"A": Box(x=(-0.62, -0.48), y=(0.06, 0.20)), "B": Box(x=(-0.62, -0.48), y=(-0.20, -0.06))},
    others={"target": Box(x=(-0.41, -0.37), y=(-0.03, 0.03)), "tool": Box(x=(-0.56, -0.52), y=(0, 0), z=(0.15, 0.17))},
    rows=2,
    columns=2,
)
SCAN = {0: (4, 4), 1: (4, 4), 2: (3, 4), 3: (4, 4), 4: (0, 4), 5: (1, 4), 6: (2, 4), 7: (4, 4)}


def schedule(**settings):
    return Schedule(GuideSettings(space=SPACE, **settings))


def start_in(cell):
    return Configuration(region="A", cell=cell)


def report(guide, configuration, outcome, human_steps):
    """A report of an episode that was not reported before."""
    assert guide.report(configuration, outcome, human_steps, report_id=uuid4().hex)


def test_draws_follow_the_stated_distribution():
    guide = schedule(explore=0.2, tau=0.8, seed=1)
    guide.set_success(SCAN)
    draws = 6000
    counts = Counter(guide.draw()[0].cell for _ in range(draws))
    failure = np.array([0, 0, 0.25, 0, 1.0, 0.75, 0.5, 0])  # 1 - SR of the cells below tau
    expected = draws * (0.2 / 8 + 0.8 * failure / failure.sum())
    observed = np.array([counts[cell] for cell in range(8)])
    chi2 = ((observed - expected) ** 2 / expected).sum()
    assert chi2 < 24.3  # 0.999 quantile of chi-squared with 7 degrees of freedom
    assert observed.sum() == draws


def test_without_exploration_only_target_cells_are_drawn():
    guide = schedule(explore=0.0)
    guide.set_success(SCAN)
    assert {guide.draw()[0].cell for _ in range(300)} == {2, 4, 5, 6}


def test_without_target_cells_draws_are_uniform():
    guide = schedule(explore=0.0)
    guide.set_success(dict.fromkeys(range(8), (4, 4)))
    drawn = [guide.draw() for _ in range(200)]
    assert {configuration.cell for configuration, _ in drawn} == set(range(8))
    assert "no cell is below 0.8" in drawn[0][1]


@pytest.mark.parametrize("outcome", [Outcome.RUNNING, Outcome.STOPPED, Outcome.UNKNOWN])
def test_an_end_that_is_not_known_is_no_report(outcome):
    with pytest.raises(InputError, match=f"outcome '{outcome.value}': report an episode when .* its end is known"):
        schedule().report(start_in(1), outcome, 0, report_id="1")


def test_a_configuration_lies_in_its_cell_and_the_reason_says_why():
    guide = schedule(explore=0.0)
    guide.set_success(dict.fromkeys(range(8), (4, 4)) | {5: (1, 4)})
    report(guide, start_in(5), Outcome.FAILURE, 0)
    configuration, reason = guide.draw()
    assert configuration.region == "B"
    assert set(configuration.poses) == {"cube", "target", "tool"}
    x, y, _, _ = configuration.poses["cube"]
    assert SPACE.cell_of(x, y) == configuration.cell == 5
    assert reason == "cell 5 (region B): twin 1/4, real 0/1; one of 1 cells below 0.8"


def test_real_outcomes_move_the_estimate_and_takeovers_are_failures():
    guide = schedule(twin_weight=4.0)
    guide.set_success({0: (4, 4)})
    assert guide.success_map()[0].rate == 1.0  # the paper's SR_twin while the arm has not been there
    report(guide, start_in(0), Outcome.SUCCESS, 3)
    report(guide, start_in(0), Outcome.TIMEOUT, 0)
    cell = guide.success_map()[0]
    assert (cell.real_successes, cell.real_episodes) == (0, 2)
    assert cell.rate == pytest.approx(4 / 6)
    assert cell.target
    report(guide, start_in(0), Outcome.SUCCESS, 0)
    assert guide.success_map()[0].rate == pytest.approx(5 / 7)
    assert guide.success_map()[1].rate == 0.5  # nobody has been there


def test_where_the_arm_disappoints_the_twins_promises_for_other_cells_are_believed_less():
    guide = schedule(explore=0.0, tau=0.8, gap_weight=4.0)
    guide.set_success(dict.fromkeys(range(8), (4, 4)) | {5: (2, 4)})
    for outcome in [Outcome.TIMEOUT] * 3 + [Outcome.SUCCESS]:
        report(guide, start_in(5), outcome, 0)
    cells = guide.success_map()
    assert cells[5].rate == pytest.approx((4 * 0.5 + 1) / 8), "by its own episodes, which count once"
    assert [cell.rate for cell in cells if cell.cell != 5] == [pytest.approx((4 + 1) / (4 + 4 * 0.5))] * 7
    assert not any(cell.target for cell in cells if cell.cell != 5)
    report(guide, start_in(4), Outcome.TIMEOUT, 0)
    report(guide, start_in(4), Outcome.TIMEOUT, 0)
    assert guide.success_map()[0].rate == pytest.approx((4 + 1) / (4 + 4 * 0.5 + 2))
    assert {guide.draw()[0].cell for _ in range(400)} == set(range(8)), "all of them have to be shown anew"


def test_where_the_arm_does_better_than_the_twin_its_other_cells_stay_targets():
    guide = schedule(tau=0.8)
    guide.set_success(SCAN)
    for _ in range(8):
        report(guide, start_in(4), Outcome.SUCCESS, 0)
    rates = {cell.cell: cell.rate for cell in guide.success_map()}
    assert (rates[5], rates[6], rates[0]) == (0.25, 0.5, 1.0)


def test_old_real_outcomes_are_forgotten():
    guide = schedule(real_window=3)
    for outcome in [Outcome.FAILURE] * 5 + [Outcome.SUCCESS] * 3:
        report(guide, start_in(2), outcome, 0)
    assert (guide.success_map()[2].real_successes, guide.success_map()[2].real_episodes) == (3, 3)


@given(
    st.integers(0, 6).flatmap(lambda rollouts: st.tuples(st.integers(0, rollouts), st.just(rollouts))),
    st.lists(st.sampled_from([Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT]), max_size=12),
)
def test_a_rate_is_a_rate_and_a_success_never_lowers_it(twin, outcomes):
    guide = schedule(real_window=100)
    guide.set_success({1: twin})
    for outcome in outcomes:
        before = guide.success_map()[1].rate
        report(guide, start_in(1), outcome, 0)
        after = guide.success_map()[1].rate
        assert 0.0 <= after <= 1.0
        assert after >= before if outcome is Outcome.SUCCESS else after <= before


def test_a_start_outside_the_grid_is_not_counted():
    guide = schedule()
    report(guide, start_in(-1), Outcome.FAILURE, 0)
    assert all(cell.real_episodes == 0 for cell in guide.success_map())


def test_a_repeated_report_counts_once_also_after_a_restart():
    guide = schedule(real_window=10_000)
    assert guide.report(start_in(3), Outcome.SUCCESS, 0, report_id="one")
    assert not guide.report(start_in(3), Outcome.SUCCESS, 0, report_id="one")
    resumed = schedule(real_window=10_000)
    resumed.restore(json.loads(json.dumps(guide.state())))
    assert not resumed.report(start_in(3), Outcome.SUCCESS, 0, report_id="one")
    assert resumed.success_map()[3].real_episodes == 1
    for n in range(REMEMBERED_REPORTS):
        report(resumed, start_in(3), Outcome.FAILURE, 0)
        assert len(resumed.state()["reported"]) == min(n + 2, REMEMBERED_REPORTS)
    assert resumed.report(start_in(3), Outcome.SUCCESS, 0, report_id="one"), "so old an id is forgotten"


@pytest.mark.parametrize("report_id", ["", "x" * 65])
def test_a_report_needs_a_short_id(report_id):
    guide = schedule()
    with pytest.raises(InputError, match=f"report id of {len(report_id)} characters"):
        guide.report(start_in(3), Outcome.SUCCESS, 0, report_id=report_id)
    assert guide.success_map()[3].real_episodes == 0


def test_state_goes_through_json_and_draws_go_on_as_if_nothing_happened():
    guide = schedule(seed=3)
    guide.set_success(SCAN)
    report(guide, start_in(4), Outcome.SUCCESS, 0)
    guide.draw()
    resumed = schedule(seed=99)
    resumed.restore(json.loads(json.dumps(guide.state())))
    assert resumed.success_map() == guide.success_map()
    assert [resumed.draw() for _ in range(20)] == [guide.draw() for _ in range(20)]


def test_settings_go_through_json():
    settings = GuideSettings(space=SPACE, tau=0.7, explore=0.1, seed=5)
    assert from_json(GuideSettings, json.loads(json.dumps(to_json(settings)))) == settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 1.5}, "tau=1.5"),
        ({"explore": -0.1}, "explore=-0.1"),
        ({"twin_weight": 0.0}, "twin_weight=0.0"),
        ({"gap_weight": 0.0}, "gap_weight=0.0"),
        ({"real_window": 0}, "real_window=0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        schedule(**settings)


def test_unknown_cells_and_impossible_counts_are_refused_and_change_nothing():
    guide = schedule()
    before = guide.success_map()
    for scan in ({0: (1, 1), 8: (1, 1)}, {0: (1, 1), 1: (3, 2)}):
        with pytest.raises(InputError):
            guide.set_success(scan)
    with pytest.raises(InputError, match="cells 0 to 7"):
        report(guide, start_in(8), Outcome.SUCCESS, 0)
    with pytest.raises(InputError, match="when it is over"):
        report(guide, start_in(0), Outcome.RUNNING, 0)
    assert guide.success_map() == before


def test_a_state_of_another_space_is_refused():
    other = ConfigurationSpace(manipulated="cube", regions={"A": SPACE.regions["A"]}, rows=2, columns=4)
    with pytest.raises(InputError, match="another configuration space"):
        schedule().restore(Schedule(GuideSettings(space=other)).state())


def test_draws_stay_in_the_regions_that_are_named():
    for tau in (0.0, 0.8):
        guide = schedule(regions=("B",), tau=tau)
        guide.set_success(SCAN)
        assert {guide.draw()[0].region for _ in range(50)} == {"B"}
    with pytest.raises(InputError, match="'C': choose among A, B"):
        schedule(regions=("B", "C"))
