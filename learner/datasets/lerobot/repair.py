"""What is written in a folder of ours, after whatever ended its writer."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learner.datasets.lerobot import layout, tables
from learner.datasets.lerobot.layout import OURS, Slot
from learner.datasets.lerobot.stats import NAMES, Stats, combine, from_lists

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Written:
    """How far a writer has come."""

    episodes: int = 0
    frames: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    """Instruction -> task_index."""
    tasks_on_disk: int = 0
    names: set[str] = field(default_factory=set)
    open_rows: list[dict[str, Any]] = field(default_factory=list)
    """Of the file below meta/episodes that takes more."""
    stats: Stats | None = None

    def count(self, name: str, steps: int) -> None:
        """One more episode is there."""
        self.episodes += 1
        self.frames += steps
        self.names.add(name)


def recover(folder: Path) -> Written:
    """Reads what is there and removes what a writer left of the episode that it was at.

    Raises CorruptData if a file that was complete no longer is.
    """
    written = Written()
    for rows in tables.read_episodes(folder):
        for row in rows:
            written.stats = combine(written.stats, _stats(row))
            written.count(row[f"{OURS}/name"], row["length"])
        written.open_rows = rows if len(rows) < layout.EPISODES_PER_FILE else []
    if (folder / layout.TASKS).is_file():
        written.tasks = {task: index for index, task in tables.read_tasks(folder / layout.TASKS).items()}
        written.tasks_on_disk = len(written.tasks)
    _remove_unfinished(folder, written.episodes)
    return written


def _stats(row: dict[str, Any]) -> Stats:
    features = {key.split("/")[1] for key in row if key.startswith("stats/")}
    return from_lists({each: {name: row[f"stats/{each}/{name}"] for name in NAMES} for each in features})


def _remove_unfinished(folder: Path, episodes: int) -> None:
    """Of the episode after the last one that is there, and files that were never whole."""
    slot = Slot.of(episodes)
    left = [slot.path(folder, template) for template in (layout.DATA_PATH, layout.FINAL_PATH)]
    left += [slot.path(folder, layout.VIDEO_PATH, key) for key in layout.CAMERAS]
    left = [path for path in left if path.is_file()]
    for path in [*left, *folder.rglob("*.tmp")]:
        path.unlink()
        log.warning("%s: removed, its episode was never finished", path)
