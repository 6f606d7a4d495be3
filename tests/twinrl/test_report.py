"""The report from a made-up run folder: complete, half finished, damaged."""

import json
import math
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from protos.errors import InputError
from twin import tasks
from twinrl.report.inputs import EVALUATIONS, Rate, moving_mean
from twinrl.report.page import percent, write_report

SPACE = tasks.get("pick_and_place").space
SUCCESS = {
    "sft_a_twin": {"A": 0.8, "B": 0.0},
    "sft_ab_twin": {"A": 0.9, "B": 0.8},
    "twin_rl_twin": {"A": 1.0, "B": 0.95},
    "before_standin": {"A": 0.8, "B": 0.6},
    "after_standin": {"A": 0.95, "B": 0.9},
}


def lines(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def image(path, value):
    """A grey 8 x 8 PNG."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + bytes([value]) * 8 for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def episode(rng, configuration, success, **more):
    x, y = configuration.poses[SPACE.manipulated][:2]
    return {
        "region": configuration.region,
        "cell": configuration.cell,
        "x": x,
        "y": y,
        "outcome": "success" if success else "timeout",
        "success": bool(success),
        "steps": int(rng.integers(20, 60)),
        "human_steps": 0,
        "interventions": 0,
        "version": 3,
    } | more


def synthetic_run(folder):
    rng = np.random.default_rng(0)
    for name, shares in SUCCESS.items():
        starts = [start for region in shares for start in SPACE.spread(rng, region=region, rollouts=40)]
        lines(
            folder / "eval" / f"{name}.jsonl",
            [episode(rng, start, rng.random() < shares[start.region]) for start in starts],
        )
    real, total = [], 0
    for index in range(70):
        took_over = rng.random() < 0.5 - index / 140
        entry = episode(rng, SPACE.sample(rng), took_over or rng.random() < 0.5 + index / 140)
        entry |= {"human_steps": 9 if took_over else 0, "interventions": int(took_over), "version": 1 + index // 4}
        total += entry["steps"]
        real.append(entry | {"t": 1.7e9 + total / 50, "robot_s": total / 10, "total_steps": total})
    lines(folder / "real_rl" / "episodes.jsonl", real)
    targets = [
        {
            "t": entry["t"],
            "version": entry["version"],
            "scans": 3 * index,
            "episodes": index,
            "regions": {name: {"cells": 20, "targets": 20 - index // 4, "success": index / 70} for name in "AB"},
        }
        for index, entry in enumerate(real)
    ]
    lines(folder / "guide" / "targets.jsonl", targets)
    for stage in ("sft_a", "sft_ab"):
        lines(
            folder / stage / "metrics.jsonl",
            [
                {"t": 1.7e9 + i, "stage": stage, "step": i, "total": 850, "bc_loss": 2 * math.exp(-i / 300), "lr": None}
                for i in range(0, 851, 10)
            ],
        )
    run_lines = [
        {"stage": "twin_rl", "step": i, "total": 4000, "success": 0.6 + i / 11000} for i in range(0, 4001, 200)
    ]
    beside = {"stage": "beside_arm", "total": 0, "transitions_per_s": 41.5, "scans_per_min": 30.0}
    run_lines += [beside | {"t": entry["t"], "step": 60 * i, "scans": i} for i, entry in enumerate(real[::5])]
    lines(folder / "metrics.jsonl", run_lines)
    for stage in ("twin_rl", "real_rl"):
        lines(
            folder / stage / "metrics.jsonl",
            [
                {
                    "t": 1.7e9 + i,
                    "stage": stage,
                    "step": i,
                    "total": 4000,
                    "updates": i / 4,
                    "critic_loss": 1 / (1 + i / 500) + 0.05 * rng.random(),
                    "bc_loss": 0.4,
                    "sample_age": 12 + i / 100,
                    "sample_age_p95": 30 + i / 60,
                }
                for i in range(0, 4001, 20)
            ],
        )
    stages = [
        ("scan", 41, 60, "views", 24),
        ("demonstrations", 9, 12, "episodes", 90),
        ("SFT", 66, 120, "updates", 1700),
    ]
    stages += [("twin RL", 110, 210, "steps", 16000), ("real RL", 60, 90, "steps", 2000), ("report", 2, 2, "", None)]
    keys = ("stage", "wall_s", "cpu_s", "unit", "count")
    lines(folder / "stages.jsonl", [dict(zip(keys, stage, strict=True)) for stage in stages])
    row = {"what": "success by cell, Spearman", "value": "0.81", "verdict": "good", "note": "40 cells"}
    told = {"second": "arm", "policy": "after twin RL", "rows": [row]}
    (folder / "fidelity.json").write_text(json.dumps(told))
    lab = {"name": "7", "drive": {"servo_delay_s": 0.123}, "surroundings": {"shadows": [{}, {}], "things": []}}
    (folder / "lab.json").write_text(json.dumps(lab))
    scan = {"photos": 24, "registered": 24, "reprojection_px": 0.61, "held_out_psnr_db": 31.2}
    (folder / "scene").mkdir()
    (folder / "scene" / "report.json").write_text(
        json.dumps(scan | {"scale_spread_percent": None, "seconds": {"sfm": 12.5}, "held_out": ["a", "b"]})
    )
    settings = {"seed": 2, "twin_rl": {"env_steps": 16000, "actors": 2}, "capture": "photos <of a> table & chair"}
    (folder / "settings.json").write_text(json.dumps(settings))
    for index, name in enumerate(("twin_side", "twin_wrist", "standin_side", "standin_wrist")):
        image(folder / "images" / f"{name}.png", 50 * index + 60)
    return folder


class Page(HTMLParser):
    """Collects the text, the tags and every outside reference."""

    def __init__(self, path):
        super().__init__()
        self.text, self.tags, self.outside, self.open = "", [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "path", "use", "rect", "br"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not (value.startswith(("#", "data:"))):
                self.outside.append(value)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.text += data + " "


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = synthetic_run(tmp_path_factory.mktemp("runs") / "demo")
    return Page(write_report(folder))


def test_counts_rates_and_intervals_stand_in_the_table(page):
    text = " ".join(page.text.split())
    assert "SFT on demonstrations in A only" in text
    assert re.search(r"SFT on demonstrations in A only twin A \d+ of 40 \d+ % \d+–\d+ %", text)
    assert "B 0 of 40 0 % 0–9 %" in text


def test_every_part_is_there_and_nothing_is_missing(page):
    assert "Not in this run" not in page.text
    assert page.tags.count("img") == 4
    # maps, real curves, S_target, SFT + twin RL + real RL metrics that changed, ages
    assert page.tags.count("svg") == 5 + 2 + 1 + (1 + 2 + 1) + 2
    assert page.text.count("Did not change: bc loss 0.4.") == 2
    for words in ("scripted operator", "Twin, side camera", "photos registered", "16,000 steps", "twin_rl.env_steps"):
        assert words in page.text, words


def test_the_target_set_is_shown_over_robot_time(page):
    assert "Beside the arm the twins collected 780 transitions and tried 13 starts" in page.text
    for words in ("cells in S_target", "that the guide's map expects", "scan results per minute", "twin transitions"):
        assert words in page.text, words


def test_a_run_whose_guide_kept_nothing_says_so(tmp_path):
    folder = synthetic_run(tmp_path / "demo")
    (folder / "guide" / "targets.jsonl").unlink()
    text = Page(write_report(folder)).text
    assert "The guide kept nothing" in text and "guide/targets.jsonl" in text.split("Sections that need")[0]


def test_the_page_needs_nothing_else(page):
    assert page.outside == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.open == []


def test_text_from_settings_is_escaped(page):
    assert "photos <of a> table & chair" in page.text


def test_no_placeholder_colour_is_left(page, tmp_path):
    html = write_report(synthetic_run(tmp_path / "demo")).read_text()
    assert not re.search(r"#0[123]0[123]0[123]|#0a000\d", html)
    assert html.count("var(--series-1)") > 5


@pytest.mark.parametrize(
    "kept", [[], ["settings.json"], ["eval/sft_a_twin.jsonl"], ["sft_a/metrics.jsonl", "stages.jsonl"]]
)
def test_what_is_missing_is_named_and_never_fatal(tmp_path, kept):
    whole, part = synthetic_run(tmp_path / "whole"), tmp_path / "part"
    part.mkdir()
    for name in kept:
        (part / name).parent.mkdir(exist_ok=True)
        (part / name).write_bytes((whole / name).read_bytes())
    text = Page(write_report(part)).text
    assert "Not in this run" in text
    listed = text.split("Not in this run:")[1].split("Sections that need")[0]
    assert "real_rl/episodes.jsonl" in listed
    for name in kept:
        assert name not in listed


def test_half_written_lines_and_nulls_are_left_out(tmp_path):
    folder = synthetic_run(tmp_path / "demo")
    for name in ("eval/sft_a_twin.jsonl", "real_rl/episodes.jsonl", "sft_a/metrics.jsonl"):
        path = folder / name
        path.write_text(path.read_text() + '{"region": "A", "ce')
    assert "of 40" in Page(write_report(folder)).text


def test_an_episode_with_help_in_an_evaluation_is_marked(tmp_path):
    folder = synthetic_run(tmp_path / "demo")
    path = folder / "eval" / "after_standin.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    entries[0] |= {"human_steps": 4, "interventions": 1}
    lines(path, entries)
    assert "The operator acted in 1 of these episodes" in " ".join(Page(write_report(folder)).text.split())


def test_a_labs_own_arm_is_no_stand_in(tmp_path):
    folder = synthetic_run(tmp_path / "demo")
    (folder / "lab.json").unlink(missing_ok=True)
    (folder / "station.json").write_text(json.dumps({"operator": "person"}))
    text = Page(write_report(folder)).text
    assert "Real RL on the arm" in text and "stand-in arm" not in text and "scripted operator" not in text
    assert "lab.json" not in text


def test_a_folder_that_does_not_exist_and_a_file_of_something_else_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        write_report(tmp_path / "none")
    lines(tmp_path / "run" / "eval" / "sft_a_twin.jsonl", [{"region": "A", "cell": 0}])
    with pytest.raises(InputError, match=r"sft_a_twin\.jsonl: not a file of episodes: .*missing.*'x'"):
        write_report(tmp_path / "run")


def test_every_evaluation_of_the_run_has_a_name():
    assert set(EVALUATIONS) == set(SUCCESS)


@given(st.integers(0, 200), st.integers(1, 200))
def test_wilson_interval_against_scipy(successes, trials):
    successes = min(successes, trials)
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert Rate(successes=successes, trials=trials).interval() == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_trials_mean_no_knowledge():
    assert Rate(successes=0, trials=0).interval() == (0.0, 1.0)
    assert percent(Rate(successes=0, trials=0).share) == "–"


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.integers(1, 25))
def test_moving_mean_against_its_definition(values, window):
    expected = [np.mean(values[max(i + 1 - window, 0) : i + 1]) for i in range(len(values))]
    assert moving_mean(values, window) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.0, "0 %"), (0.996, "99.6 %"), (0.004, "0.4 %"), (0.925, "92 %")]
)
def test_percent_never_rounds_up_to_certainty(share, text):
    assert percent(share) == text
