"""Data of others, of another rate, pose and outcome than ours, are learnt from and exported; a second reading compares.

The second reading uses pyarrow, PyAV, Pillow, scipy and a protobuf of its own, and nothing of the readers.
"""

import io
import json

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from lerobot_others import CAMERA, describe, grey, make, which
from PIL import Image
from rlds_samples import FEATURES, Example, episode, png, write_dataset
from samples import SMALL
from scipy.spatial.transform import Rotation

from learner.datasets import open_dataset
from learner.datasets.rlds.records import read_records
from policy.checkpoint import save_policy
from policy.model import Policy
from protos.proprioception import tool_vector
from protos.schema import Outcome, Schema
from twinrl.commands import export, sft

STEPS, METRES, RADIANS = 12, 0.05, 0.2
SCHEMA = Schema(side_px=64, wrist_px=64)


def motion(rng, count):
    """Returns positions, orientations and the steps between them of a tool that points down and turns through it."""
    moved, turned = rng.uniform(-0.004, 0.004, (count, 3)), rng.uniform(-0.02, 0.02, (count, 3))
    position, rotation = [np.array([-0.5, 0.1, 0.2])], [Rotation.from_rotvec([np.pi - 0.01, 0.0, 0.0])]
    for shift, turn in zip(moved[:-1], turned[:-1], strict=True):
        position.append(position[-1] + shift)
        rotation.append(Rotation.from_rotvec(turn) * rotation[-1])
    return np.array(position), Rotation.concatenate(rotation), moved, turned


@pytest.fixture
def recorded():
    return motion(np.random.default_rng(3), 2 * STEPS)


@pytest.fixture
def lerobot(tmp_path, recorded):
    """Writes two episodes at 30 Hz with quaternions and Euler angles; the first fails."""
    position, rotation, moved, turned = recorded
    opening = np.tile((1.0, 1.0, 0.0), 8)
    state = np.column_stack([position, rotation.as_quat(), opening])
    action = np.column_stack([moved, Rotation.from_rotvec(turned).as_euler("xyz"), opening])
    success = np.arange(2 * STEPS) == 2 * STEPS - 1
    columns = {"next.success": success, "next.done": (np.arange(2 * STEPS) % STEPS) == STEPS - 1}
    folder = make(tmp_path / "towels", [STEPS, STEPS], state=state, action=action, fps=30, columns=columns)
    return describe(folder, state_rotation="quaternion_xyzw", state_rotation_at=[3, 4, 5, 6])


@pytest.fixture
def rlds(tmp_path, recorded):
    """Writes two episodes at 5 Hz with rotation vectors; the second has a reward."""
    position, rotation, moved, turned = recorded
    opening = np.tile((1.0, 1.0, 0.0), 8)
    state = np.column_stack([position, rotation.as_rotvec(), opening]).astype(np.float32)
    action = np.column_stack([moved, turned, opening]).astype(np.float32)
    side = [png(frame) for frame in grey(2 * STEPS, 24)]
    episodes = [
        episode(
            np.random.default_rng(0),
            STEPS,
            **{
                "steps/observation/state": state[rows].reshape(-1).tolist(),
                "steps/action": action[rows].reshape(-1).tolist(),
                "steps/observation/image_0": side[rows],
                "steps/reward": [0.0] * (STEPS - 1) + [float(number)],
                "steps/is_terminal": [0] * (STEPS - 1) + [1],
            },
        )
        for number, rows in enumerate((slice(0, STEPS), slice(STEPS, 2 * STEPS)))
    ]
    write_dataset(tmp_path / "cups", [episodes], FEATURES)
    path = tmp_path / "cups.json"
    mapping = {"hz": 5.0, "state_rotation": "rotation_vector", "action_rotation": "rotation_vector"}
    path.write_text(json.dumps({"path": "cups", "rlds": mapping}))
    return path


def fine_tune(path, out):
    policy = out / "start"
    save_policy(policy, Policy(SMALL), step=0)
    arguments = ["--data", str(path), "--out", str(out / "sft"), "--policy", str(policy), "--steps", "2"]
    return sft.main([*arguments, "--train.batch-size", "4"])


def write(path, out, *more):
    scale = ("--metres", str(METRES), "--radians", str(RADIANS), "--side-px", "64", "--wrist-px", "64")
    assert export.main([str(path), "--out", str(out), *scale, *more]) == 0


