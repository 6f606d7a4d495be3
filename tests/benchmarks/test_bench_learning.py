"""The learning benchmark: variants change what they say, units are made once, and the tables count right."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cost import Meter
from benchmarks.learning import run as learning
from benchmarks.learning.cells import Result, Unit
from benchmarks.learning.run import START, LearningBench, plan, summary
from benchmarks.learning.variants import VARIANTS, VariantContext
from learner.stage import RlSettings
from protos.errors import InputError
from protos.settings import save_settings, to_json
from services.replay import ReplaySettings
from twinrl.run.progress import Stage

RL = RlSettings(replay=ReplaySettings(urls=("redis://127.0.0.1:1",)), policy=Path("policy"))
CHANGED = {
    "demo": set(),
    "strong": {"update.actor.weights_start"},
    "no_bc": {"update.actor.weights_start", "update.actor.weights_end"},
    "no_calql": {"update.calql.alpha"},
    "one_step": {"batch.n_step"},
    "backbone": {"update.actor.backbone", "batch.online.twin", "batch.demo.demo"},
    "few_rows": {"batch.online.twin", "batch.demo.demo"},
    "priority": {"batch.sampling.twin"},
    "cells": {"batch.sampling.twin"},
}
BURN = "import time, sys\nwhile time.process_time() < 0.5: pass\nprint('done', flush=True)\nsys.stdin.read()"


def flat(tree, prefix=""):
    if isinstance(tree, dict):
        return {path: value for name, inner in tree.items() for path, value in flat(inner, f"{prefix}.{name}").items()}
    return {prefix.removeprefix("."): tree}


def unit(folder, make, *, steps=5):
    settings = plan(LearningBench(folder=folder, rollouts=3), 0)
    return Unit(settings=settings, steps=steps, total=1, counted="things", make=make)


def view():
    return Stage("unit", "[1/1]", total=1, unit="things", on_update=lambda stage: None)


def result(**changes):
    return replace(Result(steps=5, rollouts=100, successes={"A": 90, "B": 80}, cpu_s=10.0, wall_s=5.0), **changes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_changes_what_it_says_and_nothing_else(variant):
    before, after = flat(to_json(RL)), flat(to_json(VARIANTS[variant][1](RL)))
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == CHANGED[variant]


def test_without_cloning_something_is_still_learned():
    actor = VARIANTS["no_bc"][1](RL).update.actor
    for beta, eta in (actor.weights_start, actor.weights_end):
        assert beta == 0.0
        assert eta > 0.0


class Children:
    """Notes the command lines that a run starts."""

    def __init__(self):
        self.started = []

    def start(self, child):
        self.started.append(child)


def test_only_the_rl_learner_gets_other_settings(tmp_path):
    run, children = plan(LearningBench(folder=tmp_path), 0), Children()
    change = VARIANTS["one_step"][1]
    context = VariantContext(folder=tmp_path, settings=run, supervisor=children, services=None, change=change)
    context.start("twin_rl", "learner", "rl", settings=RL)
    context.start("other", "learner", "sft", settings=run)
    written = {child.name: Path(child.command[-1]).read_text() for child in children.started}
    assert '"n_step": 1' in written["twin_rl"]
    assert written["other"] == save_settings(run, tmp_path / "as it is.json").read_text()


def test_a_unit_is_made_once_and_anew_if_it_was_interrupted(tmp_path):
    made = []

    def make(context, _):
        made.append((context.folder / "left").exists())
        (context.folder / "left").mkdir()
        if len(made) == 1:
            raise KeyboardInterrupt

    one = unit(tmp_path, make)
    with pytest.raises(KeyboardInterrupt):
        one.run(view())
    assert one.result() is None
    done = one.run(view())
    assert made == [False, False]
    assert one.result() == done
    with pytest.raises(InputError, match="steps=5, wanted 6; choose another --folder"):
        unit(tmp_path, make, steps=6).result()


def test_folders_of_others_are_left_alone(tmp_path):
    mine = unit(tmp_path, lambda context, _: None)
    mine.folder.mkdir(parents=True)
    (mine.folder / "thesis.tex").touch()
    with pytest.raises(InputError, match="is not of this benchmark"):
        mine.run(view())
    assert (mine.folder / "thesis.tex").exists()


def test_rows_show_seeds_intervals_and_what_is_missing():
    settings = LearningBench(seeds=(0, 1), variants=("demo", "no_bc"))
    text = summary(
        settings,
        {
            (START, 0): result(successes={"A": 50, "B": 100}),
            ("demo", 0): result(updates=100),
            ("demo", 1): result(successes={"A": 100, "B": 70}, updates=300, cpu_s=20.0),
        },
    )
    start, demo, no_bc = text.strip().splitlines()[-3:]
    assert "| 50 / – | 100 / – | 50.0 (40.4 – 59.6) | 100.0 (96.3 – 100.0) |" in start
    assert "| 90 / 100 | 80 / 70 | 95.0 (91.0 – 97.3) | 75.0 (68.6 – 80.5) | 15 | 5 | 200 |" in demo
    assert "| – / – | – / – | – | – | – | – | – |" in no_bc


def test_tables_of_what_is_there_need_no_run(tmp_path):
    settings = LearningBench(folder=tmp_path, seeds=(4,), variants=("demo",), measure=False)
    save_settings(result(steps=3000), tmp_path / "sft-3000" / "seed4" / "result.json")
    assert "| 90 | 80 |" in learning.run(settings)


def test_the_meter_counts_children_that_nobody_has_waited_for():
    with Meter() as meter:
        child = subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"done\n"
    child.communicate(timeout=60)
    assert meter.cpu_s >= 0.45


def test_seeds_must_differ():
    with pytest.raises(InputError, match="seeds=\\(1, 1\\)"):
        LearningBench(seeds=(1, 1))
