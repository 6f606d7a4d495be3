"""Writes episodes as a LeRobotDataset v3.0, so that a crash costs at most the episode being written.

    add(episode) ─► videos ─► final ─► data ─► tasks ─► meta/episodes ─► stats.json, info.json
                    files of its own, each written whole        │
                                                                └── from here on the episode is there

Every file appears at once and complete. What a crash leaves before the row in meta/episodes is not looked at by a
reader and is removed when the folder is opened for writing again; what it leaves unwritten after that row is rebuilt.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.datasets.episode import ActionScale
from learner.datasets.lerobot import layout, tables, video
from learner.datasets.lerobot.layout import Pictures, Slot
from learner.datasets.lerobot.reader import read_info
from learner.datasets.lerobot.repair import Written, recover
from learner.datasets.lerobot.stats import Stats, as_lists, combine, number_stats, picture_stats
from learner.datasets.pictures import encode_png
from protos.episode import Episode
from protos.errors import InputError, SchemaMismatch
from protos.files import write_durably
from protos.schema import CONTROL_HZ, U8, Outcome, Schema

FPS = int(CONTROL_HZ)


class LeRobotWriter:
    """Appends episodes to a folder, which it makes, or opens and repairs."""

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        *,
        action_scale: ActionScale,
        pictures: Pictures = "video",
        robot: str = "ur",
    ) -> None:
        """`robot` is the `robot_type` of info.json. Raises InputError for a folder with another kind of content."""
        self.folder, self.schema, self._robot = folder, schema, robot
        codec = video.codec() if pictures == "video" else ""
        self._features = layout.make_features(schema, pictures, action_scale, codec)
        self._pictures = pictures
        self._written = self._open()
        self._tell()

    def __len__(self) -> int:
        return self._written.episodes

    @property
    def names(self) -> frozenset[str]:
        """Of the episodes that are there."""
        return frozenset(self._written.names)

    def add(self, episode: Episode) -> None:
        """Writes one episode; when this returns it is on disk. Raises SchemaMismatch for pictures of another size."""
        self._check(episode)
        written = self._written
        task = written.tasks.setdefault(episode.instruction, len(written.tasks))
        columns = self._columns(episode, task)
        stats = self._write_pictures(episode, columns)
        stats |= {name: number_stats(values) for name, values in columns.items() if isinstance(values, np.ndarray)}
        slot = Slot.of(written.episodes)
        tables.write_table(
            slot.path(self.folder, layout.DATA_PATH), _lists(columns), tables.data_schema(self._features)
        )
        if len(written.tasks) > written.tasks_on_disk:
            tables.write_tasks(self.folder / layout.TASKS, list(written.tasks))
            written.tasks_on_disk = len(written.tasks)
        self._write_row(episode, stats)
        written.stats = combine(written.stats, stats)
        written.count(episode.name, len(episode.action))
        self._tell()

    def close(self) -> None:
        """Nothing is left to be written; for symmetry with other writers."""

    def _open(self) -> Written:
        path = self.folder / layout.INFO
        if not path.is_file():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise InputError(f"{self.folder} is not empty and not a LeRobotDataset; name a new folder")
            return Written()
        if read_info(self.folder)["features"] != self._features:
            raise SchemaMismatch(
                f"{self.folder} holds a LeRobotDataset with other features (picture size, video or png, action scale, "
                f"or another writer); name a new folder"
            )
        return recover(self.folder)

    def _check(self, episode: Episode) -> None:
        rows, steps = len(episode.observation), len(episode.action)
        assert rows == steps + 1, f"{rows} observations of {steps} steps"
        if not steps:
            raise InputError(f"episode {episode.name!r} has no step")
        for camera, px in (("side", self.schema.side_px), ("wrist", self.schema.wrist_px)):
            found = getattr(episode.observation, camera).shape[1:]
            if found != (px, px, 3):
                raise SchemaMismatch(
                    f"episode {episode.name!r}: {camera} pictures are {found}, this dataset's {px} x {px}"
                )

    def _columns(self, episode: Episode, task: int) -> dict[str, Any]:
        """All but the pictures."""
        steps, written = len(episode.action), self._written
        last = np.arange(steps) == steps - 1
        number = np.arange(steps, dtype=np.int64)
        return {
            layout.STATE: episode.observation.proprio[:-1],
            layout.ACTION: episode.action,
            layout.REWARD: episode.reward,
            layout.DONE: last,
            layout.TRUNCATED: last & (episode.outcome in (Outcome.TIMEOUT, Outcome.RUNNING)),
            layout.SUCCESS: last & (episode.outcome is Outcome.SUCCESS),
            layout.HUMAN: episode.human,
            layout.TIMESTAMP: (number / FPS).astype(np.float32),
            layout.FRAME: number,
            layout.EPISODE: np.full(steps, written.episodes, np.int64),
            layout.INDEX: number + written.frames,
            layout.TASK: np.full(steps, task, np.int64),
        }

    def _write_pictures(self, episode: Episode, columns: dict[str, Any]) -> Stats:
        """Videos to their files, PNG files into `columns`, and the observation after the last action."""
        seen, slot, stats = episode.observation, Slot.of(self._written.episodes), {}
        final: dict[str, Any] = {layout.STATE: [seen.proprio[-1].tolist()]}
        for key, frames in ((layout.SIDE, seen.side), (layout.WRIST, seen.wrist)):
            stats[key] = picture_stats(frames[:-1])
            final[key] = [_png(frames[-1])]
            if self._pictures == "png":
                columns[key] = [_png(frame) for frame in frames[:-1]]
            else:
                write_durably(slot.path(self.folder, layout.VIDEO_PATH, key), [video.encode(frames[:-1], FPS)])
        images = {key: {"dtype": "image", "shape": []} for key in layout.CAMERAS}
        kinds = tables.data_schema({layout.STATE: self._features[layout.STATE]} | images)
        tables.write_table(slot.path(self.folder, layout.FINAL_PATH), final, kinds)
        return stats

    def _write_row(self, episode: Episode, stats: Stats) -> None:
        written, steps = self._written, len(episode.action)
        place, group = Slot.of(written.episodes), Slot.of(written.episodes // layout.EPISODES_PER_FILE)
        row: dict[str, Any] = {
            "episode_index": written.episodes,
            "tasks": [episode.instruction],
            "length": steps,
            "dataset_from_index": written.frames,
            "dataset_to_index": written.frames + steps,
            **_prefixed("data", vars(place)),
            **_prefixed("meta/episodes", vars(group)),
            **_prefixed(layout.OURS, _own_columns(episode)),
        }
        if self._pictures == "video":
            for key in layout.CAMERAS:
                span = {"from_timestamp": 0.0, "to_timestamp": steps / FPS}
                row |= _prefixed(f"videos/{key}", vars(place) | span)
        for key, each in as_lists(stats).items():
            row |= _prefixed(f"stats/{key}", each)
        rows = [*written.open_rows, row]
        tables.write_table(group.path(self.folder, layout.EPISODES_PATH), rows, tables.episodes_schema(self._features))
        written.open_rows = [] if len(rows) == layout.EPISODES_PER_FILE else rows

    def _tell(self) -> None:
        """stats.json and info.json, from what is written."""
        written = self._written
        if written.stats is not None:
            self._write_json(layout.STATS, as_lists(written.stats))
        info = layout.make_info(
            self._features,
            robot=self._robot,
            episodes=written.episodes,
            frames=written.frames,
            tasks=written.tasks_on_disk,
        )
        self._write_json(layout.INFO, info)

    def _write_json(self, path: Path, content: dict[str, Any]) -> None:
        write_durably(self.folder / path, [json.dumps(content, indent=2).encode()])


def _own_columns(episode: Episode) -> dict[str, Any]:
    start = episode.configuration
    return {
        "name": episode.name,
        "outcome": episode.outcome.value,
        "source": episode.source.value,
        "region": start.region,
        "cell": start.cell,
        "poses": json.dumps({body: list(pose) for body, pose in start.poses.items()}),
    }


def _prefixed(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _lists(columns: dict[str, NDArray[Any] | list[Any]]) -> dict[str, list[Any]]:
    return {name: list(values) for name, values in columns.items()}


def _png(frame: U8) -> dict[str, Any]:
    return {"bytes": encode_png(frame), "path": None}
