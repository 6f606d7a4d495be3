"""The benchmark of the arm's limits through the driver's process and ur_rtde: what arrives keeps to its bounds."""

import numpy as np
import pytest

from benchmarks.limits.extremes import Extremes, Target
from benchmarks.limits.run import LimitsBench, check, measure_over_rtde, report

pytest.importorskip("rtde_control")


def test_targets_that_arrive_late_and_in_bunches_keep_to_the_limits():
    outcome = measure_over_rtde(LimitsBench(case="over-rtde", actions=200, seed=3))
    check(outcome)
    assert outcome.actions == 200 and outcome.extremes.pairs > 300
    assert "protective stops | 0" in report(outcome)


def test_a_pair_that_is_too_fast_is_told():
    poses = np.zeros((2, 6))
    poses[1, 0] = 0.02
    stream = [Target(1.0 + 0.02 * k, 0.02, pose, np.zeros(6)) for k, pose in enumerate(poses)]
    for delayed in (False, True):
        found = Extremes()
        found.add(stream, -np.ones(3), np.ones(3), 0.02, delayed=delayed)
        assert found.speed_m_s == pytest.approx(1.0)
