"""Success per cell on Ray: the same whatever the number of workers and whatever happens to them."""

import json
import os
import signal
from pathlib import Path

import pytest
from fleet_process import tiny_policy, workers_of

from actors.policies import named_policy
from actors.sim import ProbeSettings, TwinWorld
from actors.sim import evaluation as probing
from actors.sim.evaluation import ProbeWorker, probe, starts_in
from policy.checkpoint import save_policy
from protos.errors import InputError
from protos.schema import Schema
from protos.settings import save_settings
from twin import tasks
from twin.randomize import DOMAINS, Domain
from twin.scene import synthetic_scene
from twinrl.commands import probe as command
from twinrl.report.inputs import EpisodeLine
from twinrl.run.settings import RunSettings

HERE = str(Path(__file__).parent)
CELLS = (0, 7, 13, 19, 20, 26, 31, 39)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    synthetic_scene(spacing_m=0.03).save(folder)
    return folder


def settings_for(scene, out, **changes):
    world = TwinWorld(scene=scene, schema=Schema(side_px=16, wrist_px=16), seed=3)
    defaults = {"world": world, "policy": None, "out": out, "rollouts_per_cell": 2, "cells": CELLS, "workers": 1}
    return ProbeSettings(**(defaults | changes))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(scene, tmp_path_factory):
    """Provides the lines of one undisturbed worker."""
    out = tmp_path_factory.mktemp("alone") / "out.jsonl"
    probe(settings_for(scene, out))
    return lines_of(out)


def test_every_cell_is_tried_as_often_as_wanted(alone):
    assert [line["cell"] for line in alone] == [cell for cell in CELLS for _ in range(2)]
    assert sum(line["success"] for line in alone) > 12, "the expert mostly succeeds"
    assert len({(line["x"], line["y"]) for line in alone}) == len(alone)


def test_a_killed_worker_changes_nothing(scene, alone, tmp_path):
    killed = []

    def kill_one(findings):
        if findings.results and not killed:
            killed.append(workers_of(os.getpid(), "ProbeWorker")[0])
            os.kill(killed[0], signal.SIGKILL)

    findings = probe(settings_for(scene, tmp_path / "out.jsonl", workers=3), show=kill_one)
    assert killed and sum(findings.failures.values()) <= 1 and not findings.given_up
    assert lines_of(tmp_path / "out.jsonl") == alone


class Deadly(ProbeWorker):
    """Its process ends in one cell, and hangs in another one."""

    def try_cell(self, cell):
        if cell == CELLS[1]:
            os._exit(1)
        if cell == CELLS[2]:
            signal.pause()
        return super().try_cell(cell)


def test_a_cell_that_kills_or_hangs_is_given_up_and_named(scene, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "ProbeWorker", Deadly)
    monkeypatch.setattr(probing, "TRIES", 2)
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((HERE, os.environ.get("PYTHONPATH", ""))))
    settings = settings_for(scene, tmp_path / "out.jsonl", workers=2, cells=CELLS[:4], cell_timeout_s=12.0)
    findings = probe(settings)
    assert findings.given_up == {CELLS[1]: "its worker died", CELLS[2]: "no result within 12 s"}
    assert findings.failures == {CELLS[1]: 2, CELLS[2]: 2}
    assert lines_of(tmp_path / "out.jsonl") == [line for line in alone if line["cell"] in (CELLS[0], CELLS[3])]
    said = command.table_of(findings, tasks.get("pick_and_place").space, 4)
    assert "cell 7 was given up: its worker died" in said


def test_the_command_tries_the_newest_policy_of_a_run(scene, tmp_path, capsys):
    save_policy(tmp_path / "run" / "sft_a" / "policy", tiny_policy())
    words = [str(tmp_path / "run"), "--scene", str(scene), "--cells", "2", "21", "--rollouts-per-cell", "1"]
    assert command.main([*words, "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "region A" in said and "0 of 1 succeeded" in said
    lines = lines_of(tmp_path / "run" / "sft_a" / "probe_policy.jsonl")
    assert [EpisodeLine.read(line).cell for line in lines] == [2, 21]


def test_a_policy_of_another_package_is_tried_by_its_name(scene, examples_site, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(examples_site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(examples_site), os.environ.get("PYTHONPATH", "")]))
    out = tmp_path / "out.jsonl"
    words = ["fetch_the_cube", "--scene", str(scene), "--cells", "21", "--rollouts-per-cell", "2", "--workers", "1"]
    assert command.main([*words, "--out", str(out)]) == 0
    assert "2 of 2 succeeded" in capsys.readouterr().out
    assert [line["version"] for line in lines_of(out)] == [0, 0]
    with pytest.raises(InputError, match=r"policy 'fetch': choose one of fetch_the_cube; .*'twinrl\.policies'"):
        named_policy("fetch", None, None, Schema())


def test_a_run_is_tried_in_its_own_twin(scene, tmp_path):
    run = RunSettings(name="run", runs=tmp_path, task="erase_whiteboard", twin=Domain(latency_steps=(1, 2)))
    save_policy(run.folder / "sft_a" / "policy", tiny_policy())
    save_settings(run, run.folder / "settings.json")
    (run.folder / "replay").mkdir()
    own = command.settings_of(command.Probe(what=str(run.folder), scene=scene)).world
    assert (own.task, own.domain) == ("erase_whiteboard", run.twin)
    later = command.settings_of(command.Probe(what=str(run.folder), scene=scene, latency_steps=(3,))).world
    assert later.domain == Domain(latency_steps=(3,))
    far = command.settings_of(
        command.Probe(what=str(run.folder), scene=scene, domain="far", task="pick_and_place")
    ).world
    assert (far.task, far.domain) == ("pick_and_place", DOMAINS["far"])
    with pytest.raises(InputError, match="domain 'moon': choose one of twin, standin"):
        command.settings_of(command.Probe(what=str(run.folder), scene=scene, domain="moon"))


def test_what_is_not_there_is_said(scene, tmp_path):
    with pytest.raises(InputError, match="neither a policy folder nor a run with a policy, nor the word"):
        command.main([str(tmp_path)])
    with pytest.raises(InputError, match="no scene folder; name one with --scene"):
        command.main(["expert", "--scene", str(tmp_path)])
    with pytest.raises(InputError, match="workers=0: at least 1"):
        settings_for(scene, tmp_path, workers=0)


def test_starts_of_a_cell_do_not_depend_on_other_cells():
    space = tasks.get("pick_and_place").space
    one, again, other = (starts_in(space, cell, 3, seed) for cell, seed in ((4, 0), (4, 0), (4, 1)))
    assert one == again != other
    assert {start.cell for start in one} == {4}
