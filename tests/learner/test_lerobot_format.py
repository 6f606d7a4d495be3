"""These tests check what lerobot 0.4.4 and 0.6.1 require of a dataset; the package is not installed here.

Each test names the place in lerobot that would fail. The package itself is run by scripts/check_lerobot.py.
"""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_samples import SCHEMA, make_episode, write

from learner.datasets.lerobot.stats import combine, image_stats, number_stats
from protos.schema import Outcome

TASKS = ("Put the cube on the disc.", "Open the drawer.")
KINDS = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}


@pytest.fixture(scope="module", params=["png", "video"])
def dataset(request, tmp_path_factory):
    rng = np.random.default_rng(0)
    outcomes = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT)
    episodes = [
        make_episode(rng, name=str(i), steps=3 + i, instruction=TASKS[i % 2], outcome=outcomes[i]) for i in range(3)
    ]
    return write(tmp_path_factory.mktemp("lerobot") / "d", episodes, images=request.param), episodes


def info_of(folder):
    return json.loads((folder / "meta/info.json").read_text())


def rows_of(folder):
    """`load_nested_dataset`: every file that the pattern finds, in order, with one schema."""
    tables = [pq.read_table(path) for path in sorted((folder / "data").glob("*/*.parquet"))]
    return pa.concat_tables(tables)


def episodes_of(folder):
    return pa.concat_tables(
        pq.read_table(path) for path in sorted((folder / "meta/episodes").glob("*/*.parquet"))
    ).to_pylist()


def test_info_has_what_dataset_info_is_made_of(dataset):
    """`DatasetInfo.from_dict`, which warns of fields that it does not know, and its checks."""
    info = info_of(dataset[0])
    assert set(info) == {
        *("codebase_version", "fps", "features", "total_episodes", "total_frames", "total_tasks", "chunks_size"),
        *("data_files_size_in_mb", "video_files_size_in_mb", "data_path", "video_path", "robot_type", "splits"),
    }
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 12, 2)
    assert isinstance(info["fps"], int)
    assert info["fps"] == 10
    assert info["splits"] == {"train": "0:3"}


def test_features_name_dtype_shape_and_names(dataset):
    """`get_hf_features_from_features`, `_validate_feature_names` and the default features."""
    features = info_of(dataset[0])["features"]
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        assert features[name]["shape"] == [1]
    for name, feature in features.items():
        assert "/" not in name
        assert {"dtype", "shape", "names"} <= set(feature)
        if feature["names"] is not None and feature["dtype"] in KINDS:
            assert feature["shape"] == [len(feature["names"])]
    for name, px in (("observation.images.side", SCHEMA.side_px), ("observation.images.wrist", SCHEMA.wrist_px)):
        assert features[name]["shape"] == [px, px, 3]
        assert features[name]["names"] == ["height", "width", "channels"]
        assert features[name]["dtype"] in ("image", "video")


def test_columns_have_the_types_of_their_features(dataset):
    """`Dataset.from_parquet(features=…)`: a column for every feature that is no video, and no other."""
    folder, _ = dataset
    schema = rows_of(folder).schema
    features = {name: each for name, each in info_of(folder)["features"].items() if each["dtype"] != "video"}
    assert set(schema.names) == set(features)
    for name, feature in features.items():
        kind = schema.field(name).type
        if feature["dtype"] == "image":
            assert kind == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        elif feature["shape"] == [1]:
            assert kind == KINDS[feature["dtype"]]
        else:
            assert kind == pa.list_(KINDS[feature["dtype"]], feature["shape"][0])


def test_rows_are_numbered_through(dataset):
    """`DatasetReader.get_item` and `_get_query_indices`: row i of all rows has index i."""
    folder, _ = dataset
    rows = rows_of(folder)
    assert rows["index"].to_pylist() == list(range(12))
    for episode in episodes_of(folder):
        span = rows.slice(episode["dataset_from_index"], episode["length"])
        assert set(span["episode_index"].to_pylist()) == {episode["episode_index"]}
        assert span["frame_index"].to_pylist() == list(range(episode["length"]))
        np.testing.assert_allclose(span["timestamp"].to_numpy(), np.arange(episode["length"]) / 10, atol=1e-6)
        assert episode["dataset_to_index"] == episode["dataset_from_index"] + episode["length"]


