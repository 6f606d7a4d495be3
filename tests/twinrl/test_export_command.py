"""These tests call `twinrl export` on run folders, replays and datasets."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from learner.datasets import open_dataset
from learner.datasets.lerobot import LeRobotWriter
from protos.episode import Segment
from protos.errors import InputError, Unreachable
from protos.folders import owned
from protos.schema import Configuration, Observation, Outcome, Schema, Source
from protos.settings import save_settings
from services.replay import EmbeddedServer, ReplaySettings, ReplayWriter, ServerConfig
from twinrl.commands import export, inspect
from twinrl.run.settings import RunSettings

SCHEMA = Schema(side_px=32, wrist_px=16)
STEPS = 6


def segment(number, *, outcome=Outcome.SUCCESS, region="A", task="pick_and_place", source=Source.TWIN):
    rng = np.random.default_rng(number)
    return Segment(
        task=task,
        scene="bench",
        instruction="Put the cube on the disc.",
        configuration=Configuration(region=region, cell=number),
        episode=f"e{number}",
        first_step=0,
        outcome=outcome,
        source=source,
        policy_versions=(-1, -1),
        backbone_id="",
        observation=Observation(
            side=rng.integers(0, 256, (STEPS + 1, 32, 32, 3), np.uint8),
            wrist=rng.integers(0, 256, (STEPS + 1, 16, 16, 3), np.uint8),
            proprio=rng.normal(size=(STEPS + 1, 25)).astype(np.float32),
        ),
        action=rng.uniform(-1, 1, (STEPS, 7)).astype(np.float32),
        reward=np.zeros(STEPS, np.float32),
        human=np.ones(STEPS, bool),
    )


def send(url, segments, *buffers, prefix="twinrl-bench"):
    settings = ReplaySettings(urls=(url,), prefix=prefix)
    with ReplayWriter(settings, SCHEMA, actor="actor/0", spool=None) as writer:
        for each in segments:
            writer.add(each, buffers)
        assert writer.flush(20) == 0


DEMOS = [segment(0), segment(1, region="B"), segment(2, outcome=Outcome.TIMEOUT), segment(3, source=Source.REAL)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the folder of a run that ended: its replay lies on disk and no server runs."""
    folder = tmp_path_factory.mktemp("runs") / "bench"
    save_settings(RunSettings(name="bench", runs=folder.parent, schema=SCHEMA), folder / "settings.json")
    short = tmp_path_factory.mktemp("s") / "s"
    with EmbeddedServer(folder / "replay", ServerConfig(socket=short)) as server:
        send(server.url, DEMOS, "demo")
        send(server.url, [segment(4), DEMOS[3]], "real")
    return folder


def names(folder):
    return [episode.name for episode in open_dataset(folder, SCHEMA)]


def log_of(run):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run / "replay/appendonlydir").iterdir()
    }


def test_a_run_that_ended_is_exported_and_left_as_it_was(finished, tmp_path, capsys):
    before, out = log_of(finished), tmp_path / "d"
    assert export.main([str(finished), "--out", str(out), "--images", "png"]) == 0
    said = capsys.readouterr().out
    assert f"{out}: LeRobotDataset v3.0, png, 5 episodes, 30 steps (success 4, timeout 1;" in said
    assert "an action of 1 is 0.03 m, 0 rad per step" in said
    assert log_of(finished) == before
    assert sorted(names(out)) == ["e0", "e1", "e2", "e3", "e4"]
    by_name = {episode.name: episode for episode in open_dataset(out, SCHEMA)}
    for given in DEMOS:
        np.testing.assert_array_equal(by_name[given.episode].action, given.action)
        np.testing.assert_array_equal(by_name[given.episode].observation.side, given.observation.side)


def test_a_run_that_ended_is_inspected_and_left_as_it_was(finished, capsys):
    before = log_of(finished)
    assert inspect.main([str(finished)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "replay, written by TwinRL" in text and "10 Hz; rows have no stamps" in text
    assert "told by what recorded them" in text and "tcp_rotation_x" in text
    assert log_of(finished) == before


def test_a_renamed_run_is_the_run_that_it_was(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "the table")
    export.main([str(tmp_path / "the table"), "--out", str(tmp_path / "d")])
    assert sorted(names(tmp_path / "d")) == ["e0", "e1", "e2", "e3", "e4"]


def test_a_second_export_into_one_folder_is_refused_before_anything_is_read(tmp_path):
    with owned(tmp_path / "d", "twinrl export"), pytest.raises(InputError, match="d is in use by twinrl export"):
        export.main([str(tmp_path / "no such run"), "--out", str(tmp_path / "d")])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--buffer", "demo", "--outcomes", "success"), ["e0", "e1", "e3"]),
        (("--buffer", "demo", "--buffer", "real", "--world", "real"), ["e3"]),
        (("--region", "B"), ["e1"]),
        (("--buffer", "demo", "--limit", "2"), ["e0", "e1"]),
    ],
)
def test_some_of_a_run(finished, tmp_path, options, expected):
    export.main([str(finished), "--out", str(tmp_path / "d"), *options, "--format", "rlds"])
    assert names(tmp_path / "d") == expected


