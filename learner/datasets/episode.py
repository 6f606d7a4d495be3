"""What every data format is read into and written from.

    folder on disk ──open_dataset──► Dataset ──iterate──► Episode ──► fine-tuning
    replay or run ──► Episode ──Writer.add──► folder on disk

A `Episode` is in the units of `protos.schema`: base frame, rotation vectors, actions in [−1, 1]. Foreign data
gives its motion in metres and radians per step; an `ActionScale` brings it into [−1, 1] and says how to get back.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from protos.episode import Episode
from protos.errors import InputError
from protos.schema import ACTION_DIM, F32, GRIPPER_ACTION

_POSITION, _ROTATION = slice(0, 3), slice(3, 6)


@dataclass(frozen=True, kw_only=True)
class ActionScale:
    """Motion per unit of action, the same for the three axes of a group and for both directions.

    A group at 0 does not move: an axis that is locked, or data whose scale is not known.
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
        """From motions (T, ≥ 6) [m, rad] per step: the largest of the axes' percentiles, so that few are clipped.

        `percentile` counts from both ends, 99 gives p01 and p99; 100 gives the extremes.
        """
        rows = [each[:, :6] for each in motion]
        if not sum(map(len, rows)):
            raise InputError("no action to fit a scale to")
        ends = np.abs(np.percentile(np.concatenate(rows), (100.0 - percentile, percentile), axis=0)).max(axis=0)
        return cls(metres=float(ends[_POSITION].max()), radians=float(ends[_ROTATION].max()))

    def to_action(self, motion: F32, gripper: F32) -> F32:
        """Actions (T, 7) from motions (T, 6) [m, rad] per step and gripper commands (T,), −1 close to 1 open."""
        action = np.zeros((len(motion), ACTION_DIM), np.float32)
        for group, scale in ((_POSITION, self.metres), (_ROTATION, self.radians)):
            if scale > 0:
                action[:, group] = motion[:, group] / scale
        action[:, GRIPPER_ACTION] = gripper
        return action.clip(-1.0, 1.0)

    def to_motion(self, action: F32) -> F32:
        """Motions (T, 6) [m, rad] per step of actions (T, 7)."""
        return np.concatenate([action[:, _POSITION] * self.metres, action[:, _ROTATION] * self.radians], axis=1)

    def converted(self, action: F32, to: "ActionScale") -> F32:
        """Actions (T, 7) of this scale in another; unchanged when it is the same."""
        if to == self:
            return action
        if UNKNOWN_SCALE in (self, to):
            raise InputError("the data do not say how far an action of 1 moves, so another scale cannot be had")
        return to.to_action(self.to_motion(action), action[:, GRIPPER_ACTION])


UNKNOWN_SCALE = ActionScale(metres=0.0, radians=0.0)
"""Of actions whose file does not say how far they move."""


class Dataset(Protocol):
    """Episodes in a folder, read one at a time: for episode in open_dataset(folder, schema): ..."""

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> str:
        """One of "rlds", "lerobot", "released"."""
        ...

    @property
    def action_scale(self) -> ActionScale: ...
    def __len__(self) -> int:
        """Number of episodes."""
        ...

    def __iter__(self) -> Iterator[Episode]:
        """The episodes in stored order. Raises CorruptData with file and offset where one does not decode."""
        ...


class Writer(Protocol):
    """Appends episodes to a folder; what `add` has returned from survives a crash."""

    def add(self, episode: Episode) -> None: ...
    def close(self) -> None: ...
