"""These tests read RLDS: the mapping of foreign data, refusals, and the sample of Bridge."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from rlds_samples import FEATURES, episode, nested, tensor, text, write_dataset
from scipy.spatial.transform import Rotation

from learner.datasets import ActionScale, RldsMapping, open_dataset
from learner.datasets.rlds import RldsDataset
from learner.datasets.rlds.records import read_records
from protos.errors import CorruptData, InputError
from protos.proprioception import tool_vector
from protos.schema import Outcome, Schema, Source

DATA = Path(os.environ.get("TWINRL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
SCHEMA = Schema(side_px=32, wrist_px=16)


def read_one(tmp_path, values, features=FEATURES, **mapping):
    """Returns the only episode of a dataset."""
    folder = write_dataset(tmp_path / "one", [[values]], features)
    (found,) = RldsDataset(folder, SCHEMA, mapping=RldsMapping(**mapping))
    return found


def test_a_foreign_episode_in_our_units(tmp_path):
    values = episode(np.random.default_rng(0))
    found = read_one(tmp_path, values, scale_percentile=100.0, hz=5.0)
    action = np.reshape(values["steps/action"], (5, 7))
    state = np.reshape(values["steps/observation/state"], (5, 7))
    turn = Rotation.from_euler("xyz", action[:, 3:6]).as_rotvec()
    np.testing.assert_allclose(found.action[:, :3], action[:, :3] / np.abs(action[:, :3]).max(), rtol=1e-5)
    np.testing.assert_allclose(found.action[:, 3:6], turn / np.abs(turn).max(), rtol=1e-4, atol=1e-6)
    assert (found.action[:, 6] == 2 * action[:, 6] - 1).all()
    proprio = found.observation.proprio
    np.testing.assert_allclose(proprio[:5, :3], state[:, :3], rtol=1e-6)
    np.testing.assert_allclose(
        proprio[:5, 3:6], tool_vector(Rotation.from_euler("xyz", state[:, 3:6]).as_rotvec()), atol=1e-5
    )
    np.testing.assert_allclose(proprio[1:5, 6:9], 5.0 * np.diff(state[:, :3], axis=0), rtol=1e-4, atol=1e-5)
    assert (proprio[5] == proprio[4]).all()
    assert found.observation.side.shape == (6, 32, 32, 3) and found.observation.wrist.any()
    assert (found.name, found.instruction, found.source) == ("cups/train/0", "stack the cups", Source.REAL)
    assert found.human.all() and found.configuration.poses == {} and found.outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(
    ("reward", "terminal", "last", "outcome"),
    [
        ([0.0, 0.0, 1.0], 1, 1, Outcome.SUCCESS),
        ([0.0, 0.0, 0.0], 1, 1, Outcome.FAILURE),
        ([0.0, 0.0, 0.0], 0, 1, Outcome.TIMEOUT),
        ([0.0, 0.0, 0.0], 0, 0, Outcome.UNKNOWN),
    ],
)
def test_how_an_episode_ended(tmp_path, reward, terminal, last, outcome):
    rng = np.random.default_rng(0)
    ends = {"steps/reward": reward, "steps/is_terminal": [0, 0, terminal], "steps/is_last": [0, 0, last]}
    found = read_one(tmp_path, episode(rng, 3, **ends))
    assert found.outcome is outcome and found.reward.tolist() == reward


def test_a_last_step_that_only_holds_the_final_observation(tmp_path):
    values = episode(np.random.default_rng(0), 4, **{"steps/reward": [0.0, 0.0, 0.0, 1.0]})
    found = read_one(tmp_path, values, last_action=False)
    assert len(found.action) == 3 and len(found.observation) == 4
    assert found.reward.tolist() == [0, 0, 1] and found.outcome is Outcome.SUCCESS


def test_missing_cameras_are_black_and_a_missing_state_is_zero(tmp_path):
    features = {
        **FEATURES,
        "observation": nested({"image_0": FEATURES["observation"]["featuresDict"]["features"]["image_0"]}),
    }
    values = episode(np.random.default_rng(0))
    found = read_one(tmp_path, values, features, state=())
    assert found.observation.side.any() and not found.observation.wrist.any() and not found.observation.proprio.any()
    with pytest.raises(InputError, match=r"no feature steps/observation/state; the dataset has .*image_0"):
        read_one(tmp_path, values, features)
    with pytest.raises(InputError, match=r"no camera is known by the mapping; below .* steps/observation/image_0"):
        read_one(tmp_path, values, features, state=(), side=("front",))


def test_columns_from_several_features_and_images_that_are_plain_numbers(tmp_path):
    features = {
        "observation": nested(
            {"rgb": tensor("uint8", 16, 16, 3), "pose": tensor("float32", 7), "grip": tensor("float64")}
        ),
        "action": nested({"world": tensor("float32", 3), "turn": tensor("float32", 3), "close": tensor("int32")}),
        "text": text(),
    }
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 16, 16, 3))
    quaternion = Rotation.random(2, rng=rng).as_quat()
    pose = np.concatenate([rng.uniform(size=(2, 3)), quaternion], axis=1).astype(np.float32)
    values = {
        "steps/observation/rgb": image.reshape(-1).tolist(),
        "steps/observation/pose": pose.reshape(-1).tolist(),
        "steps/observation/grip": [0.0, 100.0],
        "steps/action/world": [0.1, 0.0, 0.0, 0.0, -0.1, 0.0],
        "steps/action/turn": [0.0] * 6,
        "steps/action/close": [1, 0],
        "steps/text": [b"", b"grasp"],
    }
    found = read_one(
        tmp_path,
        values,
        features,
        instruction=("steps/text",),
        state=("steps/observation/pose", "steps/observation/grip"),
        state_rotation="quaternion_xyzw",
        state_gripper=(100.0, 0.0),
        action=("steps/action/world", "steps/action/turn", "steps/action/close"),
        action_gripper=(1.0, 0.0),
        scale_percentile=100.0,
    )
    assert found.instruction == "grasp"
    assert found.action.tolist() == [[1, 0, 0, 0, 0, 0, -1], [0, -1, 0, 0, 0, 0, 1]]
    assert found.observation.proprio[:, 18].tolist() == [1, 0, 0]
    np.testing.assert_allclose(
        found.observation.proprio[:2, 3:6], tool_vector(Rotation.from_quat(pose[:, 3:]).as_rotvec()), atol=1e-5
    )
    assert found.observation.side.shape == (3, 32, 32, 3) and found.observation.side.std() > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps/action": [0.0] * 34}, "34 values do not fill rows"),
        ({"steps/action": [0.0] * 28}, "5 side, 5 wrist images, 5 states, 4 actions"),
        ({"steps/action": [float("nan")] * 35}, "NaN"),
        ({"steps/action": [b"x"]}, "do not fill"),
        ({"steps/reward": [0.0] * 4}, "4 values of steps/reward, 5 actions"),
        ({"steps/observation/image_0": [0.0] * 5}, "bytes are wanted"),
        ({"steps/observation/image_0": [b"no image"] * 5}, "neither JPEG nor PNG"),
        ({"steps/language_instruction": [b"\xff"] * 5}, "UTF-8"),
    ],
)
def test_damaged_episodes_say_where_they_are(tmp_path, changed, message):
    rng = np.random.default_rng(0)
    folder = write_dataset(tmp_path / "cups", [[episode(rng)], [episode(rng), episode(rng, **changed)]])
    for scale in (ActionScale(metres=0.1, radians=0.1), None):
        data = RldsDataset(folder, SCHEMA, action_scale=scale)
        assert [each.name for each in data] == ["cups/train/0", "cups/train/1"]
        (skipped,) = data.skipped
        assert re.search(rf"tfrecord-00001-of-00002: record at byte [1-9]\d+: .*{message}", str(skipped))


def test_shards_come_in_order_and_must_be_whole(tmp_path):
    rng = np.random.default_rng(0)
    shards = [[episode(rng, steps) for steps in (2, 3)], [episode(rng, 4)]]
    folder = write_dataset(tmp_path / "cups", shards)
    assert [len(each.action) for each in RldsDataset(folder, SCHEMA)] == [2, 3, 4]
    last = folder / "cups-train.tfrecord-00001-of-00002"
    last.write_bytes(b"")
    data = RldsDataset(folder, SCHEMA)
    assert [len(each.action) for each in data] == [2, 3]
    assert [str(each) for each in data.skipped] == [f"{last}: 0 records; dataset_info.json promises 1"]
    last.unlink()
    with pytest.raises(InputError, match=r"missing, though dataset_info.json lists it"):
        RldsDataset(folder, SCHEMA)


def test_only_the_episodes_that_are_asked_for_are_read(tmp_path):
    """The second shard is opened after the first is read, and not for the scale."""
    rng = np.random.default_rng(0)
    folder = write_dataset(tmp_path / "cups", [[episode(rng)], [episode(rng)]])
    (folder / "cups-train.tfrecord-00001-of-00002").write_bytes(b"damaged")
    data = RldsDataset(folder, SCHEMA, mapping=RldsMapping(scale_episodes=1))
    assert len(data) == 2 and next(iter(data)).name == "cups/train/0"


@pytest.mark.parametrize(
    ("info", "kind", "message"),
    [
        ({"fileFormat": "array_record"}, InputError, "array_record; tfrecord is read"),
        ({"splits": []}, InputError, "no split 'train'; there is none"),
        ({"splits": [{"name": "train", "shardLengths": "many"}]}, CorruptData, "not the description of a dataset"),
        ({"name": "../../etc/cups"}, CorruptData, "names the file"),
        ({"splits": [{"name": "train", "shardLengths": ["-1"]}]}, CorruptData, "a shard of -1 episodes"),
        ({"splits": 3}, CorruptData, "not the description of a dataset"),
    ],
)
def test_descriptions_that_make_no_sense(tmp_path, info, kind, message):
    folder = write_dataset(tmp_path / "cups", [[episode(np.random.default_rng(0))]], **info)
    with pytest.raises(kind, match=message):
        RldsDataset(folder, SCHEMA)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"featuresDict": 3}', '{"featuresDict": {"features": {"a": 1}}}', "[" * 10**5]
)
def test_features_that_make_no_sense(tmp_path, content):
    folder = write_dataset(tmp_path / "cups", [[episode(np.random.default_rng(0))]])
    (folder / "features.json").write_text(content)
    with pytest.raises(CorruptData, match=r"features.json: "):
        RldsDataset(folder, SCHEMA)


def test_an_action_of_another_kind_is_refused_with_advice(tmp_path):
    features = {**FEATURES, "action": tensor("float32", 5)}
    values = episode(np.random.default_rng(0), **{"steps/action": [0.0] * 25})
    with pytest.raises(InputError, match=r"record at byte 0|5 columns; position .* describe the dataset in a settings"):
        read_one(tmp_path, values, features)


def test_bridge():
    folder = DATA / "bridge" / "bridge_dataset"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set TWINRL_SHARED_DATA to the folder of shared test data")
    data = open_dataset(folder, Schema())
    episodes = list(data)
    assert len(episodes) == len(data) == 25 and data.format == "rlds"
    assert {len(each.action) for each in episodes} == {10}
    assert "put carrot on plate" in {each.instruction for each in episodes}
    assert 0.02 < data.action_scale.metres < 0.03 and 0.15 < data.action_scale.radians < 0.25
    action = np.concatenate([each.action for each in episodes])
    assert np.abs(action).max() == 1 and set(np.sign(action[:, 6])) == {-1, 1}
    first = episodes[0]
    assert first.observation.side.shape == (11, 64, 64, 3) and not first.observation.wrist.any()
    np.testing.assert_allclose(first.observation.proprio[0, :3], (0.234, 0.112, 0.175), atol=1e-3)
    assert (first.observation.proprio[0, 18], first.human.all()) == (1.0, True)
    wanted = ActionScale(metres=0.05, radians=0.25)
    other = next(iter(open_dataset(folder, Schema(side_px=32), action_scale=wanted)))
    assert other.observation.side.shape == (11, 32, 32, 3)
    inside = np.abs(first.action) < 1
    same = data.action_scale.converted(first.action, wanted)
    np.testing.assert_allclose(other.action[inside], same[inside], atol=1e-6)


def test_settings_that_make_no_sense():
    with pytest.raises(InputError, match="state_gripper=1, 1: closed and open must differ"):
        RldsMapping(state_gripper=(1.0, 1.0))
    with pytest.raises(InputError, match="hz=0"):
        RldsMapping(hz=0.0)


def test_a_record_that_fails_its_checksum_costs_itself_only(tmp_path):
    rng = np.random.default_rng(0)
    folder = write_dataset(tmp_path / "cups", [[episode(rng, steps) for steps in (2, 3, 4)], [episode(rng, 5)]])
    file = folder / "cups-train.tfrecord-00000-of-00002"
    second = [record.offset for record in read_records(file)][1]
    data = bytearray(file.read_bytes())
    data[second + 50] ^= 1
    file.write_bytes(data)
    dataset = RldsDataset(folder, SCHEMA)
    assert [(each.name, each.steps) for each in dataset] == [
        ("cups/train/0", 2),
        ("cups/train/2", 4),
        ("cups/train/3", 5),
    ]
    assert [str(each) for each in dataset.skipped] == [
        f"{file}: record at byte {second}: its payload fails the checksum"
    ]


def test_a_torn_file_costs_what_follows_in_it(tmp_path):
    rng = np.random.default_rng(0)
    folder = write_dataset(tmp_path / "cups", [[episode(rng, steps) for steps in (2, 3, 4)], [episode(rng, 5)]])
    file = folder / "cups-train.tfrecord-00000-of-00002"
    second = [record.offset for record in read_records(file)][1]
    file.write_bytes(file.read_bytes()[: second + 100])
    dataset = RldsDataset(folder, SCHEMA)
    assert [(each.name, each.steps) for each in dataset] == [("cups/train/0", 2), ("cups/train/3", 5)]
    (skipped,) = dataset.skipped
    assert skipped.count == 2 and f"record at byte {second}: " in str(skipped) and "the file ends after" in str(skipped)
