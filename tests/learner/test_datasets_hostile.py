"""These tests read hostile datasets, which try to open other files or to exhaust memory."""

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_samples import SCHEMA, image, make_episode, write

from learner.datasets import open_dataset
from learner.datasets import stored_schema as stored_sizes
from learner.datasets.lerobot import LeRobotDataset, layout
from learner.datasets.lerobot.layout import Slot
from learner.datasets.lerobot.video import decode, encode
from learner.datasets.released.pickles import read_plain
from learner.datasets.released.reader import MAX_STEPS
from learner.datasets.rlds.description import FeatureSpec, read_info
from learner.datasets.rlds.records import decode_example, encode_example
from protos.errors import CorruptData

MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    "playlist",
    ["ffconcat version 1.0\nfile other.mp4\n", "#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"],
    ids=["ffconcat", "hls"],
)
def test_a_playlist_that_is_called_a_video_opens_nothing(tmp_path, playlist):
    (tmp_path / "other.mp4").write_bytes(encode(np.stack([image(64, 0.5)]), 10))
    (tmp_path / "file-000.mp4").write_text(playlist)
    with pytest.raises(CorruptData, match="a video that does not decode"):
        decode(tmp_path / "file-000.mp4", np.zeros(1), 10, 16)


def test_a_video_of_huge_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("learner.datasets.lerobot.video.MAX_PIXELS", 1000)
    (tmp_path / "v.mp4").write_bytes(encode(np.stack([image(64, 0.5)]), 10))
    with pytest.raises(CorruptData, match="a video that does not decode"):
        decode(tmp_path / "v.mp4", np.zeros(1), 10, 16)


@pytest.mark.parametrize(
    "template",
    [
        "../other/{chunk_index}.parquet",
        "/etc/{chunk_index}",
        "{chunk_index:999999999d}",
        "{chunk_index.__class__}",
        "{video_key!r:>999}",
        "{other}",
    ],
)
def test_paths_stay_in_the_folder_and_are_names_and_numbers(tmp_path, template):
    with pytest.raises(CorruptData, match="leads out of it, or is not filled in"):
        Slot(1, 2).path(tmp_path, template, "side")


def test_paths_are_filled_in(tmp_path):
    template = "videos/{video_key}/{chunk_index:03d}-{file_index}.mp4"
    assert Slot(1, 12).path(tmp_path, template, "side") == tmp_path / "videos/side/001-12.mp4"


@pytest.mark.parametrize(
    "changed",
    [
        {"data_path": 5},
        {"data_path": None},
        {"features": {"action": {"dtype": "float32", "shape": [], "info": {"writer": "twinrl"}}}},
        {"features": {"action": {"dtype": "float32", "shape": [7], "info": [1]}}},
    ],
    ids=repr,
)
def test_an_info_that_makes_no_sense_is_corrupt(tmp_path, changed):
    folder = write(tmp_path / "d", [make_episode(np.random.default_rng(0))])
    file = folder / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(CorruptData, match="cannot be read"):
        list(LeRobotDataset(folder, SCHEMA))


def test_a_table_that_swells_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "MAX_BYTES", MEBIBYTE)
    pq.write_table(pa.table({"a": ["x" * 1000] * 100_000}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < MEBIBYTE
    with pytest.raises(CorruptData, match=f"more than {MEBIBYTE} bytes"):
        layout.read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("length", ["1e999", "99999999999999999999999", "-1"])
def test_shards_of_no_possible_length(tmp_path, length):
    split = f'{{"name": "train", "shardLengths": [{length}]}}'
    (tmp_path / "dataset_info.json").write_text(f'{{"name": "d", "splits": [{split}]}}')
    with pytest.raises(CorruptData, match="not the description of a dataset"):
        read_info(tmp_path)


@pytest.mark.parametrize("shape", [(10**9, 10**9, 10**9), (1,) * 70], ids=["large", "many axes"])
def test_shapes_that_no_array_can_have(shape):
    example = decode_example(encode_example({"n": np.zeros(0, np.int64)}))
    with pytest.raises(CorruptData, match="0 values do not fill rows"):
        FeatureSpec(kind="tensor", dtype="int64", shape=shape, stepwise=True).numbers(example["n"])


def test_bytes_that_a_pickle_has_made_again_and_again_count():
    """The pickle encodes one text a hundred times."""
    text = b"X" + (1_000_000).to_bytes(4, "little") + b"x" * 1_000_000
    program = b"\x80\x02](c_codecs\nencode\nq\x00" + text + b"q\x01X\x06\x00\x00\x00latin1\x86q\x02R"
    with pytest.raises(CorruptData, match="more than limit_bytes"):
        read_plain(io.BytesIO(program + b"h\x00h\x02R" * 100 + b"e."), 8 * MEBIBYTE)


def test_lists_of_one_list_are_not_multiplied_out(tmp_path):
    pose = [0.0] * 10
    for _ in range(40):
        pose = [pose] * 10
    file = tmp_path / "pick_banana.pkl"
    file.write_bytes(pickle.dumps({"data": [{"left_pose": pose}] * 2}))
    with pytest.raises(CorruptData, match="left_pose is a list of lists"):
        list(open_dataset(file, SCHEMA))


@pytest.mark.parametrize("what", ["frames", "transitions"])
def test_one_frame_named_without_end_is_no_episode(tmp_path, what):
    frame = {"left_pose": [0.0] * 6, "left_gripper": 0.0, "dones": False}
    value = {"data": [frame] * (MAX_STEPS + 1)} if what == "frames" else [frame] * (MAX_STEPS + 2)
    file = tmp_path / "pick_banana.pkl"
    file.write_bytes(pickle.dumps(value))
    with pytest.raises(CorruptData, match=f"more than {MAX_STEPS}"):
        list(open_dataset(file, SCHEMA))


@pytest.mark.parametrize("mark", ["[]", "{}", '{"schema": {"side_px": "large"}}'])
def test_sizes_of_our_own_rlds_that_make_no_sense(tmp_path, mark):
    (tmp_path / "twinrl.json").write_text(mark)
    with pytest.raises(CorruptData, match="no image sizes in it"):
        stored_sizes(tmp_path)