def test_outcomes_that_are_left_out_are_counted(finished, tmp_path, capsys):
    export.main([str(finished), "--out", str(tmp_path / "d"), "--outcomes", "timeout,unknown"])
    assert "1 episodes" in (said := capsys.readouterr().out) and "left out for their outcome: success 4" in said
    with pytest.raises(InputError, match="outcomes='won': 'won' is none of running, success, failure"):
        export.main([str(finished), "--out", str(tmp_path / "e"), "--outcomes", "won"])


def test_the_same_command_again_adds_what_is_missing(finished, tmp_path, capsys):
    command = [str(finished), "--out", str(tmp_path / "d"), "--buffer", "demo"]
    export.main([*command, "--limit", "3"])
    export.main(command)
    assert names(tmp_path / "d") == ["e0", "e1", "e2", "e3"]
    assert "3 more episodes were there already" in capsys.readouterr().out


def test_ctrl_c_leaves_a_whole_dataset_and_says_so(finished, tmp_path, capsys, monkeypatch):
    def add(writer, episode, added=LeRobotWriter.add):
        if len(writer) == 2:
            raise KeyboardInterrupt
        added(writer, episode)

    monkeypatch.setattr(LeRobotWriter, "add", add)
    assert export.main([str(finished), "--out", str(tmp_path / "d"), "--buffer", "demo"]) == 130
    assert "Stopped after 2 episodes, 12 steps" in capsys.readouterr().err
    assert names(tmp_path / "d") == ["e0", "e1"]


def test_a_run_that_goes_on_is_read_from_its_own_server(tmp_path):
    run = tmp_path / "live"
    save_settings(RunSettings(name="live", runs=tmp_path, schema=SCHEMA), run / "settings.json")
    with (
        EmbeddedServer(run / "replay", ServerConfig(socket=tmp_path / "s")) as server,
        owned(run, "twinrl demo"),
    ):
        send(server.url, [segment(7)], "twin", prefix="twinrl-live")
        with pytest.raises(InputError, match="has not started its replay yet"):
            export.main([str(run), "--out", str(tmp_path / "d")])
        replay = {"urls": [server.url], "prefix": "twinrl-live"}
        (run / "settings").mkdir()
        (run / "settings" / "learner.json").write_text(json.dumps({"replay": replay}))
        export.main([str(run), "--out", str(tmp_path / "d")])
        assert server.running()
    assert names(tmp_path / "d") == ["e7"]


def test_a_replay_is_exported_by_its_address(tmp_path):
    with EmbeddedServer(tmp_path / "r") as server:
        send(server.url, [segment(0)], "demo", prefix="lab")
        send(server.url, [segment(1, task="fold")], "human", prefix="lab")
        command = ["--replay", server.url, "--prefix", "lab", "--out", str(tmp_path / "d")]
        export.main([*command, "--buffer", "demo"])
        assert names(tmp_path / "d") == ["e0"]
        with pytest.raises(InputError, match="task 'fold' is not known here"):
            export.main([*command, "--buffer", "human"])
        export.main([*command[:-1], str(tmp_path / "f"), "--buffer", "human", "--metres", "0.1", "--radians", "0.2"])
        assert open_dataset(tmp_path / "f", SCHEMA).action_scale.radians == 0.2


