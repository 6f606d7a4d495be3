"""These tests write LeRobotDatasets and read them back unchanged."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lerobot_samples import SCALE, SCHEMA, assert_same, make_episode, read, write

from learner.datasets import ActionScale, open_dataset
from learner.datasets.lerobot import LeRobotDataset, layout, stored_schema
from protos.errors import CorruptData, InputError
from protos.schema import Configuration, Outcome, Schema, Source


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("images", ["png", "video"])
def test_episodes_come_back(tmp_path, rng, images):
    episodes = [
        make_episode(rng, name="demo/0", steps=13),
        make_episode(rng, name="a/1", steps=1, outcome=Outcome.TIMEOUT, instruction="Öffne die Lade."),
        make_episode(rng, name="a/2", steps=4, outcome=Outcome.FAILURE, source=Source.REAL),
        make_episode(rng, name="a/3", steps=2, outcome=Outcome.RUNNING, configuration=Configuration(region="")),
    ]
    folder = write(tmp_path / "d", episodes, images=images)
    dataset = open_dataset(folder, SCHEMA)
    assert (dataset.name, dataset.format, dataset.action_scale, len(dataset)) == ("d", "lerobot", SCALE, 4)
    for given_episode, found in zip(episodes, dataset, strict=True):
        assert_same(given_episode, found, lossy=images == "video")


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    steps=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    outcome=st.sampled_from(Outcome),
)
def test_any_episodes_come_back(tmp_path_factory, seed, steps, text, outcome):
    rng = np.random.default_rng(seed)
    episodes = [
        make_episode(rng, name=f"{text}/{i}", steps=count, instruction=text, outcome=outcome)
        for i, count in enumerate(steps)
    ]
    folder = write(tmp_path_factory.mktemp("any") / "d", episodes, images="png")
    for left, right in zip(episodes, read(folder), strict=True):
        assert_same(left, right)


def test_numbers_of_many_files_are_found(tmp_path, rng, monkeypatch):
    """A chunk holds two files and a file of episodes two episodes, so that both numbers carry over."""
    monkeypatch.setattr(layout, "CHUNK_FILES", 2)
    monkeypatch.setattr(layout, "EPISODES_PER_FILE", 2)
    episodes = [make_episode(rng, name=str(i), steps=2) for i in range(9)]
    folder = write(tmp_path / "d", episodes[:5], images="png")
    write(folder, episodes[5:], images="png")
    assert (folder / "data/chunk-004/file-000.parquet").is_file()
    assert (folder / "meta/episodes/chunk-002/file-000.parquet").is_file()
    for left, right in zip(episodes, read(folder), strict=True):
        assert_same(left, right)


def test_images_are_brought_to_the_size_that_is_asked_for(tmp_path, rng):
    folder = write(tmp_path / "d", [make_episode(rng)])
    assert stored_schema(folder) == SCHEMA
    (episode,) = LeRobotDataset(folder, Schema(side_px=16, wrist_px=64))
    assert episode.observation.side.shape == (6, 16, 16, 3)
    assert episode.observation.wrist.shape == (6, 64, 64, 3)


def test_actions_are_rescaled_when_another_scale_is_asked_for(tmp_path, rng):
    written = make_episode(rng)
    folder = write(tmp_path / "d", [written])
    (episode,) = read(folder, action_scale=ActionScale(metres=0.06, radians=0.1))
    np.testing.assert_allclose(episode.action[:, :3], written.action[:, :3] / 2, rtol=1e-6)
    np.testing.assert_allclose(episode.action[:, 3:], written.action[:, 3:], rtol=1e-6)


def test_without_the_final_observation_the_last_is_repeated(tmp_path, rng):
    folder = write(tmp_path / "d", [make_episode(rng)], images="png")
    shutil.rmtree(folder / "final")
    (episode,) = read(folder)
    for rows in (episode.observation.side, episode.observation.proprio):
        np.testing.assert_array_equal(rows[-1], rows[-2])


class TestDamage:
    """A damaged file is named in the error."""

    @pytest.mark.parametrize(
        "name",
        [
            "data/chunk-000/file-000.parquet",
            "final/chunk-000/file-000.parquet",
            "meta/tasks.parquet",
            "meta/episodes/chunk-000/file-000.parquet",
            f"videos/{layout.SIDE}/chunk-000/file-000.mp4",
        ],
    )
    def test_a_file_cut_short(self, tmp_path, rng, name):
        folder = write(tmp_path / "d", [make_episode(rng)])
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(CorruptData, match=path.name):
            read(folder)

    def test_rows_that_are_missing(self, tmp_path, rng):
        folder = write(tmp_path / "d", [make_episode(rng, steps=5)])
        write(tmp_path / "other", [make_episode(rng, steps=4)])
        shutil.copy(tmp_path / "other/data/chunk-000/file-000.parquet", folder / "data/chunk-000/file-000.parquet")
        with pytest.raises(CorruptData, match="4 rows of episode 0, expected 5"):
            read(folder)

    def test_a_video_of_fewer_frames(self, tmp_path, rng):
        folder = write(tmp_path / "d", [make_episode(rng, steps=5)])
        write(tmp_path / "other", [make_episode(rng, steps=4)])
        name = f"videos/{layout.SIDE}/chunk-000/file-000.mp4"
        shutil.copy(tmp_path / "other" / name, folder / name)
        with pytest.raises(CorruptData, match=r"ends before 0\.400 s"):
            read(folder)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("data_path", "../../{chunk_index}{file_index}"),
            ("data_path", "{other}"),
            ("data_path", 3),
            ("video_path", None),
        ],
    )
    def test_an_info_with_a_wrong_value(self, tmp_path, rng, name, value):
        folder = write(tmp_path / "d", [make_episode(rng)])
        info = json.loads((folder / layout.INFO).read_text())
        (folder / layout.INFO).write_text(json.dumps(info | {name: value}))
        with pytest.raises(CorruptData, match="d: "):
            read(folder)

    @pytest.mark.parametrize("column", ["data/chunk_index", "twinrl/outcome", "length"])
    def test_a_row_without_a_column(self, tmp_path, rng, column):
        folder = write(tmp_path / "d", [make_episode(rng)])
        path = folder / "meta/episodes/chunk-000/file-000.parquet"
        pq.write_table(pq.read_table(path).drop_columns([column]), path)
        with pytest.raises(CorruptData, match=f"episode 0 cannot be read .*{column}"):
            read(folder)

    @pytest.mark.parametrize(
        "content",
        [
            "[]",
            "{}",
            '{"codebase_version": "v3.0", "features": 3}',
            '{"codebase_version": "v3.0", "features": {"action": 1}}',
            "{",
        ],
    )
    def test_an_info_of_something_else(self, tmp_path, content):
        (tmp_path / "meta").mkdir()
        (tmp_path / "meta" / "info.json").write_text(content)
        with pytest.raises(CorruptData, match=r"info\.json"):
            LeRobotDataset(tmp_path, SCHEMA)

    def test_an_older_version_is_refused_with_the_way_out(self, tmp_path):
        (tmp_path / "meta").mkdir()
        (tmp_path / "meta" / "info.json").write_text('{"codebase_version": "v2.1", "features": {}}')
        with pytest.raises(InputError, match=r"v2\.1, only v3\.0 is read; lerobot converts"):
            LeRobotDataset(tmp_path, SCHEMA)


def test_the_names_of_numbers_are_one_for_each():
    features = layout.make_features(SCHEMA, "png", SCALE, "", 10)
    assert len(set(features[layout.STATE]["names"])) == len(features[layout.STATE]["info"]["units"]) == 25
    assert len(set(features[layout.ACTION]["names"])) == 7
    assert not {name for name in features if "/" in name}
