"""The numbers of fidelity against hand-computed and independent ones."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from protos.errors import InputError
from twinrl.fidelity.compare import (
    AxisResponse,
    Fidelity,
    StepResponse,
    _kendall,
    _spearman,
    delay_ms,
    image_distance,
    psnr_db,
    rank_agreement,
    step_response,
)
from twinrl.fidelity.measure import counts_by_cell
from twinrl.fidelity.verdict import rows
from twinrl.report.inputs import EpisodeLine

TIMES = np.arange(60)
PUSH = np.cumsum(np.exp(-0.5 * ((TIMES - 15) / 3.0) ** 2)) * 0.01


def counts(*successes, rollouts=5):
    return {cell: (k, rollouts) for cell, k in enumerate(successes)}


def test_ranks_with_ties_by_hand():
    """Ranks 1, 2.5, 2.5, 4 against 1.5, 1.5, 3, 4: Spearman 3.75 / 4.5; Kendall 4 / sqrt(5 · 5)."""
    found = rank_agreement(counts(0, 2, 2, 5), counts(1, 1, 3, 4))
    assert found.spearman == pytest.approx(3.75 / 4.5)
    assert found.kendall == pytest.approx(4 / 5)
    assert (found.cells, found.rollouts) == (4, (20, 20))
    assert found.difference == pytest.approx(0.0)


def test_the_same_order_gives_one_and_the_reverse_minus_one():
    assert rank_agreement(counts(0, 1, 3, 5), counts(1, 2, 4, 5)).spearman == pytest.approx(1)
    found = rank_agreement(counts(0, 1, 3, 5), counts(5, 4, 2, 1))
    assert (found.spearman, found.kendall) == (pytest.approx(-1), pytest.approx(-1))


def test_worlds_without_variation_have_no_order():
    found = rank_agreement(counts(5, 5, 5), counts(1, 2, 3))
    assert found.spearman is found.kendall is found.spearman_interval is None
    assert found.difference == pytest.approx(-0.6)
    assert rank_agreement({}, counts(1, 2)).cells == 0


def test_only_cells_that_both_worlds_tried_count():
    first, second = counts(1, 2, 3) | {7: (5, 5)}, counts(1, 2, 3) | {9: (0, 5), 8: (0, 0)}
    assert rank_agreement(first, second).cells == 3


samples = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12)


@given(samples)
def test_resampled_correlations_are_those_of_scipy(pairs):
    rates = np.array(pairs, float)
    if np.ptp(rates, axis=0).min() == 0:
        assert len(_spearman(rates[None])) == len(_kendall(rates[None])) == 0
        return
    assert _spearman(rates[None])[0] == pytest.approx(spearmanr(*rates.T).statistic, abs=1e-9)
    assert _kendall(rates[None])[0] == pytest.approx(kendalltau(*rates.T).statistic, abs=1e-9)


def test_few_rollouts_lower_the_ceiling_and_widen_the_interval():
    few = rank_agreement(counts(*[0, 1] * 10, rollouts=1), counts(*[0, 1] * 10, rollouts=1))
    rates = np.linspace(0, 1, 20)
    worlds = [[counts(*(rates * n).astype(int), rollouts=n)] * 2 for n in (5, 500)]
    some, many = (rank_agreement(*pair) for pair in worlds)
    assert few.spearman == some.spearman == many.spearman == pytest.approx(1)
    assert some.ceiling < many.ceiling <= 1
    width = [found.spearman_interval[1] - found.spearman_interval[0] for found in (some, many)]
    assert width[0] > 2 * width[1]


def test_episodes_are_counted_by_cell_and_those_outside_left_out():
    def episode(cell, success):
        return EpisodeLine(
            region="A", cell=cell, x=0, y=0, success=success, steps=1, human_steps=0, interventions=0, version=0
        )

    assert counts_by_cell([episode(3, True), episode(3, False), episode(-1, True)]) == {3: (1, 2)}


def test_the_same_pictures_are_infinitely_near():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    found = image_distance(images, images)
    assert (found.psnr_db, found.worst_psnr_db, found.ssim) == (math.inf, math.inf, pytest.approx(1.0))


def test_psnr_of_a_constant_difference_is_that_of_the_formula():
    grey = np.full((2, 16, 16, 3), 100, np.uint8)
    lighter = grey + np.array([1, 10], np.uint8)[:, None, None, None]
    found = image_distance(grey, lighter)
    assert found.worst_psnr_db == pytest.approx(20 * math.log10(255 / 10))
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / 50.5))
    assert psnr_db(255.0**2) == pytest.approx(0.0)


def test_ssim_sees_structure_that_psnr_does_not():
    """The same squared error as an offset and as noise."""
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.linspace(60, 180, 32)[:, None], 32, 1)[None, ..., None].repeat(3, -1).astype(np.uint8)
    noisy = (smooth + rng.choice([-8, 8], smooth.shape)).astype(np.uint8)
    offset, noise = image_distance(smooth, smooth + np.uint8(8)), image_distance(smooth, noisy)
    assert offset.psnr_db == pytest.approx(noise.psnr_db)
    assert offset.ssim > 0.95 > noise.ssim + 0.2


def test_pictures_of_other_sizes_are_refused():
    with pytest.raises(InputError, match="shapes"):
        image_distance(np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("steps", [-3, -1, 0, 1, 2, 5])
def test_a_known_delay_of_whole_steps_is_found(steps):
    assert delay_ms(PUSH, np.interp(TIMES - steps, TIMES, PUSH)) == pytest.approx(100 * steps, abs=1)


@given(st.floats(-4, 4), st.floats(0.5, 1.5))
def test_a_delay_between_steps_is_found_whatever_the_gain(steps, gain):
    fine = np.arange(0, 60, 0.01)
    late = np.interp(TIMES - steps, fine, np.interp(fine, TIMES, PUSH))
    assert delay_ms(PUSH, gain * late) == pytest.approx(100 * steps, abs=8)


def test_distance_delay_and_gain_of_paths_by_hand():
    first = np.stack([PUSH, 0 * PUSH, 0 * PUSH], 1)
    second = np.stack([0.85 * np.interp(TIMES - 1, TIMES, PUSH), 0 * PUSH + 0.003, 0 * PUSH], 1)
    found = step_response([first, first], [second, second])
    apart = np.sqrt(((first - second) ** 2).sum(1).mean()) * 1000
    assert found.rms_mm == pytest.approx(apart)
    assert found.axes["y"].rms_mm == pytest.approx(3.0)
    assert found.axes["x"].delay_ms == pytest.approx(100, abs=1)
    assert found.axes["x"].gain == pytest.approx(0.85)
    assert found.axes["y"].delay_ms is found.axes["z"].gain is None
    with pytest.raises(InputError, match="as many, as long"):
        step_response([first], [second[:-1]])


def test_verdicts_follow_the_limits():
    alike, other = np.zeros((1, 16, 16, 3), np.uint8), np.full((1, 16, 16, 3), 80, np.uint8)
    still = np.zeros((5, 3))
    fidelity = Fidelity(
        first="twin",
        second="arm",
        success=rank_agreement(counts(*range(21), rollouts=20), counts(*range(21), rollouts=20)),
        images={"side": image_distance(alike, alike), "wrist": image_distance(alike, other)},
        response=step_response([still], [np.add(still, (0.015, 0, 0))]),
    )
    told = {row.what: row for row in rows(fidelity)}
    assert told["success by cell, Spearman"].verdict == "good"
    assert told["side camera, same joints and bodies"].verdict == "good"
    assert told["wrist camera, same joints and bodies"].verdict == "poor"
    assert told["same actions, distance of the tools"].verdict == "fair"
    assert told["along x"].note == "hardly moved"
    reverse = rank_agreement(counts(*range(21), rollouts=20), counts(*range(20, -1, -1), rollouts=20))
    assert rows(Fidelity(first="a", second="b", success=reverse))[0].verdict == "poor"


@pytest.mark.parametrize(
    ("later_ms", "steps", "setting"),
    [(130, (0, 1), "1 2"), (170, (0, 1), "2 3"), (-100, (1, 2), "0 1")],
)
def test_a_late_arm_names_the_setting_that_makes_the_twin_as_late(later_ms, steps, setting):
    axes = {name: AxisResponse(rms_mm=9, delay_ms=later_ms + off, gain=0.9) for name, off in {"x": -9, "y": 9}.items()}
    axes["z"] = AxisResponse(rms_mm=1, delay_ms=None, gain=None)
    response = StepResponse(sequences=3, rms_mm=9, axes=axes)
    told = rows(Fidelity(first="twin", second="arm", response=response, latency_steps=steps))[-1]
    assert (told.what, told.value) == ("latency that would match", f"--twin.latency-steps {setting}")
    assert " or ".join(map(str, steps)) in told.note


def test_an_arm_as_late_as_the_twin_needs_no_setting():
    axis = AxisResponse(rms_mm=3, delay_ms=40.0, gain=0.95)
    response = StepResponse(sequences=3, rms_mm=3, axes=dict.fromkeys("xyz", axis))
    for steps in ((0, 1), ()):
        told = rows(Fidelity(first="twin", second="arm", response=response, latency_steps=steps))
        assert "latency that would match" not in {row.what for row in told}