def test_a_dataset_becomes_one_of_the_other_format(finished, tmp_path, capsys):
    first, second, third = (str(tmp_path / name) for name in "abc")
    export.main([str(finished), "--out", first, "--buffer", "demo", "--images", "png"])
    export.main([first, "--out", second, "--format", "rlds", "--metres", "0.06"])
    assert "an action of 1 is 0.06 m, 0 rad per step" in capsys.readouterr().out
    export.main([second, "--out", third, "--images", "png", "--metres", "0.03", "--side-px", "64"])
    assert open_dataset(Path(third), SCHEMA).action_scale.metres == 0.03
    for given, found in zip(DEMOS, open_dataset(Path(third), Schema(side_px=64, wrist_px=16)), strict=True):
        np.testing.assert_allclose(found.action[:, :3], given.action[:, :3], atol=1e-6)
        np.testing.assert_array_equal(found.observation.wrist, given.observation.wrist)
        assert found.observation.side.shape == (STEPS + 1, 64, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "line"),
    [
        ((), InputError, "name one source: a run or dataset folder"),
        (("x", "--replay", "redis://127.0.0.1:1"), InputError, "name one source"),
        (("nowhere", "--buffer", "demo"), InputError, "--buffer demo: a dataset has no buffers"),
        (("nowhere",), InputError, "nowhere: no such file or folder; looked for RLDS"),
        (("--replay", "redis://127.0.0.1:1"), Unreachable, "127.0.0.1:1 did not answer"),
        (("{run}", "--buffer", "human"), InputError, "nothing in human; transitions there: demo 24, real 12"),
        (("{run}", "--side-px", "64"), InputError, r"the images of a replay \(32, 16\) stay as they are"),
        (("{run}", "--limit", "0"), InputError, "limit=0: at least 1"),
        (("{run}", "--region", "C"), InputError, "no episode is chosen; looked at 6 episodes"),
        (("{run}", "--expected", "e.npz", "--out", "{run}"), InputError, "--expected: .* is there already"),
        (("{run}", "--out", "{run}"), InputError, "the episodes come from there; name a new folder"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(finished, tmp_path, monkeypatch, arguments, error, line):
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(run=finished) for argument in arguments]
    with pytest.raises(error, match=line) as caught:
        export.main([*filled, *(() if "--out" in filled else ("--out", str(tmp_path / "d")))])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_kept_replay_is_told(tmp_path):
    run = tmp_path / "empty"
    save_settings(RunSettings(name="empty", runs=tmp_path), run / "settings.json")
    (run / "replay").mkdir()
    with pytest.raises(InputError, match=r"empty/replay: no replay was kept there"):
        export.main([str(run), "--out", str(tmp_path / "d")])


FAKE = """
import numpy as np
from pathlib import Path
from learner.datasets.lerobot import LeRobotDataset as Ours, stored_schema

class Array(np.ndarray):
    def numpy(self):
        return np.asarray(self)

class LeRobotDataset:
    # as lerobot's: rows of all episodes, images (3, px, px) in 0 .. 1, everything with .numpy()
    def __init__(self, repo_id, root):
        episodes = list(Ours(root, stored_schema(root)))
        self.num_episodes, self.rows = len(episodes), []
        for i, episode in enumerate(episodes):
            for t in range(len(episode.action)):
                row = {"observation.images." + name: getattr(episode.observation, name)[t].transpose(2, 0, 1) / 255
                       for name in ("side", "wrist")}
                row |= {"episode_index": i, "frame_index": t, "action": episode.action[t],
                        "observation.state": episode.observation.proprio[t], "next.reward": episode.reward[t]}
                self.rows.append({k: np.asarray(v).view(Array) for k, v in row.items()} | {"task": episode.instruction})
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, index):
        return self.rows[index]
"""


@pytest.mark.parametrize("images", ["png", "video"])
def test_the_check_with_lerobot_s_package(finished, tmp_path, images):
    """The script runs with a fake package: it passes a right dataset and finds a difference."""
    out, expected = tmp_path / "d", tmp_path / "e.npz"
    export.main([str(finished), "--out", str(out), "--images", images, "--expected", str(expected)])
    package = tmp_path / "fake" / "lerobot" / "datasets"
    package.mkdir(parents=True)
    (package / "lerobot_dataset.py").write_text(FAKE)
    root = Path(__file__).parents[2]

    def check(*options):
        command = [sys.executable, str(root / "scripts/check_lerobot.py"), str(out), str(expected), *options]
        paths = os.environ | {"PYTHONPATH": f"{tmp_path / 'fake'}:{root}"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=paths)
        return done.returncode, done.stdout + done.stderr

    code, said = check("--psnr", "5")  # noise is what a codec keeps worst
    assert (code, said.count("5 episodes, 30 frames; actions, states, rewards equal; images ")) == (0, 1), said
    assert ("images equal" in said) == (images == "png")
    if images == "png":
        with np.load(expected) as file:
            arrays = dict(file)
        arrays["3/action"][2, 0] += 1e-6
        np.savez(expected, **arrays)
        code, said = check("--psnr", "5")
        assert (code, said.startswith("episode 3, step 2: action is")) == (1, True)
