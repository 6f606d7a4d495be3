"""These tests call `twinrl expand`: from a dataset to a dataset and to a replay, with the coverage."""

import json

import numpy as np
import pytest
from expansion_samples import demonstration

from learner.datasets import ActionScale, make_writer, open_dataset
from protos.episode import Episode
from protos.errors import InputError, TwinRLError
from protos.proprioception import TOOL_DOWN_VECTOR
from protos.schema import GRIPPER_ACTION, Observation, Outcome, Schema, Source
from protos.settings import save_settings
from services.replay import EmbeddedServer, ReplaySettings, totals
from twin.randomize import DOMAINS, Domain
from twin.scene import synthetic_scene
from twinrl.commands import expand
from twinrl.run.settings import RunSettings
from twinrl.run.stored_replay import twin_of

SMALL = Schema(side_px=16, wrist_px=16)


def recorded(name):
    """Returns the hand-made demonstration as an episode of a dataset."""
    shown = demonstration(name)
    steps = len(shown.path) - 1
    proprio = np.zeros((steps + 1, 25), np.float32)
    proprio[:, :3], proprio[:, 3:6] = shown.path.positions, TOOL_DOWN_VECTOR
    action = np.zeros((steps, 7), np.float32)
    action[:, GRIPPER_ACTION] = np.where(shown.path.closed[1:], -1, 1)
    frames = np.zeros((steps + 1, 16, 16, 3), np.uint8)
    return Episode(
        name=name,
        instruction="Put the cube on the disc.",
        configuration=shown.configuration,
        observation=Observation(side=frames, wrist=frames, proprio=proprio),
        action=action,
        reward=np.zeros(steps, np.float32),
        human=np.ones(steps, bool),
        outcome=Outcome.SUCCESS,
        source=Source.REAL,
    )


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Returns a scene, and a dataset of two demonstrations."""
    folder = tmp_path_factory.mktemp("demos")
    synthetic_scene(0.03).save(folder / "scene")
    writer = make_writer("rlds", folder / "rlds", SMALL, action_scale=ActionScale(metres=0.03, radians=0.0))
    for name in ("first", "second"):
        writer.add(recorded(name))
    writer.close()
    return folder


def run(demos, *arguments):
    return expand.main([str(demos / "rlds"), "--scene", str(demos / "scene"), "--disturbance", "0.1", *arguments])


def test_a_dataset_becomes_a_larger_one(demos, tmp_path, capsys):
    out, report = tmp_path / "out", tmp_path / "report"
    wanted = ("--accept", "A", "2", "--accept", "B", "3")
    assert run(demos, *wanted, "--out", str(out), "--format", "rlds", "--report", str(report)) == 0
    episodes = list(open_dataset(out, SMALL))
    assert sorted(episode.configuration.region for episode in episodes) == ["A", "A", "B", "B", "B"]
    for episode in episodes:
        assert episode.outcome is Outcome.SUCCESS and episode.source is Source.TWIN
        assert len(episode.observation) == len(episode.action) + 1
        assert episode.observation.side.std() > 0
    told = json.loads((report / "coverage.json").read_text())
    assert told["regions"] == {"A": 2, "B": 3}
    page = (report / "coverage.html").read_text()
    assert "<svg" in page and "region B: 3 accepted" in page
    assert "5 twin demonstrations from 2, 5 of" in capsys.readouterr().out


def test_a_replay_gets_them_as_demonstrations(demos, tmp_path):
    with EmbeddedServer(tmp_path / "valkey") as server:
        assert run(demos, "--accept", "B", "2", "--limit", "1", "--to", server.url, "--to-prefix", "lab") == 0
        assert totals(ReplaySettings(urls=(server.url,), prefix="lab"))["demo"] > 20


def test_too_few_is_an_error_that_says_why_and_keeps_what_there_is(demos, tmp_path):
    with pytest.raises(TwinRLError, match=r"region A: 0 of 2 .* \(\d+ no path\)"):
        run(demos, "--accept", "A", "2", "--how.clearance-m", "0.1", "--out", str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--out FOLDER for a dataset, or --to URL"),
        (("--out", "x", "--accept", "C", "1"), "region 'C'"),
        (("--out", "x", "--region", "B"), "no successful episode of pick_and_place"),
        (("--out", "x", "--task", "juggle"), "task 'juggle'"),
    ],
)
def test_mistakes_are_named(demos, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(demos, *arguments)


def test_what_a_run_shows_is_tried_in_the_runs_own_twin(tmp_path):
    run = RunSettings(name="run", runs=tmp_path, task="insert_hexagon_block", twin=Domain(latency_steps=(1, 2)))
    save_settings(run, run.folder / "settings.json")
    assert twin_of(run.folder, None, None) == ("pick_and_place", DOMAINS["twin"]), "no run was made there yet"
    (run.folder / "replay").mkdir()
    assert twin_of(run.folder, None, None) == ("insert_hexagon_block", run.twin)
    assert twin_of(run.folder, "erase_whiteboard", "far") == ("erase_whiteboard", DOMAINS["far"])
    assert twin_of(None, None, None) == ("pick_and_place", DOMAINS["twin"])
