"""This module defines the files and features of a LeRobotDataset v3.0, and reads and writes its tables.

    meta/info.json                                features, frames per second, totals, templates of the paths below
    meta/stats.json                               statistics of every feature, over all episodes
    meta/tasks.parquet                            instruction -> task_index
    meta/episodes/chunk-000/file-000.parquet      a row per episode: place of its rows and images, its own statistics
    data/chunk-000/file-000.parquet               a row per time step
    videos/<camera>/chunk-000/file-000.mp4        unless images are PNG files inside data
    final/chunk-000/file-000.parquet              ours: the observation after the last action; v3.0 has no place for it

The layout is that of lerobot 0.6 (`LeRobotDatasetMetadata`, `DatasetInfo`, `get_hf_features_from_features`), which also
allows many episodes in one file. We write a file per episode: a parquet file without its footer is lost as a whole.
Column types are those that `datasets.Features` makes of the features in info.json, so lerobot's cast changes nothing.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from learner.datasets.dataset import ACTION_NAMES, STATE_NAMES, ActionScale, ImageFormat
from learner.datasets.lerobot.stats import NAMES as STATISTICS
from protos.errors import CorruptData
from protos.files import write_durably
from protos.pointers import refuse_pointer
from protos.schema import ACTION_DIM, PROPRIO_DIM, Schema

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
STATE_UNITS = (
    *(unit for unit in ("m", "rad", "m/s", "rad/s", "N", "Nm") for _ in _AXES),
    "1",
    *(unit for unit in ("m", "rad") for _ in _AXES),
)

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""`datasets.Image`: a PNG or JPEG file in `bytes`, with `path` null."""
_INTEGERS = ("chunk_index", "file_index")
MAX_BYTES = 8 << 30
"""Largest table in memory; runs of equal values take almost no space in a file."""
_ROWS_AT_ONCE = 1024


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


def make_features(
    schema: Schema, images: ImageFormat, scale: ActionScale, codec: str, hz: float
) -> dict[str, dict[str, Any]]:
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
        SIDE: _camera(schema.side_px, images, codec, hz),
        WRIST: _camera(schema.wrist_px, images, codec, hz),
        REWARD: _scalar("float32"),
        **{name: _scalar("bool") for name in (DONE, TRUNCATED, SUCCESS, HUMAN)},
        TIMESTAMP: _scalar("float32"),
        **{name: _scalar("int64") for name in (FRAME, EPISODE, INDEX, TASK)},
    }


