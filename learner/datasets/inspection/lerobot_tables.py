"""This module reads the tables of a LeRobotDataset for an inspection: numbers, stamps, headers of its videos."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from learner.datasets.inspection.raw import Camera, Raw, RawEpisode
from learner.datasets.lerobot import layout
from learner.datasets.lerobot.layout import Slot
from learner.datasets.lerobot.reader import read_info
from learner.datasets.lerobot.rows import stated_rate
from protos.errors import CorruptData, TwinRLError
from protos.pointers import refuse_pointer
from protos.problems import first_line
from protos.schema import F64

_OUTCOMES = (f"{layout.OURS}/outcome", layout.SUCCESS, layout.REWARD, layout.DONE, layout.TRUNCATED)
_NUMERIC = ("float", "int", "bool")
_CAMERAS, _INDEX = ("video", "image"), {"dtype": "int64"}
_MOST_NUMBERS = 256
_BROKEN = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, pa.ArrowException)


def raw_lerobot(path: Path) -> Raw:
    """Describes a folder of LeRobotDataset v3. Raises InputError, CorruptData."""
    info = read_info(path)
    try:
        return _described(path, info)
    except _BROKEN as error:
        raise CorruptData(f"{path / layout.INFO} cannot be read ({error!r})") from error


def _described(path: Path, info: dict[str, Any]) -> Raw:
    features = info["features"]
    rows = [row for rows in layout.read_episodes(path) for row in rows]
    wide = {name: each for name, each in features.items() if _is_wide(each)}
    own = () if layout.own_scale(info) is None else (_OUTCOMES[0],)
    return Raw(
        format="lerobot",
        name=path.name,
        episodes=len(rows),
        hz=stated_rate(info.get("fps")),
        cameras=tuple(_camera(path, info, name, rows) for name, each in features.items() if each["dtype"] in _CAMERAS),
        names={name: _names(each) for name, each in wide.items()},
        outcome_features=(*own, *(name for name in _OUTCOMES if name in features)),
        read=lambda count: _episodes(path, info, rows, tuple(wide), count),
    )


def _is_wide(feature: dict[str, Any]) -> bool:
    """Tells whether a feature holds several numbers a row."""
    shape = feature["shape"]
    return (
        feature["dtype"].startswith(_NUMERIC)
        and len(shape) == 1
        and isinstance(shape[0], int)
        and 1 < shape[0] <= _MOST_NUMBERS
    )


def _names(feature: dict[str, Any]) -> tuple[str, ...]:
    """Returns the names of a feature's numbers: a list, or a map of lists."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = [each for part in names.values() if isinstance(part, list) for each in part] or list(names)
    return tuple(map(str, names)) if isinstance(names, list) and len(names) == feature["shape"][0] else ()


def _camera(path: Path, info: dict[str, Any], name: str, rows: list[dict[str, Any]]) -> Camera:
    feature = info["features"][name]
    height, width = _size(feature)
    if feature["dtype"] == "image":
        return Camera(name=name, storage="images", width=width, height=height)
    try:
        slot = Slot(rows[0][f"videos/{name}/chunk_index"], rows[0][f"videos/{name}/file_index"])
        file = slot.path(path, info["video_path"], name)
        return _probed(name, file)
    except (TwinRLError, *_BROKEN, OSError, av.FFmpegError) as error:
        return Camera(name=name, storage="video", width=width, height=height, problem=first_line(error))


def _size(feature: dict[str, Any]) -> tuple[int, int]:
    """Returns height and width by the description; 0 where it gives none."""
    shape, names = feature["shape"], feature.get("names")
    if len(shape) != 3 or not all(isinstance(each, int) for each in shape):
        return 0, 0
    first = isinstance(names, list) and names[:1] in (["channels"], ["channel"])
    return (shape[1], shape[2]) if first else (shape[0], shape[1])


def _probed(name: str, file: Path) -> Camera:
    refuse_pointer(file)
    with file.open("rb") as opened, av.open(opened, format="mp4") as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        return Camera(
            name=name,
            storage="video",
            width=stream.width,
            height=stream.height,
            codec=stream.codec_context.name,
            hz=float(rate) if rate else None,
        )


def _episodes(
    path: Path, info: dict[str, Any], rows: list[dict[str, Any]], wide: tuple[str, ...], count: int
) -> Iterator[RawEpisode]:
    tasks = dict[int, str]()
    with suppress(TwinRLError, *_BROKEN):
        tasks = layout.read_tasks(path / layout.TASKS)
    held: tuple[Path, pa.Table] | None = None
    for number, row in enumerate(islice(rows, count)):
        place = f"episode {number}"
        try:
            file = Slot(row["data/chunk_index"], row["data/file_index"]).path(path, info["data_path"])
            if held is None or held[0] != file:
                held = file, _table(file, info["features"])
            found = held[1].filter(pc.equal(held[1][layout.EPISODE], row["episode_index"]))
            yield _episode(place, found, wide, tasks)
        except CorruptData as error:
            yield RawEpisode(place=place, steps=0, problem=str(error))
        except _BROKEN as error:
            yield RawEpisode(place=place, steps=0, problem=f"cannot be read ({error!r})")


def _table(file: Path, features: dict[str, Any]) -> pa.Table:
    """Reads the columns that hold numbers, without images. Raises CorruptData."""
    refuse_pointer(file)
    try:
        stored = pq.read_schema(file).names
    except (pa.ArrowException, OSError) as error:
        raise CorruptData(f"{file}: not a whole parquet file ({' '.join(str(error).split())})") from error
    return layout.read_table(file, [name for name in stored if features.get(name, _INDEX)["dtype"] not in _CAMERAS])


def _episode(place: str, table: pa.Table, wide: tuple[str, ...], tasks: dict[int, str]) -> RawEpisode:
    if not len(table):
        return RawEpisode(place=place, steps=0, problem="no rows")
    stamps = table[layout.TIMESTAMP].to_numpy().astype(np.float64) if layout.TIMESTAMP in table.column_names else None
    task = table[layout.TASK][0].as_py() if layout.TASK in table.column_names else None
    return RawEpisode(
        place=place,
        steps=len(table),
        numbers={name: _numbers(table, name) for name in wide if name in table.column_names},
        stamps=stamps,
        instruction=str(tasks.get(task, "")) if isinstance(task, int) else "",
    )


def _numbers(table: pa.Table, name: str) -> F64:
    flat: F64 = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    if len(flat) % len(table):
        raise CorruptData(f"{name}: {len(flat)} numbers in {len(table)} rows")
    return flat.reshape(len(table), -1)
