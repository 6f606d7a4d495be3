"""This module writes episodes as a LeRobotDataset v3.0, so that a crash costs at most the episode being written.

    add(episode) ─► videos ─► final ─► data ─► tasks ─► meta/episodes ─► stats.json, info.json
                    files of its own, each written whole        │
                                                                └── from here on the episode exists

Every file appears at once and complete. After a crash, files written before their row in meta/episodes are ignored by
readers and removed when the folder is opened for writing; files due after that row are rebuilt.
"""

import json
import logging
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.datasets.dataset import ActionScale, ImageFormat, check_episode
from learner.datasets.images import encode_png
from learner.datasets.lerobot import layout, video
from learner.datasets.lerobot.layout import OURS, Slot
from learner.datasets.lerobot.reader import read_info
from learner.datasets.lerobot.stats import NAMES, Stats, as_lists, combine, from_lists, image_stats, number_stats
from protos.episode import Episode
from protos.errors import InputError, SchemaMismatch
from protos.files import write_durably
from protos.folders import contents
from protos.schema import CONTROL_HZ, U8, Outcome, Schema

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Written:
    """The progress of a writer: what the folder holds."""

    episodes: int = 0
    frames: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    """Task index by instruction."""
    tasks_on_disk: int = 0
    names: set[str] = field(default_factory=set)
    open_rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the file below meta/episodes that is not full."""
    stats: Stats | None = None

    def count(self, name: str, steps: int) -> None:
        """Counts one more episode."""
        self.episodes += 1
        self.frames += steps
        self.names.add(name)


class LeRobotWriter:
    """A LeRobot writer appends episodes to a folder, which it makes, or opens and repairs."""

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        *,
        action_scale: ActionScale,
        images: ImageFormat = "video",
        hz: float = CONTROL_HZ,
    ) -> None:
        """Opens the folder. Raises InputError for other content in it, SchemaMismatch for other features."""
        self.folder, self.schema, self._hz = folder, schema, hz
        codec = video.codec() if images == "video" else ""
        self._features = layout.make_features(schema, images, action_scale, codec, hz)
        self._images = images
        self._written = self._open()
        self._write_summary()

    def __len__(self) -> int:
        return self._written.episodes

    @property
    def names(self) -> Set[str]:
        """Returns the names of the episodes in the folder."""
        return self._written.names

    def add(self, episode: Episode) -> None:
        """Writes one episode; it is on disk when this returns. Raises SchemaMismatch for images of another size."""
        check_episode(episode, self.schema, self._hz)
        written = self._written
        task = written.tasks.setdefault(episode.instruction, len(written.tasks))
        columns = self._columns(episode, task)
        stats = self._write_images(episode, columns)
        stats |= {name: number_stats(values) for name, values in columns.items() if isinstance(values, np.ndarray)}
        slot = Slot.of(written.episodes)
        layout.write_table(
            slot.path(self.folder, layout.DATA_PATH), _lists(columns), layout.data_schema(self._features)
        )
        if len(written.tasks) > written.tasks_on_disk:
            layout.write_tasks(self.folder / layout.TASKS, list(written.tasks))
            written.tasks_on_disk = len(written.tasks)
        self._write_row(episode, stats)
        written.stats = combine(written.stats, stats)
        written.count(episode.name, episode.steps)
        self._write_summary()

    def close(self) -> None:
        """Does nothing: every episode is on disk already."""

    def _open(self) -> Written:
        path = self.folder / layout.INFO
        if not path.is_file():
            if contents(self.folder):
                raise InputError(f"{self.folder} is not empty and not a LeRobotDataset; name a new folder")
            return Written()
        info = read_info(self.folder)
        if info.get("fps") != layout.rate_as_stored(self._hz):
            raise SchemaMismatch(
                f"{self.folder} holds a LeRobotDataset of {info.get('fps')} frames per second, these episodes are of "
                f"{self._hz:g}; name a new folder"
            )
        if info["features"] != self._features:
            raise SchemaMismatch(
                f"{self.folder} holds a LeRobotDataset with other features (image size, video or png, action scale, "
                f"or another writer); name a new folder"
            )
        return recover(self.folder)

    def _columns(self, episode: Episode, task: int) -> dict[str, Any]:
        """Returns all columns but the images."""
        steps, written = episode.steps, self._written
        last = np.arange(steps) == steps - 1
        number = np.arange(steps, dtype=np.int64)
        return {
            layout.STATE: episode.observation.proprio[:-1],
            layout.ACTION: episode.action,
            layout.REWARD: episode.reward,
            layout.DONE: last,
            layout.TRUNCATED: last & (episode.outcome not in (Outcome.SUCCESS, Outcome.FAILURE)),
            layout.SUCCESS: last & (episode.outcome is Outcome.SUCCESS),
            layout.HUMAN: episode.human,
            layout.TIMESTAMP: (number / self._hz).astype(np.float32),
            layout.FRAME: number,
            layout.EPISODE: np.full(steps, written.episodes, np.int64),
            layout.INDEX: number + written.frames,
            layout.TASK: np.full(steps, task, np.int64),
        }

    def _write_images(self, episode: Episode, columns: dict[str, Any]) -> Stats:
        """Writes videos, or puts PNG files into `columns`; writes the observation after the last action."""
        seen, slot, stats = episode.observation, Slot.of(self._written.episodes), {}
        final: dict[str, Any] = {layout.STATE: [seen.proprio[-1].tolist()]}
        for key, frames in ((layout.SIDE, seen.side), (layout.WRIST, seen.wrist)):
            stats[key] = image_stats(frames[:-1])
            final[key] = [_png(frames[-1])]
            if self._images == "png":
                columns[key] = [_png(frame) for frame in frames[:-1]]
            else:
                write_durably(slot.path(self.folder, layout.VIDEO_PATH, key), [video.encode(frames[:-1], self._hz)])
        images = {key: {"dtype": "image", "shape": []} for key in layout.CAMERAS}
        kinds = layout.data_schema({layout.STATE: self._features[layout.STATE]} | images)
        layout.write_table(slot.path(self.folder, layout.FINAL_PATH), final, kinds)
        return stats

    def _write_row(self, episode: Episode, stats: Stats) -> None:
        written, steps = self._written, episode.steps
        place, group = Slot.of(written.episodes), Slot.of(written.episodes // layout.EPISODES_PER_FILE)
        row: dict[str, Any] = {
            "episode_index": written.episodes,
            "tasks": [episode.instruction],
            "length": steps,
            "dataset_from_index": written.frames,
            "dataset_to_index": written.frames + steps,
            **_prefixed("data", vars(place)),
            **_prefixed("meta/episodes", vars(group)),
            **_prefixed(OURS, _own_columns(episode)),
        }
        if self._images == "video":
            for key in layout.CAMERAS:
                span = {"from_timestamp": 0.0, "to_timestamp": steps / self._hz}
                row |= _prefixed(f"videos/{key}", vars(place) | span)
        for key, each in as_lists(stats).items():
            row |= _prefixed(f"stats/{key}", each)
        rows = [*written.open_rows, row]
        layout.write_table(group.path(self.folder, layout.EPISODES_PATH), rows, layout.episodes_schema(self._features))
        written.open_rows = [] if len(rows) == layout.EPISODES_PER_FILE else rows

    def _write_summary(self) -> None:
        """Writes stats.json and info.json."""
        written = self._written
        if written.stats is not None:
            self._write_json(layout.STATS, as_lists(written.stats))
        info = layout.make_info(
            self._features,
            hz=self._hz,
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


def recover(folder: Path) -> Written:
    """Reads the content of a folder and removes the unfinished episode of an earlier writer.

    Raises CorruptData when a file of a finished episode is damaged.
    """
    written = Written()
    for rows in layout.read_episodes(folder):
        for row in rows:
            written.stats = combine(written.stats, _stats(row))
            written.count(row[f"{OURS}/name"], row["length"])
        written.open_rows = rows if len(rows) < layout.EPISODES_PER_FILE else []
    if (folder / layout.TASKS).is_file():
        written.tasks = {task: index for index, task in layout.read_tasks(folder / layout.TASKS).items()}
        written.tasks_on_disk = len(written.tasks)
    _remove_unfinished(folder, written.episodes)
    return written


def _stats(row: dict[str, Any]) -> Stats:
    features = {key.split("/")[1] for key in row if key.startswith("stats/")}
    return from_lists({each: {name: row[f"stats/{each}/{name}"] for name in NAMES} for each in features})


def _remove_unfinished(folder: Path, episodes: int) -> None:
    """Removes the files of the episode after the last finished one, and temporary files."""
    slot = Slot.of(episodes)
    left = [slot.path(folder, template) for template in (layout.DATA_PATH, layout.FINAL_PATH)]
    left += [slot.path(folder, layout.VIDEO_PATH, key) for key in layout.CAMERAS]
    left = [path for path in left if path.is_file()]
    for path in [*left, *folder.rglob("*.tmp")]:
        path.unlink()
        log.warning("%s: removed, its episode was never finished", path)
