"""This module writes small LeRobotDatasets of others by hand, with the oddities that are asked for."""

import json
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CAMERA = "observation.images.front"
MAPPING = {"side": CAMERA, "wrist": None}


def write_video(path, frames, fps):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10", "g": "2"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def grey(count, px=64):
    """Frame i has brightness 10 + 8 i, so that a frame tells which one it is."""
    return np.stack([np.full((px, px, 3), min(10 + 8 * i, 250), np.uint8) for i in range(count)])


def which(images):
    """Returns the numbers of frames of `grey`."""
    return [round((image.mean() - 10) / 8) for image in images]


def poses(count):
    """Returns states and actions of a tool that goes 3 mm a step along x and points along z."""
    state, action = np.zeros((count, 7)), np.zeros((count, 7))
    state[:, 0], state[:, 2], state[:, 6] = -0.5 + 0.003 * np.arange(count), 0.2, 1.0
    action[:, 0], action[:, 6] = 0.003, 1.0
    return state, action


def make(folder, lengths, *, state=None, action=None, fps=10, stamps=None, columns=None, video=None, **other):
    """Writes a dataset; `video` is (frames, rate), `columns` more columns, `other` values of info.json and starts."""
    count = sum(lengths)
    state, action = (poses(count)[i] if given is None else given for i, given in enumerate((state, action)))
    rate = fps if isinstance(fps, int | float) and fps else 10
    frame = np.concatenate([np.arange(length) for length in lengths])
    table = {
        "observation.state": pa.array(list(state.astype(np.float32)), pa.list_(pa.float32())),
        "action": pa.array(list(action.astype(np.float32)), pa.list_(pa.float32())),
        "timestamp": (frame / rate if stamps is None else np.asarray(stamps)).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "task_index": np.zeros(count, np.int64),
        **(columns or {}),
    }
    frames, video_rate = (grey(count), rate) if video is None else video
    write_video(folder / f"videos/{CAMERA}/chunk-000/file-000.mp4", frames, video_rate)
    starts = np.cumsum((0, *lengths)) / rate if "starts" not in other else other.pop("starts")
    places = {f"{what}/{name}_index": 0 for what in ("data", f"videos/{CAMERA}") for name in ("chunk", "file")}
    rows = [
        {"episode_index": i, "length": length, f"videos/{CAMERA}/from_timestamp": float(starts[i]), **places}
        for i, length in enumerate(lengths)
    ]
    for name, content in (("data", pa.table(table)), ("meta/episodes", pa.Table.from_pylist(rows))):
        (folder / name / "chunk-000").mkdir(parents=True, exist_ok=True)
        pq.write_table(content, folder / name / "chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["wipe the table"]}), folder / "meta/tasks.parquet")
    numbers = {
        name: {"dtype": "float32", "shape": [each.shape[1]], "names": None}
        for name, each in (("observation.state", state), ("action", action))
    }
    info = {
        "codebase_version": "v3.0",
        "fps": fps,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": numbers | {CAMERA: {"dtype": "video", "shape": [64, 64, 3], "names": None}},
    }
    (folder / "meta/info.json").write_text(json.dumps(info | other))
    return folder


def describe(folder, **mapping):
    """Writes a settings file beside the folder; returns it."""
    path = folder.with_suffix(".json")
    path.write_text(json.dumps({"path": folder.name, "lerobot": MAPPING | mapping}))
    return path
