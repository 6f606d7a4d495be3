"""This module reads and writes the parquet files of a LeRobotDataset v3.0, each as a whole.

Column types are those that `datasets.Features` makes of the features in info.json, so lerobot's cast changes nothing.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from learner.datasets.lerobot.layout import OURS, OWN_COLUMNS, TASK
from learner.datasets.lerobot.stats import NAMES as STATISTICS
from protos.errors import CorruptData
from protos.files import write_durably

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""`datasets.Image`: a PNG or JPEG file in `bytes`, with `path` null."""
_INTEGERS = ("chunk_index", "file_index")
MAX_BYTES = 8 << 30
"""Largest table in memory; runs of equal values take almost no space in a file."""
_ROWS_AT_ONCE = 1024


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
    try:
        with pq.ParquetFile(path) as file:
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing:
                raise CorruptData(f"{path}: has no column {min(missing)!r}")
            return _bounded(file, columns, path)
    except (pa.ArrowException, OSError) as error:
        raise CorruptData(f"{path}: not a whole parquet file ({' '.join(str(error).split())})") from error


def _bounded(file: pq.ParquetFile, columns: Sequence[str] | None, path: Path) -> pa.Table:
    parts, size = [file.schema_arrow.empty_table().select(columns or file.schema_arrow.names)], 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
        size += batch.nbytes
        if size > MAX_BYTES:
            raise CorruptData(f"{path}: more than {MAX_BYTES} bytes in memory")
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
