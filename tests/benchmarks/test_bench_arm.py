"""The benchmark of the arm's stops: a fault strikes a program that moves the stand-in, measured at its controller."""

import pytest

from benchmarks.arm.run import FAULTS, ArmBench, run
from benchmarks.arm.starts import StartsBench
from protos.errors import InputError

pytest.importorskip("rtde_control")


def test_a_killed_program_is_one_line_of_the_table():
    table = run(ArmBench(only=("program killed",)))
    _, _, row, *_ = table.splitlines()
    name, after_s, furthest_mm, _, goes_on = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "program killed" and goes_on == "restart (exit status -9)"
    assert float(after_s) >= 0 and float(furthest_mm) >= 0


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (ArmBench, {"only": ("earthquake",)}, next(iter(FAULTS))),
        (ArmBench, {"rounds": 0}, "at least 1"),
        (StartsBench, {"starts": 0}, "at least 1"),
        (StartsBench, {"within_s": 0.0}, "within_s"),
    ],
)
def test_settings_are_checked(kind, wrong, words):
    with pytest.raises(InputError, match=words):
        kind(**wrong)
