"""This module reads LeRobotDatasets v3.0: ours exactly as they were written, others by a `LeRobotMapping`.

    meta/episodes ─► place of an episode's rows and frames
    data/… ────────► numbers, and images that are PNG files ──┐
    videos/… ──────► images ──────────────────────────────────┴─► Episode

Episodes are decoded one at a time.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from learner.datasets.dataset import ActionScale, read_json
from learner.datasets.images import black, decode_image, resize
from learner.datasets.lerobot import layout, video
from learner.datasets.lerobot.layout import OURS, Slot
from learner.datasets.lerobot.rows import flat, numbers, optional, row_times, stamped_rate, stated_rate
from learner.datasets.outcomes import outcome_of, reward_of
from learner.datasets.reading import Skipped, content_mark, readable
from learner.datasets.recording import Recording, Track, resampled_episode
from learner.datasets.settings import LeRobotMapping, Numbers
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.schema import F32, U8, Configuration, Observation, Outcome, Schema, Source

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
        hz: float | None = None,
    ) -> None:
        """Opens a folder; `mapping` describes a dataset that is not ours.

        `action_scale` replaces the stored one, or the one that is fitted; actions are then rescaled. Episodes are
        resampled to `hz`; None reads them as they were recorded. Raises InputError for another version of the format
        and for a dataset that nothing describes, CorruptData for a damaged one.
        """
        self.name, self.path, self.schema, self.skipped = path.name, path, schema, list[Skipped]()
        self._info = read_info(path)
        self._features: dict[str, Any] = self._info["features"]
        self._mapping, self._wanted_hz = mapping or LeRobotMapping(), hz
        self._reward = layout.REWARD if self._mapping.reward is None else self._mapping.reward
        with _consistent(path / layout.INFO):
            self._stored = layout.own_scale(self._info) if mapping is None else None
            if mapping is not None:
                mapping.check(self._features, path)
        if mapping is None and self._stored is None:
            raise InputError(_nothing_describes(path, self._features))
        self._rows = [row for rows in layout.read_episodes(path) for row in rows]
        self._tasks = layout.read_tasks(path / layout.TASKS) if self._rows else {}
        self._wanted_scale = action_scale
        self._table: tuple[Path, pa.Table] | None = None

    @cached_property
    def hz(self) -> float | None:
        """Returns the rate by the settings, else by info.json, else by the stamps of the first episode with some."""
        stated = self._mapping.hz or stated_rate(self._info.get("fps"))
        if stated is not None:
            return stated
        for table in self._readable_tables(len(self._rows)):
            with suppress(CorruptData):
                if (found := stamped_rate(table)) is not None:
                    return found
        return None

    @cached_property
    def action_scale(self) -> ActionScale:
        """Returns the requested scale, the one stored, or one fitted to the first episodes."""
        if self._wanted_scale is not None:
            return self._wanted_scale
        if self._stored is not None:
            return self._stored.at_rate(self.hz, self._wanted_hz)
        return ActionScale.fit(self._motions(), percentile=self._mapping.scale_percentile)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Episode]:
        self.skipped.clear()
        attempts = ((f"{self.path}: episode {index}", partial(self.read, index)) for index in range(len(self)))
        return readable(self.name, attempts, self.skipped)

    def read(self, index: int) -> Episode:
        """Reads one episode. Raises CorruptData."""
        row = self._rows[index]
        with _consistent(f"{self.path}: episode {index}"):
            table = self._data(row)
            return self._ours(row, table) if self._stored is not None else self._mapped(row, table)

    def _ours(self, row: Row, table: pa.Table) -> Episode:
        assert self._stored is not None
        poses = json.loads(row[f"{OURS}/poses"])
        episode = Episode(
            name=row[f"{OURS}/name"],
            instruction=self._instruction(table),
            configuration=Configuration(
                region=row[f"{OURS}/region"],
                cell=row[f"{OURS}/cell"],
                poses={body: tuple(pose) for body, pose in poses.items()},
            ),
            observation=self._with_final(row, self._observation(row, table, *layout.CAMERAS)),
            action=numbers(table, layout.ACTION),
            reward=table[layout.REWARD].to_numpy(),
            human=np.asarray(table[layout.HUMAN]),
            outcome=Outcome(row[f"{OURS}/outcome"]),
            source=Source(row[f"{OURS}/source"]),
            hz=self.hz,
        )
        return resampled_episode(episode, self._wanted_hz, self._stored, self._wanted_scale)

    def _mapped(self, row: Row, table: pa.Table) -> Episode:
        mapping, steps = self._mapping, len(table)
        reward, outcome = self._ending(table)
        seen = self._observation(row, table, mapping.side, mapping.wrist)
        instruction = self._instruction(table)
        content = [numbers(table, each) for each in (mapping.action, mapping.state) if each is not None]
        index = row["episode_index"]
        recording = Recording(
            name=f"{self.name}/{index:06d}",
            mark=content_mark(str(index), instruction, *content, seen.side, seen.wrist),
            instruction=instruction,
            configuration=Configuration(region=""),
            observation=seen.rows([*range(steps), steps - 1]),
            track=self._recorded(table),
            reward=reward,
            human=np.full(steps, mapping.human),
            outcome=outcome,
            source=mapping.source,
            hz=self.hz,
        )
        return recording.resampled(self._wanted_hz).episode(self.action_scale)

    def _recorded(self, table: pa.Table) -> Track:
        state = None if self._mapping.state is None else numbers(table, self._mapping.state)
        moved, gripper = self._mapping.motion(numbers(table, self._mapping.action), state)
        return Track(times=row_times(table, self.hz), motion=moved, gripper=gripper)

    def positions(self, count: int) -> Iterator[tuple[Numbers, Numbers]]:
        """Yields positions (n, 3) [m] of states and the first three numbers (n, 3) of actions of the first episodes."""
        state = self._mapping.state
        if self._stored is None and state is not None:
            for table in self._readable_tables(count):
                with suppress(CorruptData), _consistent(self.path):
                    yield self._mapping.positions(numbers(table, self._mapping.action), numbers(table, state))

    def _motions(self) -> Iterator[F32]:
        """Yields the motions of the first episodes at the rate at which they are read."""
        for table in self._readable_tables(self._mapping.scale_episodes):
            with suppress(CorruptData), _consistent(self.path):
                yield self._recorded(table).resampled(self._wanted_hz, self.hz).motion

    def _ending(self, table: pa.Table) -> tuple[F32, Outcome]:
        """Returns rewards (T,) and outcome."""
        success, reward = optional(table, layout.SUCCESS), optional(table, self._reward)
        end = Outcome.UNKNOWN
        for name, kind in ((layout.DONE, Outcome.FAILURE), (layout.TRUNCATED, Outcome.TIMEOUT)):
            flag = optional(table, name)
            end = kind if flag is not None and flag[-1] else end
        if end is Outcome.UNKNOWN and reward is not None and self._rewarded:
            end = Outcome.FAILURE
        outcome = outcome_of(
            success=None if success is None else success.astype(bool),
            reward=reward,
            end=end,
            success_reward=self._mapping.success_reward,
            unsaid=self._mapping.outcome,
        )
        return reward_of(outcome, len(table)) if reward is None else reward.astype(np.float32), outcome

    @cached_property
    def _rewarded(self) -> bool:
        """Tells whether any episode has a reward; where none has, a reward of 0 says nothing."""
        seen = set[Slot]()
        for row in self._rows:
            with suppress(CorruptData), _consistent(self.path):
                slot = _slot(row, "data")
                if slot not in seen:
                    seen.add(slot)
                    path = slot.path(self.path, self._info["data_path"])
                    if (flat(layout.read_table(path, (self._reward,)), self._reward) > 0).any():
                        return True
        return False

    def _readable_tables(self, count: int) -> Iterator[pa.Table]:
        """Yields the rows of those of the first `count` episodes that can be read."""
        for row in self._rows[:count]:
            with suppress(CorruptData), _consistent(self.path):
                yield self._data(row)

    def _observation(self, row: Row, table: pa.Table, side: str | None, wrist: str | None) -> Observation:
        """Returns as many observations as the table has rows."""
        times = row_times(table, self.hz)[:-1]
        state = None if self._mapping.state is None else numbers(table, self._mapping.state)
        if self._stored is None:
            state = self._mapping.proprio(state, len(table), None if self.hz is None else times)
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
            proprio=np.concatenate([seen.proprio, numbers(final, layout.STATE)]),
        )

    def _images(self, row: Row, table: pa.Table, key: str | None, px: int) -> U8:
        if key is None:
            return black(len(table), px)
        if self._features[key]["dtype"] == "image":
            out = np.empty((len(table), px, px, 3), np.uint8)
            for image, cell in zip(out, table[key], strict=True):
                image[...] = resize(decode_image(cell.as_py()["bytes"]), px)
            return out
        slot = _slot(row, f"videos/{key}")
        times = row[f"videos/{key}/from_timestamp"] + row_times(table, self.hz)[:-1]
        path = slot.path(self.path, self._info["video_path"], key)
        return video.decode(path, times, self.hz, px, rows=self._rows_in[f"videos/{key}", slot])

    @cached_property
    def _rows_in(self) -> Counter[tuple[str, Slot]]:
        """Counts the rows whose images lie in one video, by camera and place."""
        count = Counter[tuple[str, Slot]]()
        cameras = [f"videos/{name}" for name, feature in self._features.items() if feature["dtype"] == "video"]
        for row in self._rows:
            with suppress(CorruptData), _consistent(self.path):
                for key in cameras:
                    count[key, _slot(row, key)] += row["length"]
        return count

    def _data(self, row: Row) -> pa.Table:
        """Returns the rows of an episode. Raises CorruptData when some are missing."""
        path = _slot(row, "data").path(self.path, self._info["data_path"])
        if self._table is None or self._table[0] != path:
            self._table = path, layout.read_table(path)
        table = self._table[1]
        found = table.filter(pc.equal(table[layout.EPISODE], row["episode_index"]))
        if row["length"] != len(found):
            raise CorruptData(f"{path}: {len(found)} rows of episode {row['episode_index']}, expected {row['length']}")
        if not len(found):
            raise CorruptData("it has no rows")
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