def check_numbers(state, action, recorded, rows):
    """Compares exported states and actions with the recorded poses and motions."""
    position, rotation, moved, turned = (each[rows] for each in recorded)
    np.testing.assert_allclose(state[:, :3], position, atol=1e-6)
    found = Rotation.from_rotvec(state[:, 3:6].astype(np.float64))
    assert (found * rotation.inv()).magnitude().max() < 1e-5
    np.testing.assert_allclose(state[:, 3:6], tool_vector(rotation.as_rotvec()), atol=1e-5)
    assert np.abs(np.diff(state[:, 3:6], axis=0)).max() < 0.1, "no jump between pi and -pi"
    np.testing.assert_allclose(action[:, :3] * METRES, moved, atol=1e-6)
    np.testing.assert_allclose(action[:, 3:6] * RADIANS, turned, atol=1e-6)
    assert action[:, 6].tolist() == np.tile((1.0, 1.0, -1.0), STEPS // 3).tolist()


def test_a_lerobot_dataset(tmp_path, lerobot, recorded):
    assert fine_tune(lerobot, tmp_path) == 0
    out = tmp_path / "out"
    write(lerobot, out)
    info = json.loads((out / "meta/info.json").read_text())
    assert info["fps"] == 30 and info["features"]["observation.images.side"]["info"]["video.fps"] == 30
    rows = pq.read_table(out / "meta/episodes").to_pylist()
    assert [row["twinrl/outcome"] for row in rows] == ["failure", "success"]
    for number, row in enumerate(rows):
        table = pq.read_table(out / f"data/chunk-000/file-{number:03d}.parquet")
        state, action = (np.array(table[name].to_pylist()) for name in ("observation.state", "action"))
        check_numbers(state, action, recorded, slice(number * STEPS, (number + 1) * STEPS))
        np.testing.assert_allclose(table["timestamp"].to_numpy(), np.arange(STEPS) / 30, atol=1e-6)
        np.testing.assert_allclose(state[1:, 6:9], 30 * np.diff(state[:, :3], axis=0), atol=1e-3)
        assert table["next.success"].to_pylist() == [False] * (STEPS - 1) + [bool(number)]
        assert row["videos/observation.images.side/to_timestamp"] == pytest.approx(STEPS / 30)
        with av.open(str(out / f"videos/observation.images.side/chunk-000/file-{number:03d}.mp4")) as container:
            frames = list(container.decode(video=0))
        assert which([frame.to_ndarray(format="rgb24") for frame in frames]) == list(
            range(number * STEPS, (number + 1) * STEPS)
        )
        assert frames[1].time == pytest.approx(1 / 30, abs=1e-3)
    assert CAMERA not in info["features"]


def test_an_rlds_dataset(tmp_path, rlds, recorded):
    assert fine_tune(rlds, tmp_path) == 0
    out = tmp_path / "out"
    write(rlds, out, "--format", "rlds")
    assert json.loads((out / "twinrl.json").read_text())["hz"] == 5.0
    records = [Example.FromString(record.payload) for record in read_records(next(out.glob("*tfrecord*")))]
    for number, example in enumerate(records):
        values = example.features.feature
        state = np.reshape(values["steps/observation/proprio"].float_list.value, (STEPS + 1, 25))
        action = np.reshape(values["steps/action"].float_list.value, (STEPS + 1, 7))[:-1]
        check_numbers(state[:-1], action, recorded, slice(number * STEPS, (number + 1) * STEPS))
        np.testing.assert_allclose(state[1:-1, 6:9], 5 * np.diff(state[:-1, :3], axis=0), atol=1e-4)
        assert values["episode_metadata/outcome"].bytes_list.value == [[b"failure", b"success"][number]]
        assert list(values["steps/reward"].float_list.value) == [0.0] * (STEPS - 1) + [float(number), 0.0]
        images = values["steps/observation/side"].bytes_list.value
        assert which([np.asarray(Image.open(io.BytesIO(data))) for data in images])[:-1] == list(
            range(number * STEPS, (number + 1) * STEPS)
        )
    assert len(records) == 2


def test_what_is_learnt_from_is_at_control_s_rate(lerobot, rlds, recorded):
    position, rotation, moved, _ = recorded
    fast, slow = (open_dataset(path, SCHEMA, hz=10.0) for path in (lerobot, rlds))
    for data, outcomes in ((fast, [Outcome.FAILURE, Outcome.SUCCESS]), (slow, [Outcome.FAILURE, Outcome.SUCCESS])):
        assert [each.outcome for each in data] == outcomes and {each.hz for each in data} == {10.0}
    found = next(iter(fast))
    assert found.steps == 4 and which(found.observation.side)[:-1] == [0, 3, 6, 9]
    np.testing.assert_allclose(found.observation.proprio[:4, :3], position[0:12:3], atol=1e-6)
    expected = moved[:STEPS].reshape(4, 3, 3).sum(axis=1)
    np.testing.assert_allclose(fast.action_scale.to_motion(found.action)[:, :3], expected, atol=2e-4)
    assert found.action[:, 6].tolist() == [-1] * 4, "the last command of each three"
    found = next(iter(slow))
    assert found.steps == 24 and which(found.observation.side)[:6] == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(found.observation.proprio[1, :3], position[:2].mean(axis=0), atol=1e-6)
    between = Rotation.from_rotvec((rotation[1] * rotation[0].inv()).as_rotvec() / 2) * rotation[0]
    np.testing.assert_allclose(found.observation.proprio[1, 3:6], tool_vector(between.as_rotvec()), atol=1e-5)