def make_info(features: Mapping[str, Any], *, hz: float, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    """Returns the content of info.json."""
    videos = any(feature["dtype"] == "video" for feature in features.values())
    return {
        "codebase_version": VERSION,
        "robot_type": "ur",
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK_FILES,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": rate_as_stored(hz),
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if videos else None,
        "features": dict(features),
    }


def rate_as_stored(hz: float) -> float:
    """Returns frames per second as info.json has them: a whole number where they are one."""
    return int(hz) if hz == int(hz) else hz


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


def _camera(px: int, images: ImageFormat, codec: str, hz: float) -> dict[str, Any]:
    shape = {"shape": [px, px, 3], "names": ["height", "width", "channels"]}
    if images == "png":
        return {"dtype": "image"} | shape
    about = {
        "video.height": px,
        "video.width": px,
        "video.codec": codec,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": rate_as_stored(hz),
        "video.channels": 3,
        "has_audio": False,
    }
    return {"dtype": "video"} | shape | {"info": about}


def data_schema(features: Mapping[str, Any]) -> pa.Schema:
    """Returns the columns of a file below data; videos have none."""
    kinds = {"image": IMAGE, "bool": pa.bool_(), "float32": pa.float32(), "int64": pa.int64()}
    columns = []
    for name, feature in features.items():
        if feature["dtype"] != "video":
            kind, shape = kinds[feature["dtype"]], feature["shape"]
            columns.append((name, kind if kind is IMAGE or shape == [1] else pa.list_(kind, shape[0])))
    return pa.schema(columns)


def episodes_schema(features: Mapping[str, Any]) -> pa.Schema:
    """Returns the columns of a file below meta/episodes, with those that only TwinRL writes."""
    videos = [name for name, feature in features.items() if feature["dtype"] == "video"]
    cameras = [name for name, feature in features.items() if feature["dtype"] in ("video", "image")]
    columns = [("episode_index", pa.int64()), ("tasks", pa.list_(pa.string())), ("length", pa.int64())]
    columns += [(f"data/{name}", pa.int64()) for name in _INTEGERS]
    columns += [(name, pa.int64()) for name in ("dataset_from_index", "dataset_to_index")]
    for video in videos:
        columns += [(f"videos/{video}/{name}", pa.int64()) for name in _INTEGERS]
        columns += [(f"videos/{video}/{name}", pa.float64()) for name in ("from_timestamp", "to_timestamp")]
    columns += [(f"{OURS}/{name}", pa.int64() if name == "cell" else pa.string()) for name in OWN_COLUMNS]
    for name in features:
        for statistic in STATISTICS:
            depth = 3 if name in cameras and statistic != "count" else 1
            columns.append((f"stats/{name}/{statistic}", _nested(depth)))
    return pa.schema([*columns, *((f"meta/episodes/{name}", pa.int64()) for name in _INTEGERS)])


def write_table(path: Path, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any], schema: pa.Schema) -> None:
    """Replaces a parquet file at once by rows or columns."""
    make = pa.Table.from_pydict if isinstance(rows, Mapping) else pa.Table.from_pylist
    file = io.BytesIO()
    pq.write_table(make(rows, schema=schema), file, compression="snappy")
    write_durably(path, [file.getvalue()])


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a parquet file. Raises CorruptData for one that is missing, damaged or lacks a column."""
    refuse_pointer(path)
    try:
        with pq.ParquetFile(path) as file:
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing:
                raise CorruptData(f"{path}: has no column {min(missing)!r}")
            return _bounded(file, columns, path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptData(f"{path}: not a whole parquet file ({' '.join(str(error).split())})") from error


def _bounded(file: pq.ParquetFile, columns: Sequence[str] | None, path: Path) -> pa.Table:
    parts, size = [file.schema_arrow.empty_table().select(columns or file.schema_arrow.names)], 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
        size += batch.nbytes
        if size > MAX_BYTES:
            raise CorruptData(f"{path}: more than {MAX_BYTES} bytes in memory")
        batch.validate(full=True)  # texts are decoded later, one by one
        parts.append(pa.Table.from_batches([batch]).select(columns or file.schema_arrow.names))
    return pa.concat_tables(parts)


def read_episodes(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of each file below meta/episodes, in order. Raises CorruptData."""
    for path in sorted((folder / "meta" / "episodes").glob("*/*.parquet")):
        yield read_table(path).to_pylist()


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Writes the instructions as pandas writes a data frame that is indexed by them."""
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    columns = [
        {"name": TASK, "field_name": TASK, "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
        {"name": "task", "field_name": "task"} | text,
    ]
    about = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    schema = pa.schema([(TASK, pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(about)})
    write_table(path, {TASK: range(len(tasks)), "task": list(tasks)}, schema)


def read_tasks(path: Path) -> dict[int, str]:
    """Reads task_index -> instruction. Raises CorruptData."""
    table = read_table(path)
    names = [name for name in table.column_names if name != TASK]
    if TASK not in table.column_names or len(names) != 1:
        raise CorruptData(f"{path}: columns {table.column_names}, expected {TASK} and the instructions")
    return dict(zip(table[TASK].to_pylist(), table[names[0]].to_pylist(), strict=True))


def _nested(depth: int) -> pa.DataType:
    kind = pa.float64()
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind
