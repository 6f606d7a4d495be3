"""These tests read a foreign LeRobotDataset: several episodes per file, another camera size and rate, its own state."""

import io
import json
from dataclasses import replace

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_samples import image, psnr
from scipy.spatial.transform import Rotation

from learner.datasets import LeRobotMapping, open_dataset
from learner.datasets.images import encode_png
from learner.datasets.lerobot import LeRobotDataset, stored_schema
from learner.datasets.lerobot.layout import IMAGE
from protos.errors import InputError
from protos.proprioception import tool_vector
from protos.schema import Configuration, Outcome, Schema, Source

SCHEMA = Schema(side_px=64, wrist_px=32)
FPS, LENGTHS = 30, (7, 12)
MAPPING = LeRobotMapping(
    side="observation.images.front",
    wrist="observation.images.hand",
    state_rotation_at=(3, 4, 5, 6),
    state_rotation="quaternion_xyzw",
    action_gripper=(1.0, -1.0),
    metres=0.05,
    scale_percentile=100.0,
)


def front(index):
    """Returns an image (64, 96, 3) that is brighter in later rows."""
    return np.concatenate([image(64, index / 20), image(64, index / 20)[:, :32]], axis=1)


@pytest.fixture
def rows():
    """Returns all rows of both episodes, by column."""
    rng, count = np.random.default_rng(0), sum(LENGTHS)
    rotation = Rotation.from_rotvec(rng.uniform(-1, 1, (count, 3)))
    return {
        "position": rng.uniform(-0.5, 0.5, (count, 3)),
        "rotation": rotation,
        "opening": rng.random(count),
        "action": rng.uniform(-1, 1, (count, 7)).astype(np.float32),
        "index": np.arange(count),
        "episode_index": np.repeat([0, 1], LENGTHS),
        "frame_index": np.concatenate([np.arange(length) for length in LENGTHS]),
    }


@pytest.fixture
def folder(tmp_path, rows):
    """Writes the layout of lerobot 0.6, without the columns that nothing reads."""
    state = np.column_stack([rows["position"], rows["rotation"].as_quat(), rows["opening"]]).astype(np.float32)
    hand = [{"bytes": encode_png(image(80, index / 20)), "path": None} for index in rows["index"]]
    table = pa.table(
        {
            "observation.state": pa.array(list(state), pa.list_(pa.float32(), 8)),
            "action": pa.array(list(rows["action"])),
            "observation.images.hand": pa.array(hand, IMAGE),
            "timestamp": (rows["frame_index"] / FPS).astype(np.float32),
            "task_index": 1 - rows["episode_index"],
            **{name: rows[name] for name in ("frame_index", "episode_index", "index")},
        }
    )
    starts = np.cumsum((0, *LENGTHS))
    episodes = pa.Table.from_pylist(
        [
            {
                "episode_index": i,
                "length": length,
                "dataset_from_index": int(starts[i]),
                "dataset_to_index": int(starts[i + 1]),
                **{f"{what}/{name}": 0 for what in ("data", VIDEO) for name in ("chunk_index", "file_index")},
                f"{VIDEO}/from_timestamp": starts[i] / FPS,
                f"{VIDEO}/to_timestamp": starts[i + 1] / FPS,
            }
            for i, length in enumerate(LENGTHS)
        ]
    )
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["wipe the table", "fold the towel"]})
    for name, each in {"data": table, "meta/episodes": episodes}.items():
        (tmp_path / name / "chunk-000").mkdir(parents=True)
        pq.write_table(each, tmp_path / name / "chunk-000/file-000.parquet")
    pq.write_table(tasks, tmp_path / "meta/tasks.parquet")
    (tmp_path / VIDEO / "chunk-000").mkdir(parents=True)
    (tmp_path / VIDEO / "chunk-000/file-000.mp4").write_bytes(video([front(index) for index in rows["index"]]))
    (tmp_path / "meta/info.json").write_text(json.dumps(INFO))
    return tmp_path


VIDEO = "videos/observation.images.front"
INFO = {
    "codebase_version": "v3.0",
    "fps": FPS,
    "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    "features": {
        "observation.images.front": {"dtype": "video", "shape": [64, 96, 3], "names": None},
        "observation.images.hand": {"dtype": "image", "shape": [80, 80, 3], "names": None},
        "observation.state": {"dtype": "float32", "shape": [8], "names": None},
        "action": {"dtype": "float32", "shape": [7], "names": None},
    },
}


