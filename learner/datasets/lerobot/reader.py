"""This module reads LeRobotDatasets v3.0: ours exactly as they were written, others by a `LeRobotMapping`.

    meta/episodes ─► place of an episode's rows and frames
    data/… ────────► numbers, and images that are PNG files ──┐
    videos/… ──────► images ──────────────────────────────────┴─► Episode

Episodes are decoded one at a time.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from learner.datasets.dataset import ActionScale, read_json
from learner.datasets.images import black, decode_image, resize
from learner.datasets.lerobot import layout, video
from learner.datasets.lerobot.layout import OURS, Slot
from learner.datasets.settings import LeRobotMapping
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.schema import U8, Configuration, Observation, Outcome, Schema, Source

Row = dict[str, Any]


class LeRobotDataset:
    """A LeRobot dataset decodes the episodes of a folder one at a time."""

    format = "lerobot"

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        action_scale: ActionScale | None = None,
        mapping: LeRobotMapping | None = None,
    ) -> None:
        """Opens a folder; `mapping` describes a dataset that is not ours.

        `action_scale` replaces the stored one, or the one that is fitted; actions are then rescaled. Raises InputError
        for another version of the format and for a dataset that nothing describes, CorruptData for a damaged one.
        """
        self.name, self.path, self.schema = path.name, path, schema
        self._info = read_info(path)
        self._features: dict[str, Any] = self._info["features"]
        self._mapping = mapping or LeRobotMapping()
        with _consistent(path / layout.INFO):
            self._stored = layout.own_scale(self._info) if mapping is None else None
            if mapping is not None:
                mapping.check(self._features, path)
        if mapping is None and self._stored is None:
            raise InputError(_nothing_describes(path, self._features))
        self._rows = [row for rows in layout.read_episodes(path) for row in rows]
        self._tasks = layout.read_tasks(path / layout.TASKS) if self._rows else {}
        self._scale = action_scale or self._stored
        self._table: tuple[Path, pa.Table] | None = None

    @property
    def action_scale(self) -> ActionScale:
        """Returns the scale; that of foreign data is fitted at the first call."""
        if self._scale is None:
            chosen = self._rows[: self._mapping.scale_episodes]
            with _consistent(self.path):
                moved = (self._mapping.motion(_numbers(self._data(row), self._mapping.action))[0] for row in chosen)
                self._scale = ActionScale.fit(moved, percentile=self._mapping.scale_percentile)
        return self._scale

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Episode]:
        return map(self.read, range(len(self)))

    def read(self, index: int) -> Episode:
        """Reads one episode. Raises CorruptData."""
        row = self._rows[index]
        with _consistent(f"{self.path}: episode {index}"):
            table = self._data(row)
            return self._ours(row, table) if self._stored is not None else self._mapped(row, table)

    def _ours(self, row: Row, table: pa.Table) -> Episode:
        assert self._stored is not None
        poses = json.loads(row[f"{OURS}/poses"])
        return Episode(
            name=row[f"{OURS}/name"],
            instruction=self._instruction(table),
            configuration=Configuration(
                region=row[f"{OURS}/region"],
                cell=row[f"{OURS}/cell"],
                poses={body: tuple(pose) for body, pose in poses.items()},
            ),
            observation=self._with_final(row, self._observation(row, table, *layout.CAMERAS)),
            action=self._stored.converted(_numbers(table, layout.ACTION), self.action_scale),
            reward=table[layout.REWARD].to_numpy(),
            human=np.asarray(table[layout.HUMAN]),
            outcome=Outcome(row[f"{OURS}/outcome"]),
            source=Source(row[f"{OURS}/source"]),
        )

    def _mapped(self, row: Row, table: pa.Table) -> Episode:
        mapping, index = self._mapping, row["episode_index"]
        moved, gripper = mapping.motion(_numbers(table, mapping.action))
        outcome = mapping.outcome
        if layout.SUCCESS in table.column_names:
            outcome = Outcome.SUCCESS if np.asarray(table[layout.SUCCESS]).any() else Outcome.FAILURE
        reward = np.zeros(len(table), np.float32)
        reward[-1] = outcome is Outcome.SUCCESS
        if layout.REWARD in table.column_names:
            reward = table[layout.REWARD].to_numpy().astype(np.float32)
        seen = self._observation(row, table, mapping.side, mapping.wrist)
        return Episode(
            name=f"{self.name}/{index:06d}",
            instruction=self._instruction(table),
            configuration=Configuration(region=""),
            observation=seen.rows([*range(len(table)), len(table) - 1]),
            action=self.action_scale.to_action(moved, gripper),
            reward=reward,
            human=np.full(len(table), mapping.human),
            outcome=outcome,
            source=mapping.source,
        )

    def _observation(self, row: Row, table: pa.Table, side: str | None, wrist: str | None) -> Observation:
        """Returns as many observations as the table has rows."""
        state = None if self._mapping.state is None else _numbers(table, self._mapping.state)
        if self._stored is None:
            state = self._mapping.proprio(state, len(table), self._info["fps"])
        assert state is not None
        return Observation(
            side=self._images(row, table, side, self.schema.side_px),
            wrist=self._images(row, table, wrist, self.schema.wrist_px),
            proprio=state,
        )

    def _with_final(self, row: Row, seen: Observation) -> Observation:
        """Appends the observation after the last action; in a copy without it, the last one is repeated."""
        path = _slot(row, "data").path(self.path, layout.FINAL_PATH)
        if not path.is_file():
            return seen.rows([*range(len(seen)), len(seen) - 1])
        final = layout.read_table(path, (layout.STATE, *layout.CAMERAS))
        side, wrist = (
            resize(decode_image(final[key][0].as_py()["bytes"]), px)[None]
            for key, px in ((layout.SIDE, self.schema.side_px), (layout.WRIST, self.schema.wrist_px))
        )
        return Observation(
            side=np.concatenate([seen.side, side]),
            wrist=np.concatenate([seen.wrist, wrist]),
            proprio=np.concatenate([seen.proprio, _numbers(final, layout.STATE)]),
        )

    def _images(self, row: Row, table: pa.Table, key: str | None, px: int) -> U8:
        if key is None:
            return black(len(table), px)
        if self._features[key]["dtype"] == "image":
            out = np.empty((len(table), px, px, 3), np.uint8)
            for image, cell in zip(out, table[key], strict=True):
                image[...] = resize(decode_image(cell.as_py()["bytes"]), px)
            return out
        path = _slot(row, f"videos/{key}").path(self.path, self._info["video_path"], key)
        times = row[f"videos/{key}/from_timestamp"] + table[layout.TIMESTAMP].to_numpy().astype(np.float64)
        return video.decode(path, times, self._info["fps"], px)

    def _data(self, row: Row) -> pa.Table:
        """Returns the rows of an episode. Raises CorruptData when some are missing."""
        path = _slot(row, "data").path(self.path, self._info["data_path"])
        if self._table is None or self._table[0] != path:
            self._table = path, layout.read_table(path)
        table = self._table[1]
        found = table.filter(pc.equal(table[layout.EPISODE], row["episode_index"]))
        if not 0 < row["length"] == len(found):
            raise CorruptData(f"{path}: {len(found)} rows of episode {row['episode_index']}, expected {row['length']}")
        return found

    def _instruction(self, table: pa.Table) -> str:
        return self._tasks[table[layout.TASK][0].as_py()]


def read_info(path: Path) -> dict[str, Any]:
    """Reads info.json. Raises InputError for another version of the format, CorruptData for something else."""
    file = path / layout.INFO
    info = read_json(file)
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version is None or not _are_features(info.get("features")):
        raise CorruptData(f"{file}: no codebase_version or no features; not a LeRobotDataset")
    if not str(version).startswith("v3."):
        raise InputError(
            f"{path}: LeRobotDataset {version}, only {layout.VERSION} is read; lerobot converts older ones: "
            "python -m lerobot.scripts.convert_dataset_v21_to_v30"
        )
    return info


def stored_schema(path: Path) -> Schema | None:
    """Reads the image sizes of a dataset that TwinRL wrote; returns None for one of others."""
    info = read_info(path)
    with _consistent(path / layout.INFO):
        if layout.own_scale(info) is None:
            return None
        side, wrist = (info["features"][key]["shape"][0] for key in layout.CAMERAS)
        return Schema(side_px=side, wrist_px=wrist)


@contextmanager
def _consistent(what: Path | str) -> Iterator[None]:
    """Turns any error that an inconsistent description or table causes into CorruptData."""
    try:
        yield
    except InputError:
        raise
    except (
        *(LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError),
        pa.ArrowException,
    ) as error:
        raise CorruptData(f"{what} cannot be read ({error!r})") from error


def _nothing_describes(path: Path, features: Row) -> str:
    held = ", ".join(f"{name} {feature['shape']}" for name, feature in features.items() if feature["shape"] != [1])
    return (
        f"{path} was not written by TwinRL: say which of its features are which in a settings file, as in "
        f'{{"path": "{path}", "lerobot": {{…}}}} (docs/data.md); it has {held or "none"}'
    )


def _are_features(found: object) -> bool:
    return isinstance(found, dict) and all(
        isinstance(each, dict) and isinstance(each.get("dtype"), str) and isinstance(each.get("shape"), list)
        for each in found.values()
    )


def _slot(row: Row, what: str) -> Slot:
    return Slot(row[f"{what}/chunk_index"], row[f"{what}/file_index"])


def _numbers(table: pa.Table, name: str) -> NDArray[np.float32]:
    """Returns a column of lists as (rows, numbers). Raises CorruptData for lists of several lengths and for NaN."""
    flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    if len(flat) % len(table) or not np.isfinite(flat).all():
        raise CorruptData(f"{name}: {len(flat)} numbers in {len(table)} rows, or some that are not finite")
    return flat.reshape(len(table), -1)
