"""This module defines what every dataset format shares: reader, writer, and the scale of actions.

    folder on disk ──open_dataset──► Dataset ──iterate──► Episode ──► fine-tuning
    replay or run ──► Episode ──Writer.add──► folder on disk

An `Episode` is in the units of `protos.schema`: base frame, rotation vectors, actions in [−1, 1]. Foreign data give
their motion in metres and radians per step; an `ActionScale` maps it to [−1, 1] and back.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from learner.datasets.reading import Skipped
from protos.episode import Episode
from protos.errors import CorruptData, InputError, SchemaMismatch
from protos.pointers import refuse_pointer
from protos.schema import ACTION_DIM, F32, GRIPPER_ACTION, Schema

Format = Literal["lerobot", "rlds"]
"""A format that can be written."""
ImageFormat = Literal["video", "png"]
"""Storage of a LeRobotDataset's images."""
MAX_JSON_BYTES = 64 << 20
_RATE_TOLERANCE = 1e-3
_POSITION, _ROTATION = slice(0, 3), slice(3, 6)

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
"""Names of the numbers of our proprioception."""
ACTION_NAMES = (*(f"delta_{axis}" for axis in _AXES), *(f"delta_rotation_{axis}" for axis in _AXES), "gripper")


@dataclass(frozen=True, kw_only=True)
class ActionScale:
    """An action scale is the motion per unit of action, equal for the three axes of a group and for both directions.

    A group at 0 does not move: an axis that is locked, or data whose scale is unknown.
    """

    metres: float
    """Displacement per step at an action of 1."""
    radians: float
    """Rotation per step at an action of 1."""

    def __post_init__(self) -> None:
        for name, value in (("metres", self.metres), ("radians", self.radians)):
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"action scale {name}={value}: a finite number, 0 or more")

    @classmethod
    def fit(cls, motion: Iterable[F32], *, percentile: float = 99.0) -> "ActionScale":
        """Fits the scale to motions (T, ≥ 6) [m, rad] per step: the largest of the axes' percentiles.

        `percentile` counts from both ends: 99 takes p01 and p99, so that few motions are clipped, 100 the extremes.
        """
        rows = [each[:, :6] for each in motion]
        if not sum(map(len, rows)):
            raise InputError("no action to fit a scale to")
        ends = np.abs(np.percentile(np.concatenate(rows), (100.0 - percentile, percentile), axis=0)).max(axis=0)
        return cls(metres=float(ends[_POSITION].max()), radians=float(ends[_ROTATION].max()))

    def to_action(self, motion: F32, gripper: F32) -> F32:
        """Returns actions (T, 7) of motions (T, 6) [m, rad] per step and gripper commands (T,), −1 close to 1 open."""
        action = np.zeros((len(motion), ACTION_DIM), np.float32)
        for group, scale in ((_POSITION, self.metres), (_ROTATION, self.radians)):
            if scale > 0:
                action[:, group] = motion[:, group] / scale
        action[:, GRIPPER_ACTION] = gripper
        return action.clip(-1.0, 1.0)

    def to_motion(self, action: F32) -> F32:
        """Returns motions (T, 6) [m, rad] per step of actions (T, 7)."""
        return np.concatenate([action[:, _POSITION] * self.metres, action[:, _ROTATION] * self.radians], axis=1)

    def at_rate(self, hz: float | None, new_hz: float | None) -> "ActionScale":
        """Returns the scale by which steps at `new_hz` span what this one spans for steps at `hz`; None: the same."""
        if hz is None or new_hz is None or same_rate(hz, new_hz):
            return self
        return ActionScale(metres=self.metres * hz / new_hz, radians=self.radians * hz / new_hz)

    def converted(self, action: F32, to: "ActionScale") -> F32:
        """Converts actions (T, 7) of this scale to another; returns them unchanged when the two are equal."""
        if to == self:
            return action
        if UNKNOWN_SCALE in (self, to):
            raise InputError("the data do not say how far an action of 1 moves, so another scale cannot be had")
        return to.to_action(self.to_motion(action), action[:, GRIPPER_ACTION])


UNKNOWN_SCALE = ActionScale(metres=0.0, radians=0.0)
"""Scale of actions whose file does not say how far they move."""


def same_rate(a: float, b: float) -> bool:
    """Tells whether two rates [1/s] are one."""
    return math.isclose(a, b, rel_tol=_RATE_TOLERANCE)


class Dataset(Protocol):
    """A dataset reads the episodes of a folder one at a time: for episode in open_dataset(folder, schema): ..."""

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> str:
        """Returns "rlds", "lerobot" or "released"."""
        ...

    @property
    def action_scale(self) -> ActionScale: ...
    @property
    def hz(self) -> float | None:
        """Returns the rate at which the data were recorded, steps per second; None where they do not say."""
        ...

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Returns what the latest iteration passed over."""
        ...

    def __len__(self) -> int:
        """Returns the number of episodes, those that cannot be read included."""
        ...

    def __iter__(self) -> Iterator[Episode]:
        """Yields the episodes in stored order, and puts those that do not decode into `skipped`.

        Raises CorruptData, with the first reason, where none does.
        """
        ...


class Writer(Protocol):
    """A writer appends episodes to a folder; an episode is on disk when `add` returns."""

    @property
    def names(self) -> Set[str]:
        """Returns the names of the episodes in the folder."""
        ...

    def add(self, episode: Episode) -> None: ...
    def close(self) -> None: ...


def check_episode(episode: Episode, schema: Schema, hz: float) -> None:
    """Raises SchemaMismatch for an episode of another rate or image size, InputError for one without a step."""
    steps = episode.steps
    if episode.hz != hz:
        recorded = "an unknown rate" if episode.hz is None else f"{episode.hz:g} Hz"
        raise SchemaMismatch(f"episode {episode.name!r}: recorded at {recorded}, this dataset holds {hz:g} Hz")
    if not steps:
        raise InputError(f"episode {episode.name!r} has no step")
    for camera, px in (("side", schema.side_px), ("wrist", schema.wrist_px)):
        found = getattr(episode.observation, camera).shape
        if found != (steps + 1, px, px, 3):
            raise SchemaMismatch(
                f"episode {episode.name!r}: {found[0]} {camera} images of {found[1:]} for {steps} steps, "
                f"this dataset has {steps + 1} of {px} x {px}"
            )


def read_json(path: Path) -> Any:
    """Reads a JSON file of a dataset. Raises InputError when it is missing, CorruptData when it is not JSON."""
    refuse_pointer(path)
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CorruptData(f"{path}: {path.stat().st_size} bytes of JSON; at most {MAX_JSON_BYTES} are read")
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"{path}: not JSON ({error})") from error
