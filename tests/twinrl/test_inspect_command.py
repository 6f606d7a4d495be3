"""These tests run `twinrl inspect` as a person does: tables, JSON, and a settings file that reads the data."""

import io
import json

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from learner.datasets import open_dataset
from protos.errors import InputError
from protos.schema import Schema
from twinrl.commands.inspect import main

CAMERA = "observation.images.front"
FILE = "chunk-000/file-000"


@pytest.fixture
def folder(tmp_path):
    """Writes one episode of 12 steps to the right at 20 Hz, whose actions are the next poses."""
    steps = np.arange(13)[:, None]
    poses = (np.array([-0.5, 0.0, 0.2, 3.1, 0.0, 0.0, 1.0]) + steps * (0.003, 0.001, 0, 0, 0, 0.01, 0)).astype("f4")
    table = pa.table(
        {
            "observation.state": list(poses[:-1]),
            "action": list(poses[1:]),
            "timestamp": np.arange(12, dtype=np.float32) / 20,
            "task_index": np.zeros(12, np.int64),
            "episode_index": np.zeros(12, np.int64),
        }
    )
    places = {f"{what}/{name}": 0 for what in ("data", f"videos/{CAMERA}") for name in ("chunk_index", "file_index")}
    episode = {"episode_index": 0, "length": 12, f"videos/{CAMERA}/from_timestamp": 0.0, **places}
    folder = tmp_path / "towels"
    for name, content in {"data": table, "meta/episodes": pa.Table.from_pylist([episode])}.items():
        (folder / name / "chunk-000").mkdir(parents=True)
        pq.write_table(content, folder / name / f"{FILE}.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["fold it"]}), folder / "meta/tasks.parquet")
    (folder / "videos" / CAMERA / "chunk-000").mkdir(parents=True)
    (folder / "videos" / CAMERA / f"{FILE}.mp4").write_bytes(video())
    pose = {"dtype": "float32", "shape": [7], "names": None}
    info = {
        "codebase_version": "v3.0",
        "fps": 20,
        "features": {
            "observation.state": pose,
            "action": pose,
            CAMERA: {"dtype": "video", "shape": [32, 32, 3], "names": None},
        },
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    return folder


def video():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def test_a_person_reads_what_the_data_are(folder, capsys):
    assert main([str(folder)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "1; looked at 1 with 12 steps",
        "20 Hz; stamps 20 Hz",
        "absolute: actions are",
        "unknown 1; told by nothing in the data",
        "fold it (1)",
        "32 x 32 video h264 20 Hz",
        "! actions are absolute poses, not motions",
        '"action_form": "absolute"',
    ):
        assert part in text, text


def test_a_settings_file_is_written_that_reads_the_data(folder, tmp_path, capsys):
    made = tmp_path / "towels.json"
    assert main([str(folder), "--settings", str(made)]) == 0
    assert f"wrote {made}" in capsys.readouterr().out
    (episode,) = open_dataset(made, Schema(side_px=16, wrist_px=16))
    assert episode.steps == 12
    with pytest.raises(InputError, match="is there already; name a new file"):
        main([str(folder), "--settings", str(made)])
    assert main([str(made), "--settings", str(tmp_path / "again.json")]) == 0
    assert "is read as it is; " in capsys.readouterr().out
    assert not (tmp_path / "again.json").exists()


def test_a_program_reads_one_object(folder, capsys):
    assert main([str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["motion"]["guess"] == "absolute" and found["motion"]["next_state_share"] == 1.0
    assert found["outcomes"] == {"unknown": 1} and found["rate"]["stamped_hz"] == 20.0
    assert found["settings"]["lerobot"]["action_form"] == "absolute"


def test_what_is_no_dataset_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        main([str(tmp_path / "missing")])
    with pytest.raises(InputError, match="hf download lerobot/pusht --repo-type dataset"):
        main(["hf://datasets/lerobot/pusht"])