def video(frames):
    """Encodes with one key frame at the start, so that a reader has to decode up to the start of its episode."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "250", "crf": "5"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def test_episodes_are_cut_out_and_mapped(folder, rows):
    dataset = LeRobotDataset(folder, SCHEMA, mapping=MAPPING)
    assert len(dataset) == 2
    first, second = dataset
    assert (first.instruction, second.instruction) == ("fold the towel", "wipe the table")
    assert second.name == f"{folder.name}/000001"
    assert second.configuration == Configuration(region="")
    assert (second.outcome, second.source, second.human.all()) == (Outcome.UNKNOWN, Source.REAL, True)
    assert not second.reward.any() and second.hz == FPS
    assert len(second.observation) == 13
    index = slice(7, 19)
    proprio = second.observation.proprio
    np.testing.assert_array_equal(proprio[-1], proprio[-2])
    np.testing.assert_allclose(proprio[:12, :3], rows["position"][index], atol=1e-6)
    np.testing.assert_allclose(proprio[:12, 3:6], tool_vector(rows["rotation"][index].as_rotvec()), atol=1e-5)
    np.testing.assert_allclose(proprio[:12, 18], rows["opening"][index], atol=1e-6)
    velocity = FPS * np.diff(rows["position"][index], axis=0)
    np.testing.assert_allclose(proprio[1:12, 6:9], velocity, atol=1e-4)


def test_actions_are_motions_in_metres_that_span_the_unit_range(folder, rows):
    dataset = LeRobotDataset(folder, SCHEMA, mapping=MAPPING)
    given = rows["action"]
    scale = dataset.action_scale
    assert scale.metres == pytest.approx(0.05 * np.abs(given[:, :3]).max())
    action = np.concatenate([episode.action for episode in dataset])
    np.testing.assert_allclose(action[:, :3] * scale.metres, 0.05 * given[:, :3], atol=1e-6)
    turned = Rotation.from_euler("xyz", given[:, 3:6].astype(np.float64)).as_rotvec()
    np.testing.assert_allclose(action[:, 3:6] * scale.radians, turned, atol=1e-5)
    np.testing.assert_allclose(action[:, 6], -given[:, 6], atol=1e-6)


def test_frames_are_those_of_the_episode_and_resized(folder):
    _, second = LeRobotDataset(folder, SCHEMA, mapping=MAPPING)
    assert second.observation.side.shape == (13, 64, 64, 3)
    assert second.observation.wrist.shape == (13, 32, 32, 3)
    blue = second.observation.side[..., 2].mean(axis=(1, 2))
    np.testing.assert_allclose(blue[:12], [200 * index / 20 for index in range(7, 19)], atol=4)
    assert psnr(second.observation.wrist[0], image(32, 7 / 20)) > 30


def test_cameras_and_states_may_be_missing(folder):
    first, _ = LeRobotDataset(folder, SCHEMA, mapping=replace(MAPPING, wrist=None, state=None))
    assert not first.observation.wrist.any()
    assert not first.observation.proprio.any()


def test_success_is_read_where_it_is_recorded(folder):
    path = folder / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    success = np.arange(19) == 18
    pq.write_table(table.append_column("next.success", pa.array(success)), path)
    first, second = LeRobotDataset(folder, SCHEMA, mapping=MAPPING)
    assert (first.outcome, second.outcome) == (Outcome.FAILURE, Outcome.SUCCESS)
    assert not first.reward.any()


def test_a_description_in_a_settings_file_is_taken(folder, tmp_path_factory):
    assert stored_schema(folder) is None
    with pytest.raises(InputError, match=r"not written by TwinRL: say which .*; it has .*observation\.state \[8\]"):
        open_dataset(folder, SCHEMA)
    described = tmp_path_factory.mktemp("settings") / "towels.json"
    mapping = {"side": "observation.images.front", "wrist": None, "state": None, "action_gripper": [1, -1]}
    described.write_text(json.dumps({"path": str(folder), "lerobot": mapping}))
    assert len(list(open_dataset(described, SCHEMA))) == 2


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"side": "observation.images.top"}, "none of the cameras observation.images.front, observation.images.hand"),
        ({"action": "action.joints"}, "none of the features .*, action$"),
        ({"action_position": (0, 1, 9)}, "action has 7 numbers, number 9 is not among them"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder, wrong, line):
    with pytest.raises(InputError, match=line):
        LeRobotDataset(folder, SCHEMA, mapping=replace(MAPPING, **wrong))


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"state_rotation_at": (3, 4)}, "state_rotation_at names 2 numbers, euler has 3"),
        ({"action_gripper": (1.0, 1.0)}, "closed and open must differ"),
        ({"scale_percentile": 5.0}, "50 < scale_percentile"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(wrong, line):
    with pytest.raises(InputError, match=line):
        LeRobotMapping(**wrong)
