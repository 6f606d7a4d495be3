"""These tests read the authors' files as episodes."""

import gzip
import json
import pickle

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from learner.datasets import UNKNOWN_SCALE, ActionScale, ReleasedMapping, open_dataset
from learner.datasets.released import ReleasedDataset
from learner.datasets.released.reader import gripper_commands
from protos.errors import CorruptData, InputError
from protos.schema import Outcome, Schema, Source

SCHEMA = Schema(side_px=16, wrist_px=16)


def make_frames(count=6, seed=0, **changed):
    """Returns frames of a raw twin episode; the front image is blue."""
    rng = np.random.default_rng(seed)
    pose = np.array([0.48, 0, 0.3, np.pi, 0, 0]) + np.cumsum(rng.uniform(-0.02, 0.02, (count, 6)), axis=0)
    opening = [0.08, 0.08, 0.05, 0.03, 0.03, 0.03, 0.06, 0.08]
    blue = np.zeros((24, 32, 3), np.uint8)
    blue[..., 0] = 200
    return [
        {
            "front_image": blue,
            "left_image": np.full((24, 32, 3), 10 * row, np.uint8),
            "right_image": blue,
            "left_pose": list(pose[row]) if row % 2 else pose[row],
            "left_gripper": opening[row],
            **changed,
        }
        for row in range(count)
    ]


def write_raw(folder, *episodes):
    for index, frames in enumerate(episodes):
        (folder / str(index)).mkdir(parents=True)
        with gzip.open(folder / str(index) / f"{index}.pkl.gz", "wb") as file:
            pickle.dump({"data": frames}, file)
    return folder


def make_transitions(actions, success=True, state=None):
    """Returns one episode of a training file."""
    image = {"side_policy_256": (2, 32, 32, 3), "wrist_1": (2, 16, 16, 3), "demo": (2, 16, 16, 3)}
    count = len(actions)

    def observation(row):
        shades = {name: np.full(shape, row, np.uint8) for name, shape in image.items()}
        return {**shades, "state": np.zeros((2, 19)) if state is None else np.stack([np.zeros(19), state])}

    return [
        {
            "observations": observation(row),
            "next_observations": observation(row + 1),
            "actions": np.asarray(action, np.float32),
            "rewards": 10.0 if success and row == count - 1 else -0.05,
            "masks": 1.0,
            "dones": row == count - 1,
            "infos": {"succeed": success},
            "mc_returns": np.float32(1),
            "embeddings": np.zeros((1, 384), np.float32),
        }
        for row, action in enumerate(actions)
    ]


def write_training(path, *episodes):
    path.write_bytes(pickle.dumps([transition for episode in episodes for transition in episode]))
    return path


def test_raw_poses_become_deltas(tmp_path):
    frames = make_frames()
    folder = write_raw(tmp_path / "task1_pick_banana_basket", frames, make_frames(8, seed=1))
    data = open_dataset(folder, SCHEMA)
    assert (len(data), data.format) == (2, "released")
    found, other = data
    assert (len(found.action), len(other.action)) == (5, 7) and len(found.observation) == 6
    pose = np.array([frame["left_pose"] for frame in frames])
    moved = data.action_scale.to_motion(found.action)
    np.testing.assert_allclose(moved[:, :3], np.diff(pose[:, :3], axis=0), atol=1e-6)
    reached = Rotation.from_rotvec(moved[:, 3:]) * Rotation.from_euler("xyz", pose[:-1, 3:])
    expected = Rotation.from_euler("xyz", pose[1:, 3:])
    np.testing.assert_allclose(reached.as_matrix(), expected.as_matrix(), atol=1e-5)
    both = np.abs(np.concatenate([found.action, other.action])[:, :6])
    assert both[:, :3].max() == pytest.approx(1) and both[:, 3:].max() == pytest.approx(1), "the extremes set the scale"
    assert found.action[:, 6].tolist() == [1, 1, -1, -1, -1]
    assert found.reward.tolist() == [0, 0, 0, 0, 1] and found.outcome is Outcome.SUCCESS
    assert (found.instruction, found.source, found.name) == ("Pick banana", Source.TWIN, "0.pkl.gz/0")


