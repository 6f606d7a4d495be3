"""This module defines the files of a LeRobotDataset v3.0 and which of its features are which of ours.

    meta/info.json                                features, frames per second, totals, templates of the paths below
    meta/stats.json                               statistics of every feature, over all episodes
    meta/tasks.parquet                            instruction -> task_index
    meta/episodes/chunk-000/file-000.parquet      a row per episode: place of its rows and images, its own statistics
    data/chunk-000/file-000.parquet               a row per time step
    videos/<camera>/chunk-000/file-000.mp4        unless images are PNG files inside data
    final/chunk-000/file-000.parquet              ours: the observation after the last action; v3.0 has no place for it

The layout is that of lerobot 0.6 (`LeRobotDatasetMetadata`, `DatasetInfo`, `get_hf_features_from_features`), which also
allows many episodes in one file. We write a file per episode: a parquet file without its footer is lost as a whole.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.datasets.dataset import ActionScale, ImageFormat
from protos.errors import CorruptData
from protos.schema import ACTION_DIM, CONTROL_HZ, PROPRIO_DIM, Schema

VERSION = "v3.0"
CHUNK_FILES = 1000
EPISODES_PER_FILE = 100
"""Rows of one file below meta/episodes, which is rewritten with each of its episodes and so must stay small."""

INFO, STATS, TASKS = Path("meta/info.json"), Path("meta/stats.json"), Path("meta/tasks.parquet")
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_BLANK = re.compile(r"\{(video_key|chunk_index|file_index)(?::0(\d)d)?\}")
"""Placeholder in a path; `str.format` would also evaluate any other expression of a foreign file."""
EPISODES_PATH = f"meta/episodes/{_FILE}.parquet"
DATA_PATH = f"data/{_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_FILE}.mp4"
FINAL_PATH = f"final/{_FILE}.parquet"

SIDE, WRIST, STATE, ACTION = "observation.images.side", "observation.images.wrist", "observation.state", "action"
CAMERAS = (SIDE, WRIST)
REWARD, DONE, TRUNCATED, SUCCESS, HUMAN = "next.reward", "next.done", "next.truncated", "next.success", "human"
TIMESTAMP, FRAME, EPISODE, INDEX, TASK = "timestamp", "frame_index", "episode_index", "index", "task_index"
OURS = "twinrl"
"""Value of `features.action.info.writer` in info.json, and prefix of the columns that only TwinRL writes."""
OWN_COLUMNS = ("name", "outcome", "source", "region", "cell", "poses")
"""Columns of an episode's row, each as twinrl/<name>; poses are JSON: body -> [x, y, z, yaw]."""

_AXES = ("x", "y", "z")
STATE_NAMES = (
    *(f"tcp_{axis}" for axis in _AXES),
    *(f"tcp_rotation_{axis}" for axis in _AXES),
    *(f"tcp_velocity_{axis}" for axis in _AXES),
    *(f"tcp_angular_velocity_{axis}" for axis in _AXES),
    *(f"force_{axis}" for axis in _AXES),
    *(f"torque_{axis}" for axis in _AXES),
    "gripper_opening",
    *(f"under_way_{axis}" for axis in _AXES),
    *(f"rotation_under_way_{axis}" for axis in _AXES),
)
STATE_UNITS = (
    *(unit for unit in ("m", "rad", "m/s", "rad/s", "N", "Nm") for _ in _AXES),
    "1",
    *(unit for unit in ("m", "rad") for _ in _AXES),
)
ACTION_NAMES = (*(f"delta_{axis}" for axis in _AXES), *(f"delta_rotation_{axis}" for axis in _AXES), "gripper")


@dataclass(frozen=True)
class Slot:
    """A slot is the place of one file: its chunk and its number in the chunk."""

    chunk_index: int
    file_index: int

    @classmethod
    def of(cls, number: int) -> "Slot":
        return cls(number // CHUNK_FILES, number % CHUNK_FILES)

    def path(self, folder: Path, template: str, video_key: str = "") -> Path:
        """Fills in `template`. Raises CorruptData for a path that leads out of the folder."""
        values = {"video_key": video_key, "chunk_index": self.chunk_index, "file_index": self.file_index}
        filled = _BLANK.sub(lambda blank: str(values[blank[1]]).zfill(int(blank[2] or 0)), template)
        if "{" in filled or Path(filled).is_absolute() or ".." in Path(filled).parts:
            raise CorruptData(f"{folder}: a path {filled!r} that leads out of it, or is not filled in")
        return folder / filled


def make_features(schema: Schema, images: ImageFormat, scale: ActionScale, codec: str) -> dict[str, dict[str, Any]]:
    """Returns the `features` of info.json; `codec` as ffmpeg names it. Shapes are lists, scalars have shape [1]."""
    return {
        STATE: _numbers("float32", STATE_NAMES) | {"info": {"units": list(STATE_UNITS), "frame": "base"}},
        ACTION: _numbers("float32", ACTION_NAMES)
        | {
            "info": {
                "writer": OURS,
                "frame": "base",
                "metres_per_unit": scale.metres,
                "radians_per_unit": scale.radians,
                "gripper": "> 0 opens, < 0 closes",
            }
        },
        SIDE: _camera(schema.side_px, images, codec),
        WRIST: _camera(schema.wrist_px, images, codec),
        REWARD: _scalar("float32"),
        **{name: _scalar("bool") for name in (DONE, TRUNCATED, SUCCESS, HUMAN)},
        TIMESTAMP: _scalar("float32"),
        **{name: _scalar("int64") for name in (FRAME, EPISODE, INDEX, TASK)},
    }


def make_info(features: Mapping[str, Any], *, robot: str, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    """Returns the content of info.json."""
    videos = any(feature["dtype"] == "video" for feature in features.values())
    return {
        "codebase_version": VERSION,
        "robot_type": robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(CONTROL_HZ),
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if videos else None,
        "features": dict(features),
    }


def own_scale(info: Mapping[str, Any]) -> ActionScale | None:
    """Returns the action scale of an info.json that TwinRL wrote; None in one of others."""
    about = info["features"].get(ACTION, {}).get("info") or {}
    if about.get("writer") != OURS:
        return None
    return ActionScale(metres=about["metres_per_unit"], radians=about["radians_per_unit"])


def _numbers(dtype: str, names: tuple[str, ...]) -> dict[str, Any]:
    assert len(names) in (PROPRIO_DIM, ACTION_DIM)
    return {"dtype": dtype, "shape": [len(names)], "names": list(names)}


def _scalar(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [1], "names": None}


def _camera(px: int, images: ImageFormat, codec: str) -> dict[str, Any]:
    shape = {"shape": [px, px, 3], "names": ["height", "width", "channels"]}
    if images == "png":
        return {"dtype": "image"} | shape
    about = {
        "video.height": px,
        "video.width": px,
        "video.codec": codec,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": int(CONTROL_HZ),
        "video.channels": 3,
        "has_audio": False,
    }
    return {"dtype": "video"} | shape | {"info": about}
