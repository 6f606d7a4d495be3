"""These tests inspect datasets of other people, and then read them with the settings that the inspection made."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from foreign_samples import SIDE, Motion, write_lerobot, write_rlds
from lerobot_samples import make_episode, write
from scipy.spatial.transform import Rotation

from learner.datasets import ActionScale, open_dataset
from learner.datasets.inspection import inspect_dataset
from protos.errors import CorruptData, InputError
from protos.schema import Outcome, Schema

SCHEMA = Schema(side_px=16, wrist_px=16)
MOTIONS = [Motion.random(seed, steps) for seed, steps in ((0, 40), (1, 25), (2, 30))]


def as_suggested(folder, report):
    """Opens a dataset with the settings of its inspection."""
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(report.settings))
    return open_dataset(path, SCHEMA)


def assert_moves(dataset, motions=MOTIONS):
    """Compares the poses and motions of a dataset, read as they were recorded, with what was written."""
    scale = dataset.action_scale
    for episode, wanted in zip(dataset, motions, strict=True):
        proprio = episode.observation.proprio
        np.testing.assert_allclose(proprio[:-1, :3], wanted.position[:-1], atol=1e-5)
        turned = Rotation.from_rotvec(proprio[:-1, 3:6]) * wanted.rotation[:-1].inv()
        assert turned.magnitude().max() < 1e-4
        moved = scale.to_motion(episode.action)
        inside = np.abs(episode.action[:, :6]).max(axis=1) < 1.0
        np.testing.assert_allclose(moved[inside, :3], wanted.moved[inside], atol=2e-5)
        np.testing.assert_allclose(moved[inside, 3:], wanted.turned[inside], atol=2e-4)
        np.testing.assert_array_equal(episode.action[:, 6] > 0, wanted.opening[1:] > 0.5)


UNITS = [{}, {"metres": 0.001}, {"degrees": True}]


@pytest.mark.parametrize("form", ["euler", "quaternion_xyzw"])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_lerobot_dataset_is_read_by_what_its_inspection_says(form, units, absolute, tmp_path):
    if form == "quaternion_xyzw" and "degrees" in units:
        pytest.skip("quaternions have no unit")
    poses = [motion.poses(form, **units) for motion in MOTIONS]
    actions = [each[1:] for each in poses] if absolute else [motion.deltas() for motion in MOTIONS]
    folder = write_lerobot(tmp_path / "towels", [each[:-1] for each in poses], actions, fps=20)
    if absolute:  # numbers of such a motion do not tell Euler angles from a vector
        report = inspect_dataset(folder)
        assert report.motion.guess == "absolute"
        assert any("absolute poses, not motions" in remark for remark in report.remarks)
    else:
        report = inspect_dataset(folder)
        assert (report.motion.guess, report.motion.unit) == ("delta", "m")
    assert report.rate.used_hz == 20
    assert report.settings["lerobot"]["side"] == SIDE
    assert_moves(as_suggested(folder, report))


@pytest.mark.parametrize("form", ["euler", "rotation_vector"])
def test_three_numbers_of_a_rotation_are_told_apart_by_the_motions(form, tmp_path):
    states = [motion.poses(form)[:-1] for motion in MOTIONS]
    folder = write_lerobot(tmp_path / "towels", states, [motion.deltas() for motion in MOTIONS])
    report = inspect_dataset(folder)
    assert report.state.rotation.guess == form
    assert_moves(as_suggested(folder, report))


def test_normalised_actions_get_their_metres_back(tmp_path):
    states = [motion.poses()[:-1] for motion in MOTIONS]
    folder = write_lerobot(tmp_path / "towels", states, [motion.deltas(metres=0.02) for motion in MOTIONS])
    report = inspect_dataset(folder)
    assert report.motion.unit == ""
    assert report.settings["lerobot"]["metres"] == pytest.approx(0.02, rel=0.01)
    assert_moves(as_suggested(folder, report))


def test_names_tell_the_columns(tmp_path):
    names = ["gripper", "ee_pos_x", "ee_pos_y", "ee_pos_z", "ee_roll", "ee_pitch", "ee_yaw"]
    order = [6, 0, 1, 2, 3, 4, 5]
    states = [motion.poses()[:-1, order] for motion in MOTIONS]
    actions = [motion.deltas()[:, order] for motion in MOTIONS]
    folder = write_lerobot(tmp_path / "towels", states, actions, names=names)
    report = inspect_dataset(folder)
    assert report.state.columns == "position 1–3, rotation 4–6, gripper 0 (by names)"
    assert_moves(as_suggested(folder, report))


def test_joint_angles_are_named_as_such(tmp_path):
    names = [f"joint_{i}" for i in range(6)] + ["gripper"]
    rows = [np.random.default_rng(0).uniform(-2, 2, (20, 7))]
    report = inspect_dataset(write_lerobot(tmp_path / "arm", rows, rows, names=names))
    assert "joint angles (joint_0, joint_1" in report.state.note
    assert any("joint angles" in remark for remark in report.remarks)
    assert report.scale is None


@pytest.mark.parametrize("form", ["euler", "rotation_vector"])
def test_an_rlds_dataset_of_other_conventions_is_read_by_what_its_inspection_says(form, tmp_path):
    poses = [motion.poses(form, metres=0.001) for motion in MOTIONS]
    actions = [motion.deltas() for motion in MOTIONS]
    folder = write_rlds(tmp_path / "cups", [each[:-1] for each in poses], actions)
    report = inspect_dataset(folder)
    assert report.state.rotation.guess == form
    assert report.settings["rlds"]["state_metres"] == 0.001
    assert any("do not say their rate" in remark for remark in report.remarks)
    assert_moves(as_suggested(folder, report))


def test_absolute_actions_are_refused_until_they_are_named(tmp_path):
    """Each of the ways into training says what the actions are, by numbers, and which setting converts them."""
    poses = [motion.poses() for motion in MOTIONS]
    states, actions = [each[:-1] for each in poses], [each[1:] for each in poses]
    rlds = write_rlds(tmp_path / "cups", states, actions)
    lerobot = write_lerobot(tmp_path / "towels", states, actions)
    described = tmp_path / "towels.json"
    for path, mapping in ((rlds, None), (described, {"side": SIDE, "wrist": None})):
        if mapping is not None:
            described.write_text(json.dumps({"path": "towels", "lerobot": mapping}))
        with pytest.raises(InputError, match=r"absolute poses.*miss the next state by 0 %.*\"action_form\": \"abs"):
            open_dataset(path, SCHEMA)
    described.write_text(json.dumps({"path": "towels", "lerobot": mapping | {"action_form": "absolute"}}))
    assert_moves(open_dataset(described, SCHEMA))
    described.write_text(json.dumps({"path": "towels", "lerobot": mapping | {"action_form": "delta"}}))
    assert len(list(open_dataset(described, SCHEMA))) == 3, "a person said so"
    deltas = write_lerobot(tmp_path / "deltas", states, [motion.deltas() for motion in MOTIONS])
    described.write_text(json.dumps({"path": deltas.name, "lerobot": mapping | {"action_form": "absolute"}}))
    with pytest.raises(InputError, match="its actions are motions"):
        open_dataset(described, SCHEMA)
    assert lerobot.is_dir()


def test_absolute_actions_without_states_start_where_the_first_one_is(tmp_path):
    goals = [motion.poses()[1:] for motion in MOTIONS]
    write_lerobot(tmp_path / "towels", goals, goals)
    described = tmp_path / "towels.json"
    mapping = {"side": SIDE, "wrist": None, "state": None, "action_form": "absolute"}
    described.write_text(json.dumps({"path": "towels", "lerobot": mapping}))
    dataset = open_dataset(described, SCHEMA)
    (first, *_) = dataset
    moved = dataset.action_scale.to_motion(first.action)
    assert not moved[0].any()
    inside = np.abs(first.action[1:, :6]).max(axis=1) < 1.0
    np.testing.assert_allclose(moved[1:, :3][inside], MOTIONS[0].moved[1:][inside], atol=2e-5)


def test_outcomes_and_what_decides_them(tmp_path):
    states, actions = [motion.poses()[:-1] for motion in MOTIONS], [motion.deltas() for motion in MOTIONS]
    reward = np.zeros(sum(map(len, states)), np.float32)
    reward[len(states[0]) - 1] = 1.0
    folder = write_lerobot(tmp_path / "towels", states, actions, columns={"next.reward": ("float32", reward)})
    report = inspect_dataset(folder)
    assert report.outcomes == {"success": 1, "failure": 2} and report.outcomes_by == "next.reward"
    report = inspect_dataset(write_lerobot(tmp_path / "mute", states, actions))
    assert report.outcomes == {"unknown": 3} and report.outcomes_by == "nothing in the data"
    assert any("outcome of 3 episode(s) is unknown" in remark for remark in report.remarks)


def test_what_is_wrong_is_found_and_nothing_is_written(tmp_path):
    states, actions = [motion.poses()[:-1] for motion in MOTIONS], [motion.deltas() for motion in MOTIONS]
    states[1] = states[1].copy()
    states[1][7, 2] = np.nan
    stamps = np.concatenate([np.arange(len(each)) / 10 for each in states])
    stamps[70:] += 0.7
    folder = write_lerobot(tmp_path / "towels", states, actions, stamps=stamps)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    report = inspect_dataset(folder)
    assert len(report.skipped) == 2 and "nan in row 7" in report.skipped[0]
    text = "\n".join(report.remarks)
    assert "2 of the 3 episodes looked at will be skipped" in text
    assert "1 gap(s) between rows, the longest 0.8 s" in text
    assert "48 x 32 is not square" in text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    json.dumps(asdict(report), default=str)


def test_a_damaged_dataset_is_described_as_far_as_it_goes(tmp_path):
    states, actions = [motion.poses()[:-1] for motion in MOTIONS], [motion.deltas() for motion in MOTIONS]
    folder = write_lerobot(tmp_path / "towels", states, actions)
    data = next(folder.glob("data/*/*.parquet"))
    data.write_bytes(data.read_bytes()[:500])
    next(folder.glob("videos/*/*/*.mp4")).write_bytes(b"nothing")
    report = inspect_dataset(folder)
    assert report.episodes == 3 and report.outcomes == {}
    assert "none of the 3 episodes looked at can be read" in report.remarks[0]
    assert report.cameras[0].problem
    (folder / "meta/info.json").write_text("{")
    with pytest.raises(CorruptData, match="not JSON"):
        inspect_dataset(folder)


def test_a_video_of_another_rate_is_named(tmp_path):
    states, actions = [motion.poses()[:-1] for motion in MOTIONS], [motion.deltas() for motion in MOTIONS]
    report = inspect_dataset(write_lerobot(tmp_path / "towels", states, actions, video_fps=30))
    assert any("video of 30 Hz, rows of 10 Hz" in remark for remark in report.remarks)


def test_our_own_data_are_known(tmp_path):
    rng = np.random.default_rng(0)
    episodes = [make_episode(rng, name=f"a/{i}", steps=12, outcome=Outcome.FAILURE) for i in range(2)]
    report = inspect_dataset(write(tmp_path / "ours", episodes), episodes=1)
    assert report.written_by_twinrl and report.settings is None
    assert report.scale == ActionScale(metres=0.03, radians=0.1)
    assert (report.episodes, report.looked_at, report.outcomes) == (2, 1, {"failure": 1})
    assert report.outcomes_by == "twinrl/outcome, next.success, next.reward, next.done, next.truncated"


def test_many_episodes_are_looked_at_only_as_far_as_asked(tmp_path):
    states, actions = [motion.poses()[:-1] for motion in MOTIONS], [motion.deltas() for motion in MOTIONS]
    folder = write_lerobot(tmp_path / "towels", states, actions)
    report = inspect_dataset(folder, episodes=2)
    assert (report.episodes, report.looked_at, report.lengths.total) == (3, 2, 65)
    assert sum(report.outcomes.values()) == 2
    with pytest.raises(InputError, match="episodes=0"):
        inspect_dataset(folder, episodes=0)
    assert pq.read_table(next(folder.glob("data/*/*.parquet"))).num_rows == 95
