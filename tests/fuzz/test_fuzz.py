"""These tests damage the input of every reader of files, with a fixed seed; `run.py` beside them goes on for longer."""

from pathlib import Path

import pytest
from run import Fuzz, fuzz
from targets import TARGETS, Target
from worker import case, files_in, outcome, write

CASES = 60


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_is_read_or_refused_in_one_line(tmp_path, name):
    target = TARGETS[name]
    (tmp_path / "whole").mkdir()
    target.make(tmp_path / "whole")
    whole = files_in(tmp_path / "whole")
    assert outcome(target, tmp_path / "whole") == "read"
    found = {}
    for number in range(CASES):
        write(tmp_path / "case", case(target, whole, 1, number))
        found[number] = outcome(target, tmp_path / "case")
    assert {number: text for number, text in found.items() if text not in ("read", "refused")} == {}
    assert "refused" in found.values() or name in LENIENT


LENIENT = {"json-lines", "spool"}
"""Readers that leave damage out with a warning."""


def test_what_is_neither_read_nor_refused_is_a_fault(tmp_path):
    def read(folder: Path) -> None:
        raise ValueError("an error of nobody's")

    assert "ValueError: an error of nobody's" in outcome(Target(make=Path.mkdir, read=read), tmp_path)


def test_the_long_command_counts_cases(tmp_path):
    found = fuzz("json-lines", Fuzz(cases=20, first=3))
    assert found.cases == 20 and found.faults == {} and found.peak_mib > 0


def test_a_worker_that_dies_or_hangs_is_a_fault_and_the_others_go_on(tmp_path, monkeypatch):
    """The worker is a program that prints what a real one does."""
    (tmp_path / "worker.py").write_text(
        "import os, sys, time\n"
        "for number in range(int(sys.argv[3]), int(sys.argv[4])):\n"
        "    print(number, flush=True)\n"
        "    if number == 1: os.abort()\n"
        "    if number == 3: time.sleep(60)\n"
    )
    monkeypatch.setattr("run.HERE", tmp_path)
    found = fuzz("json-lines", Fuzz(cases=5, hang_s=5.0))
    assert sorted(found.faults) == [1, 3]
    assert "ended with -6" in found.faults[1] and "hang" in found.faults[3]
