"""This module reads the pickles released with the paper, one file in memory at a time.

Where the files give metres and radians, the action scale is the largest motion of all episodes, equal in both
directions: the authors map each axis from its least and largest value to −1 and 1, so that an action of 0 would be a
motion.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np

from learner.datasets.dataset import UNKNOWN_SCALE, ActionScale
from learner.datasets.released.episodes import Track, raw_track, stored_extremes, training_tracks
from learner.datasets.released.pickles import read_plain
from learner.datasets.settings import ReleasedMapping
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.schema import Configuration, Schema

_INSTRUCTIONS = {
    "pick_banana": "Pick banana",
    "insert_block": "Insert the block.",
    "insert_circle": "Insert the circle.",
    "erase_whiteboard": "Erase the whiteboard.",
}
"""Instructions of the authors, by a part of the path."""
_PATTERNS = ("*.pkl", "*.pkl.gz", "*/*.pkl", "*/*.pkl.gz")


@dataclass(frozen=True, kw_only=True)
class _Survey:
    episodes: int
    scale: ActionScale


class ReleasedDataset:
    """A released dataset reads the episodes of a file, or of the files of a folder and the folders in it."""

    format: Literal["released"] = "released"

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        mapping: ReleasedMapping | None = None,
        action_scale: ActionScale | None = None,
        instruction: str | None = None,
    ) -> None:
        self.name = path.name
        self._files, self._schema, self._wanted_scale = released_files(path), schema, action_scale
        self.mapping = mapping or ReleasedMapping()
        self._instructions = {file: _instruction(file) if instruction is None else instruction for file in self._files}

    def __len__(self) -> int:
        """Returns the number of episodes; the first call reads all files."""
        return self._survey.episodes

    @property
    def action_scale(self) -> ActionScale:
        """Returns the requested scale, or the largest motion; the first call reads all files."""
        return self._wanted_scale or self._survey.scale

    def __iter__(self) -> Iterator[Episode]:
        stored = self._survey.scale
        for file in self._files:
            for index, track in enumerate(self._tracks(file, self._schema)):
                action = (stored if track.in_metres else ActionScale(metres=1.0, radians=1.0)).to_action(
                    track.motion, track.gripper
                )
                yield Episode(
                    name=f"{file.name}/{index}",
                    instruction=self._instructions[file],
                    configuration=Configuration(region=""),
                    observation=track.observation,
                    action=stored.converted(action, self.action_scale),
                    reward=track.reward,
                    human=np.zeros(len(action), bool),
                    outcome=track.outcome,
                    source=self.mapping.source,
                )

    @cached_property
    def _survey(self) -> _Survey:
        """Reads all files for the number of episodes and their scale."""
        small = Schema(side_px=16, wrist_px=16)
        tracks = [(track.in_metres, track.motion) for file in self._files for track in self._tracks(file, small)]
        known = {in_metres for in_metres, _ in tracks}
        if len(known) == 2:
            raise InputError(
                f"{self.name}: some files tell metres, others only actions in [-1, 1]; "
                "open them one by one, or put <file>_action_stats.json beside them"
            )
        scale = UNKNOWN_SCALE
        if known == {True}:
            scale = ActionScale.fit((motion for _, motion in tracks), percentile=100.0)
        return _Survey(episodes=len(tracks), scale=scale)

    def _tracks(self, file: Path, schema: Schema) -> Iterator[Track]:
        try:
            with _opened(file) as source:
                data = read_plain(source, self.mapping.limit_bytes)
            if isinstance(data, dict):
                yield raw_track(data, self.mapping.hand, self.mapping.hz, schema)
            else:
                metres = self._in_metres(file)
                yield from training_tracks(data, stored_extremes(file), in_metres=metres, schema=schema)
        except (CorruptData, gzip.BadGzipFile, zlib.error) as error:
            raise CorruptData(f"{file}: {error}") from error

    def _in_metres(self, file: Path) -> bool:
        if self.mapping.actions == "by name":
            return "_delta" in file.name and "_normalized" not in file.name
        return self.mapping.actions == "metres"


def _opened(file: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(file)) if file.suffix == ".gz" else file.open("rb")


def released_files(path: Path) -> list[Path]:
    """Returns the pickles of a folder and of the folders in it, 2 before 10; or `path` if it is one."""
    if path.is_file():
        return [path] if path.name.endswith((".pkl", ".pkl.gz")) else []
    files = [file for pattern in _PATTERNS for file in path.glob(pattern)]
    return sorted(files, key=lambda file: (len(file.name), file.name, str(file)))


def _instruction(file: Path) -> str:
    for part, text in _INSTRUCTIONS.items():
        if part in str(file.absolute()):
            return text
    raise InputError(f"{file} holds no instruction, and its path names no task of the paper; give one")