def test_raw_observations(tmp_path):
    found = next(iter(open_dataset(write_raw(tmp_path / "insert_block", make_frames()), SCHEMA)))
    seen = found.observation
    assert seen.side[0, 0, 0].tolist() == [0, 0, 200], "stored BGR"
    assert seen.wrist[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    np.testing.assert_allclose(seen.proprio[:, 18], [1, 1, 0.4, 0, 0, 0], atol=1e-6)
    position = seen.proprio[:, :3]
    np.testing.assert_allclose(seen.proprio[1:, 6:9], 20.0 * np.diff(position, axis=0), atol=1e-4)


def test_a_gripper_between_its_ends_does_what_it_will_be_at_next():
    opening = np.array([0.08, 0.06, 0.03, 0.0, 0.03, 0.06, 0.08, 0.05])
    assert gripper_commands(opening).tolist() == [1, -1, -1, -1, 1, 1, 1, -1]
    assert gripper_commands(np.full(3, 0.04)).tolist() == [1, 1, 1]


ACTIONS = [[0.0] * 7, [0.5, -1, 0, 0, 0, 1, -1], [-0.5, 1, 0, 0, 0, -1, 1]]


def test_training_files_without_their_scale(tmp_path):
    file = write_training(
        tmp_path / "erase_whiteboard.pkl", make_transitions(ACTIONS), make_transitions(ACTIONS[:2], success=False)
    )
    data = open_dataset(file, SCHEMA)
    assert data.action_scale == UNKNOWN_SCALE and len(data) == 2
    first, second = data
    assert first.action[:, :6].tolist() == [action[:6] for action in ACTIONS]
    assert first.action[:, 6].tolist() == [-1, -1, 1]
    assert (first.outcome, second.outcome) == (Outcome.SUCCESS, Outcome.FAILURE)
    assert first.reward.tolist() == [0, 0, 1] and not second.reward.any()
    assert first.observation.side[:, 0, 0, 0].tolist() == [0, 1, 2, 3] and not first.observation.proprio.any()
    with pytest.raises(InputError, match="do not say how far"):
        list(open_dataset(file, SCHEMA, action_scale=ActionScale(metres=0.1, radians=0.1)))


def test_training_files_with_the_statistics_of_their_normalisation(tmp_path):
    low, high = [-0.01, -0.02, 0.0, -0.1, 0.0, 0.0, 0.0], [0.03, 0.02, 0.0, 0.1, 0.0, 0.2, 1.0]
    (tmp_path / "x_delta_action_stats.json").write_text(json.dumps({"min": low, "max": high}))
    file = write_training(tmp_path / "x_delta_normalized_zero_state.pkl", make_transitions(ACTIONS))
    data = open_dataset(file, SCHEMA, instruction="wipe")
    (found,) = data
    before = (np.array(ACTIONS) + 1) * (np.array(high) - low) / 2 + low
    np.testing.assert_allclose(data.action_scale.to_motion(found.action)[:, :3], before[:, :3], atol=1e-7)
    turn = Rotation.from_euler("xyz", before[:, 3:6]).as_rotvec()
    np.testing.assert_allclose(data.action_scale.to_motion(found.action)[:, 3:], turn, atol=1e-6)
    assert found.action[:, 6].tolist() == [-1, -1, 1] and found.instruction == "wipe"
    (tmp_path / "x_delta_action_stats.json").write_text('{"min": [1], "max": [2]}')
    with pytest.raises(CorruptData, match="7 finite numbers are wanted"):
        list(data)


def test_training_files_that_were_not_normalised(tmp_path):
    actions = [[0.01, 0, 0, 0, 0, 0.1, 1], [0, -0.02, 0, 0, 0, 0, 0]]
    data = open_dataset(write_training(tmp_path / "x_delta.pkl", make_transitions(actions)), SCHEMA, instruction="wipe")
    (found,) = data
    assert data.action_scale.metres == pytest.approx(0.02) and data.action_scale.radians == pytest.approx(0.1)
    assert found.action[:, 6].tolist() == [1, -1]
    mapping = ReleasedMapping(actions="normalised")
    assert (
        ReleasedDataset(tmp_path / "x_delta.pkl", SCHEMA, mapping=mapping, instruction="").action_scale == UNKNOWN_SCALE
    )


def test_states_that_are_not_zero(tmp_path):
    euler = np.concatenate([[0.4, 0.1, 0.2, np.pi / 2, 0, 0], np.arange(12), [0.5]])
    turned = np.concatenate([[0.4, 0.1, 0.2], [0, 0, 1, 0], np.zeros(12)])
    episodes = [make_transitions(ACTIONS, state=state) for state in (euler, turned)]
    first, second = open_dataset(write_training(tmp_path / "pick_banana.pkl", *episodes), SCHEMA)
    np.testing.assert_allclose(first.observation.proprio[0], [*euler, *[0] * 6], atol=1e-6)
    np.testing.assert_allclose(second.observation.proprio[0, :7], [0.4, 0.1, 0.2, 0, 0, np.pi, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"data": []}, "no list of two or more frames"),
        ({"frames": []}, "no list of two or more frames"),
        ({"data": [1, 2]}, "no left_pose"),
        ({"data": make_frames(left_pose=[1.0, 2.0])}, "left_pose holds 2 numbers, 6 are wanted"),
        ({"data": make_frames(left_pose=[np.nan] * 6)}, "left_pose holds"),
        ({"data": make_frames(left_gripper="open")}, "left_gripper is not made of numbers"),
        ({"data": make_frames(front_image=np.zeros((4, 4)))}, "front_image is no image"),
        ([1, 2], "no list of transitions"),
        ([{"dones": True}], "no observations|no next_observations"),
        ("text", "no list of transitions"),
    ],
)
def test_other_pickles_are_refused_with_the_file_name(tmp_path, value, message):
    (tmp_path / "pick_banana.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(CorruptData, match=rf"pick_banana.pkl: .*({message})"):
        list(open_dataset(tmp_path, SCHEMA))


def test_files_that_are_not_gzip(tmp_path):
    (tmp_path / "pick_banana.pkl.gz").write_bytes(b"no gzip")
    with pytest.raises(CorruptData, match="Not a gzipped file"):
        list(open_dataset(tmp_path, SCHEMA))


def test_an_instruction_is_needed_and_scales_are_not_mixed(tmp_path):
    write_training(tmp_path / "a_delta.pkl", make_transitions(ACTIONS))
    with pytest.raises(InputError, match="names no task of the paper; give one"):
        open_dataset(tmp_path, SCHEMA)
    write_training(tmp_path / "b.pkl", make_transitions(ACTIONS))
    with pytest.raises(InputError, match="some files tell metres, others only actions"):
        list(open_dataset(tmp_path, SCHEMA, instruction="wipe"))


def test_a_damaged_file_or_episode_costs_itself_only(tmp_path):
    (tmp_path / "0").mkdir()
    good, bad = make_transitions(ACTIONS), make_transitions(ACTIONS)
    bad[1]["actions"] = np.full(7, np.nan, np.float32)
    write_training(tmp_path / "pick_banana_a.pkl", good, bad, good)
    (tmp_path / "pick_banana_b.pkl").write_bytes(b"no pickle")
    data = open_dataset(tmp_path, SCHEMA)
    assert [each.name for each in data] == ["pick_banana_a.pkl/0", "pick_banana_a.pkl/2"]
    places = [skipped.place for skipped in data.skipped]
    assert places == [f"{tmp_path}/pick_banana_a.pkl: episode 1", f"{tmp_path}/pick_banana_b.pkl"]


def test_the_rate_of_raw_frames_is_known_and_of_training_files_asked_for(tmp_path):
    folder = write_raw(tmp_path / "pick_banana_raw", make_frames(7))
    data = open_dataset(folder, SCHEMA, hz=10.0)
    (recorded,), (found,) = open_dataset(folder, SCHEMA), data
    assert (data.hz, recorded.hz, found.hz, recorded.steps, found.steps) == (20.0, 20.0, 10.0, 6, 3)
    file = write_training(tmp_path / "pick_banana_delta.pkl", make_transitions(ACTIONS))
    assert next(iter(open_dataset(file, SCHEMA))).hz is None
    with pytest.raises(InputError, match="do not say at which rate they were recorded, 10 Hz are wanted"):
        open_dataset(file, SCHEMA, hz=10.0)
    settings = tmp_path / "described.json"
    settings.write_text(json.dumps({"path": file.name, "released": {"training_hz": 10}}))
    assert next(iter(open_dataset(settings, SCHEMA, hz=10.0))).steps == 3
