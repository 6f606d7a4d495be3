"""These tests crash a writer: the LeRobotDataset still opens and holds every episode that was written."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from lerobot_samples import SCALE, SCHEMA, assert_same, make_episode, read, write

from learner.datasets import ActionScale
from learner.datasets.lerobot import LeRobotWriter
from learner.datasets.lerobot import writer as lerobot_writer
from protos.errors import CorruptData, InputError, SchemaMismatch
from protos.schema import Schema

WRITER = """
import sys
from pathlib import Path
import numpy as np
from lerobot_samples import SCALE, SCHEMA, make_episode
from learner.datasets.lerobot import LeRobotWriter
writer = LeRobotWriter(Path(sys.argv[1]), SCHEMA, action_scale=SCALE)
while True:
    number = len(writer)
    writer.add(make_episode(np.random.default_rng(number), name=str(number), instruction=f"Task {number}."))
    print(number, flush=True)
"""


def episode_of(number):
    return make_episode(np.random.default_rng(number), name=str(number), instruction=f"Task {number}.")


def killed_after(folder, episodes, delay_s):
    """Runs a writer and kills it a while after some episodes were acknowledged; returns how many were in all."""
    command = [sys.executable, "-c", WRITER, str(folder)]
    paths = {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=paths) as process:
        told = [int(process.stdout.readline()) for _ in range(episodes)]
        threading.Event().wait(delay_s)
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout if line.endswith("\n")]
    return told[-1] + 1


def test_kill_9_while_writing(tmp_path):
    """The writer is killed twice on one folder, at different moments within an episode."""
    folder, there = tmp_path / "d", 0
    for round_, delay_s in enumerate((0.0, 0.02)):
        acknowledged = killed_after(folder, 3, delay_s)
        episodes = read(folder)  # as it was left, before anybody mends it
        assert acknowledged <= len(episodes) <= acknowledged + 1, f"round {round_}"
        assert len(episodes) >= there + 3
        there = len(episodes)
    writer = LeRobotWriter(folder, SCHEMA, action_scale=SCALE)
    assert writer.names == {str(number) for number in range(there)}
    writer.add(episode_of(there))
    for number, episode in enumerate(read(folder)):
        assert_same(episode_of(number), episode, lossy=True)
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"]) == (there + 1, 5 * (there + 1))
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("images", ["png", "video"])
def test_a_crash_between_any_two_files(tmp_path, monkeypatch, images):
    """Writing the second episode fails at each of its files in turn; then a new writer continues."""
    for broken in range(0, 8, 1 if images == "video" else 2):
        folder = write(tmp_path / f"{images}{broken}", [episode_of(0)], images=images)
        writer = LeRobotWriter(folder, SCHEMA, action_scale=SCALE, images=images)
        left = broken

        def crashing(path, pieces, write_durably=lerobot_writer.write_durably):
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError("unplugged")
            write_durably(path, pieces)

        with monkeypatch.context() as patch:
            for module in ("writer", "layout"):
                patch.setattr(f"learner.datasets.lerobot.{module}.write_durably", crashing)
            if broken < (6 if images == "png" else 8):
                with pytest.raises(OSError, match="unplugged"):
                    writer.add(episode_of(1))
        assert [episode.name for episode in read(folder)][:1] == ["0"]
        again = LeRobotWriter(folder, SCHEMA, action_scale=SCALE, images=images)
        for number in range(len(again), 3):
            again.add(episode_of(number))
        for number, episode in enumerate(read(folder)):
            assert_same(episode_of(number), episode, lossy=images == "video")
        info = json.loads((folder / "meta/info.json").read_text())
        assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 15, 3)


def test_reopening_changes_nothing_that_is_told(tmp_path, caplog):
    folder = write(tmp_path / "d", [episode_of(number) for number in range(4)])
    names = ("info.json", "stats.json")
    before = [json.loads((folder / "meta" / name).read_text()) for name in names]
    LeRobotWriter(folder, SCHEMA, action_scale=SCALE).close()
    assert [json.loads((folder / "meta" / name).read_text()) for name in names] == before
    assert not caplog.records


def test_files_of_an_unfinished_episode_are_removed_and_named(tmp_path, caplog):
    folder = write(tmp_path / "d", [episode_of(0)])
    for name in ("data/chunk-000/file-001.parquet", "data/chunk-000/file-001.parquet.tmp"):
        (folder / name).write_bytes(b"half")
    LeRobotWriter(folder, SCHEMA, action_scale=SCALE)
    assert "file-001.parquet: removed, its episode was never finished" in caplog.text
    assert [path.name for path in (folder / "data").rglob("*.*")] == ["file-000.parquet"]


def test_a_lost_footer_is_told_and_nothing_is_removed(tmp_path):
    folder = write(tmp_path / "d", [episode_of(0)])
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CorruptData, match=r"file-000\.parquet: not a whole parquet file"):
        LeRobotWriter(folder, SCHEMA, action_scale=SCALE)
    assert (folder / "data/chunk-000/file-000.parquet").is_file()


@pytest.mark.parametrize(
    "options",
    [{"images": "png"}, {"action_scale": ActionScale(metres=1, radians=1)}, {"schema": Schema()}],
)
def test_a_dataset_of_another_kind_is_not_appended_to(tmp_path, options):
    folder = write(tmp_path / "d", [episode_of(0)])
    options = {"schema": SCHEMA, "action_scale": SCALE} | options
    with pytest.raises(SchemaMismatch, match="holds a LeRobotDataset with other features"):
        LeRobotWriter(folder, options.pop("schema"), **options)


def test_other_people_s_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="is not empty and not a LeRobotDataset"):
        LeRobotWriter(tmp_path, SCHEMA, action_scale=SCALE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_episode_that_does_not_fit_is_refused(tmp_path):
    writer = LeRobotWriter(tmp_path / "d", SCHEMA, action_scale=SCALE)
    with pytest.raises(
        SchemaMismatch, match=r"6 side images of \(64, 64, 3\) for 5 steps, this dataset has 6 of 48 x 48"
    ):
        writer.add(make_episode(np.random.default_rng(0), schema=Schema()))
    with pytest.raises(InputError, match="has no step"):
        writer.add(make_episode(np.random.default_rng(0), steps=0, reward=np.zeros(0, np.float32)))
