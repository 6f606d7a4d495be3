"""This module writes small LeRobotDatasets and RLDS datasets of other people, whose motion is known exactly."""

import io
import json
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rlds_samples
from scipy.spatial.transform import Rotation

SIDE = "observation.images.front"
_VIDEO = f"videos/{SIDE}"
FORMS = {
    "euler": lambda rotation: rotation.as_euler("xyz"),
    "rotation_vector": Rotation.as_rotvec,
    "quaternion_xyzw": Rotation.as_quat,
}


@dataclass(frozen=True)
class Motion:
    """T steps of a tool that points down: T + 1 poses and gripper openings, T motions on the left."""

    position: np.ndarray
    rotation: Rotation
    opening: np.ndarray
    moved: np.ndarray
    turned: np.ndarray

    @classmethod
    def random(cls, seed, steps):
        rng = np.random.default_rng(seed)
        smooth = np.cumsum(rng.normal(size=(steps, 6)), axis=0).clip(-3, 3)
        moved, turned = 0.003 * smooth[:, :3], 0.02 * smooth[:, 3:]
        path = [Rotation.from_euler("xyz", (np.pi - 0.4, 0.2, 1.0))]
        for turn in turned:
            path.append(Rotation.from_rotvec(turn) * path[-1])
        start = rng.uniform((-0.6, -0.2, 0.1), (-0.4, 0.2, 0.3))
        position = start + np.concatenate([np.zeros((1, 3)), np.cumsum(moved, axis=0)])
        opening = (np.arange(steps + 1) % 10 < 5).astype(float)
        return cls(position, Rotation.concatenate(path), opening, moved, turned)

    def poses(self, form="euler", *, metres=1.0, degrees=False):
        """Returns poses (T + 1, k): states without the last, goals without the first one."""
        turns = FORMS[form](self.rotation) * (180 / np.pi if degrees else 1.0)
        return np.column_stack([self.position / metres, turns, self.opening])

    def deltas(self, *, metres=1.0):
        """Returns motions (T, 7) per step: Euler angles of the turn."""
        turns = Rotation.from_rotvec(self.turned).as_euler("xyz")
        return np.column_stack([self.moved / metres, turns, self.opening[1:]])


def write_lerobot(folder, states, actions, *, fps=10, columns=None, stamps=None, names=None, video_fps=None):
    """Writes a LeRobotDataset v3 of episodes; `columns` are further ones, name -> (dtype, values of all rows)."""
    lengths = [len(each) for each in states]
    state, action = np.concatenate(states), np.concatenate(actions)
    frame = np.concatenate([np.arange(length) for length in lengths])
    rows = {
        "observation.state": list(state.astype(np.float32)),
        "action": list(action.astype(np.float32)),
        "timestamp": np.asarray(frame / fps if stamps is None else stamps, np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(len(state)),
        "task_index": np.zeros(len(state), np.int64),
        **{name: values for name, (_, values) in (columns or {}).items()},
    }
    scalars = {name: {"dtype": dtype, "shape": [1], "names": None} for name, (dtype, _) in (columns or {}).items()}
    features = {
        "observation.state": {"dtype": "float32", "shape": [state.shape[1]], "names": names},
        "action": {"dtype": "float32", "shape": [action.shape[1]], "names": names},
        SIDE: {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **scalars,
    }
    starts = np.cumsum((0, *lengths))
    episodes = [_row(i, length, starts[i], fps) for i, length in enumerate(lengths)]
    tables = {"data": pa.table(rows), "meta/episodes": pa.Table.from_pylist(episodes)}
    for name, table in tables.items():
        (folder / name / "chunk-000").mkdir(parents=True)
        pq.write_table(table, folder / name / "chunk-000/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["fold the towel"]}), folder / "meta/tasks.parquet")
    (folder / _VIDEO / "chunk-000").mkdir(parents=True)
    (folder / _VIDEO / "chunk-000/file-000.mp4").write_bytes(_video(len(state), video_fps or fps))
    file = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    about = {"codebase_version": "v3.0", "fps": fps, "features": features, "data_path": f"data/{file}.parquet"}
    (folder / "meta/info.json").write_text(json.dumps(about | {"video_path": f"videos/{{video_key}}/{file}.mp4"}))
    return folder


def _row(index, length, start, fps):
    places = {f"{what}/{name}": 0 for what in ("data", _VIDEO) for name in ("chunk_index", "file_index")}
    return {
        "episode_index": index,
        "length": length,
        f"{_VIDEO}/from_timestamp": float(start / fps),
        f"{_VIDEO}/to_timestamp": float((start + length) / fps),
        **places,
    }


def _video(frames, fps):
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"g": "2"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for index in range(frames):
            pixels = np.full((32, 48, 3), 10 + 2 * (index % 100), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def write_rlds(folder, states, actions, *, rewards=None):
    """Writes an RLDS dataset whose states and actions have any number of columns."""
    features = rlds_samples.FEATURES | {
        "observation": rlds_samples.nested(
            {
                "image_0": rlds_samples.image(24),
                "wrist_image": rlds_samples.image(16),
                "state": rlds_samples.tensor("float32", states[0].shape[1]),
            }
        ),
        "action": rlds_samples.tensor("float32", actions[0].shape[1]),
    }
    rng = np.random.default_rng(0)
    episodes = [
        rlds_samples.episode(
            rng,
            steps=len(state),
            **{
                "steps/observation/state": state.astype(np.float32).reshape(-1).tolist(),
                "steps/action": action.astype(np.float32).reshape(-1).tolist(),
                "steps/reward": (rewards or [[0.0] * len(state)] * len(states))[i],
            },
        )
        for i, (state, action) in enumerate(zip(states, actions, strict=True))
    ]
    return rlds_samples.write_dataset(folder, [episodes], features)
