"""This module runs every example as a newcomer would, and checks what it prints."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {
    "gymnasium_twin": r"succeeded after \d+ steps; twin.png shows the end\nrewards of 8 twins",
    "own_task": r"(19|20) of 20 episodes succeeded",
    "own_policy": r"(1[5-9]|20) of 20 episodes succeeded",
    "read_replay": r"'demo': \d+(.|\n)*region A, success, return 1, (.|\n)*region B, success",
    "learner_update": r"rlds dataset of 4 episodes\npolicy of [\d,]+ parameters\nupdates 1 to 10: loss",
}
"""Regular expression of every example's output."""


@pytest.fixture
def run(tmp_path):
    """A function that runs an example in a folder of its own, with the checkout on the import path."""

    def start(example: Path) -> str:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, str(example)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_says_what_it_found(example, run, tmp_path):
    said = run(example)
    assert re.search(SAYS[example.stem], said), said
    assert (tmp_path / "twin.png").exists() == (example.stem == "gymnasium_twin")
    if example.stem == "learner_update":
        losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", said)]
        assert len(losses) == 3 and losses[-1] < losses[0]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_shows(example):
    lines = example.read_text().splitlines()
    assert len(lines) <= 60 and lines[0].startswith('"""This example ')
