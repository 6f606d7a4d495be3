"""These tests check the benchmark of identification: what it calls off, and its work in order."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.identify import effect as effects
from benchmarks.identify.run import IdentifyBench, demonstrated, off_mm, run
from benchmarks.method.units import Trial
from protos.errors import InputError
from protos.schema import Outcome
from protos.settings import from_json, save_settings
from twin import labs, tasks
from twin.identify import Identified
from twin.labs import Calibration
from twin.randomize import Domain
from twin.scene import synthetic_scene

TASK = tasks.get("pick_and_place")
SCENE = synthetic_scene(0.05)


def found(calibration):
    return Identified(episodes=1, quantities=(), domain=Domain(), calibration=calibration)


def test_a_camera_is_off_by_what_the_lab_shifts_and_not_once_that_is_found():
    lab = replace(labs.draw_lab(1000, TASK), calibration=Calibration(side_shift_m=(0.003, 0.0, -0.004)))
    assert off_mm(SCENE, lab, None)[0] == pytest.approx(5.0)
    assert off_mm(SCENE, lab, found(lab.calibration)) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_an_arm_off_its_place_is_a_camera_off_in_its_frame():
    lab = replace(labs.draw_lab(1000, TASK), calibration=Calibration(base_shift_m=(0.0, 0.006, 0.0)))
    centre, image = off_mm(SCENE, lab, None)
    assert centre == pytest.approx(6.0) and image == pytest.approx(6.0, rel=0.01)
    assert off_mm(SCENE, lab, found(Calibration(side_shift_m=(0.0, -0.006, 0.0))))[0] == pytest.approx(0.0, abs=1e-6)


def test_a_lab_is_demonstrated_in_one_process():
    (episode,) = demonstrated(SCENE, TASK, labs.draw_lab(1000, TASK), 1)
    assert episode.outcome is Outcome.SUCCESS and episode.configuration.region == "A"
    assert np.ptp(episode.observation.side) > 100


def test_the_table_of_the_effect_has_what_was_tried(tmp_path):
    trial = {"points": [{"steps": 0, "successes": {"A": 7, "B": 5}, "rollouts": 10}]}
    (tmp_path / "results" / TASK.name).mkdir(parents=True)
    save_settings(from_json(Trial, trial), tmp_path / "results" / TASK.name / "lab3-twin_rl-identified.json")
    told = run(
        IdentifyBench(labs=(3,), effect=True, measure=False, folder=tmp_path / "runs", results=tmp_path / "results")
    )
    assert "| 3 | after RL in the twin | – | – | 7 | 5 | 10 |" in told
    assert "| 3 | fine-tuned on A and B | – | – | – | – | – |" in told


def test_both_ways_share_the_arms_demonstrations_and_meet_the_same_starts(tmp_path):
    bench = IdentifyBench(labs=(3,), folder=tmp_path, results=tmp_path, quick=True)
    jobs = effects.jobs_of(bench.method, 3)
    assert list(jobs) == [
        "arm",
        *("scanned-twin", "scanned-sft_ab", "scanned-sft_ab-on-arm", "scanned-twin_rl", "scanned-twin_rl-on-arm"),
        *("identified-twin", "identified-sft_ab", "identified-sft_ab-on-arm"),
        *("identified-twin_rl", "identified-twin_rl-on-arm"),
    ]
    assert [job.unit.settings.identify for job in jobs.values()] == [False] * 6 + [True] * 5
    assert len({job.unit.folder for job in jobs.values()}) == len(jobs)
    assert {job.unit.settings.seed for job in jobs.values()} == {3}


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        IdentifyBench(episodes=0)
    with pytest.raises(InputError, match="different"):
        IdentifyBench(labs=(1, 1))
