"""The benchmark of the arm's stops: a fault strikes a program that moves the stand-in, measured at its controller."""

import pytest

from benchmarks.arm.run import FAULTS, ArmBench, run
from benchmarks.arm.starts import StartsBench
from benchmarks.arm.step import StepBench
from benchmarks.arm.step import run as measure_steps
from protos.errors import InputError

pytest.importorskip("rtde_control")


def test_a_killed_program_is_one_line_of_the_table():
    table = run(ArmBench(only=("program killed",)))
    _, _, row, *_ = table.splitlines()
    name, after_s, furthest_mm, _, goes_on = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "program killed" and goes_on == "restart (exit status -9)"
    assert float(after_s) >= 0 and float(furthest_mm) >= 0


def test_a_step_costs_something_in_every_process():
    own, inside = measure_steps(StepBench(steps=20, rounds=1)).splitlines()[2:4]
    name, standin, driver, program, *_ = (cell.strip() for cell in own.strip("|").split("|"))
    assert name == "driver in its own process" and min(map(float, (standin, driver, program))) > 0
    assert float(inside.split("|")[3]) == 0


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (ArmBench, {"only": ("earthquake",)}, next(iter(FAULTS))),
        (ArmBench, {"rounds": 0}, "at least 1"),
        (StartsBench, {"starts": 0}, "at least 1"),
        (StartsBench, {"within_s": 0.0}, "within_s"),
        (StepBench, {"steps": 0}, "at least 1"),
    ],
)
def test_settings_are_checked(kind, wrong, words):
    with pytest.raises(InputError, match=words):
        kind(**wrong)
