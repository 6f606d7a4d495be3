"""Progress as a person or a log file sees it."""

import io
import time

import pytest
from rich.console import Console

from protos.status import duration
from twinrl.run.progress import REFRESH_HZ, Progress, rate


def plain():
    return Console(file=io.StringIO(), width=120)


@pytest.mark.parametrize(("seconds", "text"), [(7.2, "0:07"), (760, "12:40"), (3723, "1:02:03"), (59.6, "1:00")])
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("done", "elapsed_s", "text"),
    [(16000, 80, "200 steps/s"), (30, 10, "3.0 steps/s"), (5, 42, "8.4 s/step"), (0, 3, ""), (3, 0, "")],
)
def test_rates(done, elapsed_s, text):
    assert rate(done, elapsed_s, "steps") == text


def test_a_log_file_gets_one_line_at_the_start_and_one_at_the_end():
    console = plain()
    with Progress(["scan", "twin RL"], console=console) as progress:
        progress.skip("scan", "done in an earlier run")
        with progress.stage("twin RL", total=100, unit="steps") as stage:
            for done in range(101):
                stage.update(done, success=done / 100)
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["-", "[1/2]", "scan", "done", "in", "an", "earlier", "run"]
    assert lines[1] == "[2/2] twin RL started"
    assert lines[2].startswith("✓ [2/2] twin RL  100 steps  0:00")
    assert lines[2].endswith("success 1")
    assert len(lines) == 3


def test_a_stage_that_raises_says_where_it_stopped():
    console = plain()
    with (
        pytest.raises(KeyboardInterrupt),
        Progress(["SFT"], console=console) as progress,
        progress.stage("SFT", total=800, unit="updates") as stage,
    ):
        stage.update(120)
        raise KeyboardInterrupt
    assert "✗ [1/1] SFT  stopped at 120 / 800 updates" in console.file.getvalue()


def test_time_left_needs_a_hundredth_done():
    with Progress(["SFT"], console=plain()) as progress, progress.stage("SFT", total=800) as stage:
        stage.update(7)
        assert stage.left_s is None
        stage.update(400)
        before, left_s, after = stage.elapsed_s, stage.left_s, stage.elapsed_s
        assert 0.99 * before <= left_s <= 1.01 * after


def test_a_terminal_shows_a_live_bar_and_brackets_as_they_are():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Progress(["scan"], console=console) as progress, progress.stage("scan", total=24, unit="views") as stage:
        stage.update(12)
        progress.say("saved [24 views]")
    text = console.file.getvalue()
    assert "━" in text
    assert "saved [24 views]" in text


def test_a_quiet_stage_leaves_the_terminal_to_a_person():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with Progress(["real RL"], console=console) as progress:
        with progress.stage("real RL", total=24, quiet=True) as stage:
            before = console.file.getvalue()
            stage.update(12)
            time.sleep(2.5 / REFRESH_HZ)
            assert console.file.getvalue() == before and "[1/1] real RL started" in before
        with progress.stage("real RL", total=24) as stage:
            stage.update(12)
    assert "━" in console.file.getvalue().removeprefix(before)
