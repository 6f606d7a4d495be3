"""These tests write RLDS, read it back, and crash the writer.

scripts/check_rlds.py opens the same in tensorflow_datasets.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from learner.datasets import ActionScale, open_dataset
from learner.datasets.rlds import RldsWriter
from learner.datasets.rlds.own import to_features
from learner.datasets.rlds.records import encode_example, framed
from protos.episode import Episode
from protos.errors import CorruptData, InputError, SchemaMismatch
from protos.schema import Configuration, Observation, Outcome, Schema, Source

SCHEMA = Schema(side_px=32, wrist_px=16)
SCALE = ActionScale(metres=0.025, radians=0.1)
POSES = {"cube": (-0.55, 0.1, 0.018, 0.3), "target": (-0.4, 0.0, 0.001, 0.0)}


def make_episode(name="e0", steps=3, seed=0, **changed):
    rng = np.random.default_rng(seed)

    def image(px):
        return rng.integers(0, 256, (steps + 1, px, px, 3), np.uint8)

    values = {
        "name": name,
        "instruction": "Put the cube on the disc: £.",
        "configuration": Configuration(region="A", cell=3, poses=POSES),
        "observation": Observation(
            side=image(32), wrist=image(16), proprio=rng.normal(size=(steps + 1, 25)).astype(np.float32)
        ),
        "action": rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        "reward": rng.uniform(size=steps).astype(np.float32),
        "human": rng.integers(0, 2, steps).astype(bool),
        "outcome": Outcome.SUCCESS,
        "source": Source.TWIN,
    }
    return Episode(**values | changed)


def write(folder, episodes, **options):
    writer = RldsWriter(folder, SCHEMA, action_scale=SCALE, **options)
    for episode in episodes:
        writer.add(episode)
    writer.close()
    return folder


def assert_same(a, b):
    for name in ("name", "instruction", "configuration", "outcome", "source"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("action", "reward", "human"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    for name in ("side", "wrist", "proprio"):
        np.testing.assert_array_equal(getattr(a.observation, name), getattr(b.observation, name))


def names(folder):
    return [episode.name for episode in open_dataset(folder, SCHEMA)]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_episodes_come_back_as_they_were(tmp_path, outcome):
    written = [
        make_episode("one", outcome=outcome),
        make_episode("two", 1, seed=1, source=Source.REAL, configuration=Configuration(region="")),
    ]
    data = open_dataset(write(tmp_path / "d", written), SCHEMA)
    assert (len(data), data.name, data.action_scale) == (2, "twinrl", SCALE)
    for a, b in zip(written, data, strict=True):
        assert_same(a, b)


@settings(max_examples=20)  # each syncs to disk
@given(
    arrays(np.float32, (3, 25), elements=st.floats(width=32)),
    arrays(np.float32, (2, 7), elements=st.floats(-1, 1, width=32)),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_any_numbers_and_texts_come_back(tmp_path_factory, proprio, action, instruction, name):
    episode = make_episode(name, 2, instruction=instruction, action=action)
    episode = replace(episode, observation=replace(episode.observation, proprio=proprio))
    folder = tmp_path_factory.mktemp("rlds") / "d"
    (read,) = open_dataset(write(folder, [episode]), SCHEMA)
    assert_same(episode, read)


def test_a_reader_may_want_another_scale_size_and_instruction(tmp_path):
    write(tmp_path / "d", [make_episode()])
    wanted = ActionScale(metres=0.05, radians=0.1)
    (read,) = open_dataset(tmp_path / "d", Schema(side_px=16, wrist_px=16), action_scale=wanted, instruction="other")
    np.testing.assert_allclose(read.action[:, :3], make_episode().action[:, :3] / 2, rtol=1e-5)
    assert read.observation.side.shape == (4, 16, 16, 3) and read.instruction == "other"


def test_shards_are_begun_when_one_is_full(tmp_path):
    episodes = [make_episode(f"e{i}", seed=i) for i in range(5)]
    size = len((write(tmp_path / "one", episodes[:1]) / "twinrl-train.tfrecord-00000").read_bytes())
    write(tmp_path / "d", episodes, shard_bytes=int(2.5 * size))
    info = json.loads((tmp_path / "d" / "dataset_info.json").read_text())
    assert info["splits"][0]["shardLengths"] == ["2", "2", "1"]
    assert names(tmp_path / "d") == [f"e{i}" for i in range(5)]
    write(tmp_path / "small", episodes, shard_bytes=1)
    assert names(tmp_path / "small") == [f"e{i}" for i in range(5)]


def test_a_writer_goes_on_where_the_last_one_stopped(tmp_path):
    write(tmp_path / "d", [make_episode("a"), make_episode("b")])
    writer = RldsWriter(tmp_path / "d", SCHEMA, action_scale=SCALE)
    assert writer.names == {"a", "b"}
    writer.add(make_episode("c"))
    assert names(tmp_path / "d") == ["a", "b", "c"], "what add has returned from is there without close"
    assert writer.names == {"a", "b", "c"}
    writer.close()


@pytest.mark.parametrize("torn", [b"\0" * 300, b"half a header", framed(b"x" * 500)[:-1]])
def test_a_torn_record_at_the_end_is_cut_off(tmp_path, torn):
    file = write(tmp_path / "d", [make_episode("a")]) / "twinrl-train.tfrecord-00000"
    whole = file.read_bytes()
    file.write_bytes(whole + torn)
    assert names(tmp_path / "d") == ["a"], "a reader needs no repair"
    write(tmp_path / "d", [make_episode("b")])
    assert names(tmp_path / "d") == ["a", "b"] and file.read_bytes().startswith(whole)


def test_a_whole_record_that_was_not_counted_yet_is_kept(tmp_path):
    """A crash falls between the record and dataset_info.json."""
    write(tmp_path / "d", [make_episode("a")])
    info = (tmp_path / "d" / "dataset_info.json").read_bytes()
    write(tmp_path / "d", [make_episode("b")])
    (tmp_path / "d" / "dataset_info.json").write_bytes(info)
    assert names(tmp_path / "d") == ["a"]
    write(tmp_path / "d", [])
    assert names(tmp_path / "d") == ["a", "b"]


def test_damage_to_what_was_counted_is_not_cut_off(tmp_path):
    file = write(tmp_path / "d", [make_episode("a"), make_episode("b")]) / "twinrl-train.tfrecord-00000"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptData, match="fails the checksum"):
        RldsWriter(tmp_path / "d", SCHEMA, action_scale=SCALE)
    assert file.read_bytes() == data


def test_a_crash_while_a_folder_is_made_leaves_one_that_can_be_used(tmp_path):
    whole = write(tmp_path / "whole", [])
    for kept in ([], ["twinrl.json"], ["twinrl.json", "features.json"]):
        folder = tmp_path / str(len(kept))
        folder.mkdir()
        (folder / "twinrl.json.tmp").touch()
        for name in kept:
            (folder / name).write_bytes((whole / name).read_bytes())
        assert names(write(folder, [make_episode("a")])) == ["a"]


def test_other_data_are_not_touched(tmp_path):
    write(tmp_path / "d", [make_episode()])
    with pytest.raises(SchemaMismatch, match="another schema or action scale"):
        RldsWriter(tmp_path / "d", Schema(), action_scale=SCALE)
    with pytest.raises(SchemaMismatch, match="another schema or action scale"):
        RldsWriter(tmp_path / "d", SCHEMA, action_scale=replace(SCALE, metres=1.0))
    renamed = tmp_path / "renamed"
    shutil.copytree(tmp_path / "d", renamed)
    info = json.loads((renamed / "dataset_info.json").read_text())
    (renamed / "dataset_info.json").write_text(json.dumps(info | {"name": "other"}))
    with pytest.raises(InputError, match="holds the dataset 'other', not 'twinrl'"):
        RldsWriter(renamed, SCHEMA, action_scale=SCALE)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(InputError, match="not empty"):
        RldsWriter(tmp_path / "photos", SCHEMA, action_scale=SCALE)
    writer = RldsWriter(tmp_path / "d", SCHEMA, action_scale=SCALE)
    with pytest.raises(
        SchemaMismatch, match=r"3 side images of \(32, 32, 3\) for 3 steps, this dataset has 4 of 32 x 32"
    ):
        writer.add(replace(make_episode(), observation=make_episode(steps=2).observation))
    writer.close()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"episode_metadata/configuration": [b'{"poses": 3}']}, "metadata of an episode"),
        ({"episode_metadata/configuration": [b"[" * 10**5]}, "metadata of an episode"),
        ({"episode_metadata/outcome": [b"victory"]}, "metadata of an episode"),
        ({"episode_metadata/source": []}, "no episode_metadata/source"),
        ({"steps/human": np.zeros(3, np.int64)}, r"features of \[3, 4\] steps"),
        ({"steps/observation/side": []}, r"features of \[0, 4\] steps"),
        ({"steps/observation/proprio": np.zeros(20, np.float32)}, "do not fill rows"),
    ],
)
def test_damaged_episodes_of_our_own_say_where_they_are(tmp_path, changed, message):
    file = write(tmp_path / "d", [make_episode()]) / "twinrl-train.tfrecord-00000"
    file.write_bytes(framed(encode_example({**to_features(make_episode()), **changed})))
    with pytest.raises(CorruptData, match=rf"twinrl-train.tfrecord-00000: record at byte 0: .*{message}"):
        names(tmp_path / "d")


@pytest.mark.parametrize("mark", ["{}", '{"action_scale": {"metres": -1, "radians": 0}}', "[1]"])
def test_a_damaged_mark_is_named(tmp_path, mark):
    write(tmp_path / "d", [make_episode()])
    (tmp_path / "d" / "twinrl.json").write_text(mark)
    with pytest.raises(CorruptData, match=r"twinrl.json: no action scale"):
        open_dataset(tmp_path / "d", SCHEMA)