def test_paths_lead_to_files(dataset):
    """`get_data_file_path`, `get_video_file_path`; an episode's frames begin at from_timestamp."""
    folder, _ = dataset
    info = info_of(folder)
    videos = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    assert (info["video_path"] is None) == (not videos)
    for episode in episodes_of(folder):
        place = {name: episode[f"data/{name}"] for name in ("chunk_index", "file_index")}
        assert (folder / info["data_path"].format(**place)).is_file()
        assert {"tasks", "meta/episodes/chunk_index", "meta/episodes/file_index"} <= set(episode)
        for key in videos:
            place = {name: episode[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            assert (folder / info["video_path"].format(video_key=key, **place)).is_file()
            assert episode[f"videos/{key}/from_timestamp"] == 0
            assert episode[f"videos/{key}/to_timestamp"] == episode["length"] / 10


def test_tasks_are_indexed_by_their_text(dataset):
    """`load_tasks`, and `tasks.iloc[task_index].name` for every row."""
    folder, episodes = dataset
    tasks = pd.read_parquet(folder / "meta/tasks.parquet")
    assert tasks.index.name == "task"
    assert tasks["task_index"].tolist() == [0, 1]
    rows = rows_of(folder)
    named = [tasks.iloc[index].name for index in rows["task_index"].to_pylist()]
    assert named == [episode.instruction for episode in episodes for _ in episode.action]


def test_ends_are_told_apart(dataset):
    rows = rows_of(dataset[0])
    ends = [2, 6, 11]
    assert np.flatnonzero(rows["next.done"]).tolist() == ends
    assert np.flatnonzero(rows["next.success"]).tolist() == ends[:1]
    assert np.flatnonzero(rows["next.truncated"]).tolist() == ends[2:]


def test_statistics_are_those_of_all_rows(dataset):
    """`load_stats`, `_validate_stat_value`: a list each, of images in shape (3, 1, 1) and within 0 … 1."""
    folder, episodes = dataset
    stats = json.loads((folder / "meta/stats.json").read_text())
    assert set(stats) == set(info_of(folder)["features"])
    for name, each in stats.items():
        assert set(each) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
        assert np.shape(each["count"]) == (1,)
        if "images" in name:
            assert {np.shape(value) for key, value in each.items() if key != "count"} == {(3, 1, 1)}
    action = np.concatenate([episode.action for episode in episodes]).astype(np.float64)
    for key in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["action"][key], getattr(np, key)(action, axis=0), rtol=1e-9)
    side = np.concatenate([episode.observation.side[:-1] for episode in episodes]) / 255
    found = stats["observation.images.side"]
    np.testing.assert_allclose(np.ravel(found["mean"]), side.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(np.ravel(found["std"]), side.std(axis=(0, 1, 2)), rtol=1e-9)
    assert stats["action"]["count"] == [12]


def test_an_episode_of_a_table_has_statistics_of_its_own(dataset):
    folder, episodes = dataset
    for row, episode in zip(episodes_of(folder), episodes, strict=True):
        assert row["stats/action/max"] == pytest.approx(episode.action.max(axis=0).tolist())
        assert np.shape(row["stats/observation.images.wrist/mean"]) == (3, 1, 1)


def test_statistics_of_parts_join_to_those_of_the_whole():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (60, 8, 8, 3), np.uint8)
    numbers = rng.normal(3, 2, (60, 4))
    cuts = (0, 1, 20, 60)
    parts = [{"image": image_stats(frames[a:b]), "x": number_stats(numbers[a:b])} for a, b in pairwise(cuts)]
    total = None
    for part in parts:
        total = combine(total, part)
    whole = {"image": image_stats(frames), "x": number_stats(numbers)}
    for name, each in whole.items():
        for key in ("min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(total[name][key], each[key], rtol=1e-9)
    q10 = np.quantile(frames[..., 0] / 255, 0.1, method="inverted_cdf")
    assert whole["image"]["q10"][0, 0, 0] == pytest.approx(q10)
