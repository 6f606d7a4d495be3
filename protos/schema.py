"""This module defines what crosses a process boundary: observations, actions, configurations.

Every field has a dtype, a shape, a unit and a frame, listed once in `Schema.fields` and hashed; a writer and a reader
whose hashes differ refuse each other (`SchemaMismatch`). There is one world frame: the robot's base frame (x, y, z in
metres, z up, the frame of the UR controller's `actual_TCP_pose`). Rotations on the wire are rotation vectors [rad].

    proprio (25,) float32
    0:3    TCP position           m       base frame
    3:6    TCP rotation vector    rad     base frame
    6:9    TCP linear velocity    m/s     base frame
    9:12   TCP angular velocity   rad/s   base frame
    12:15  force at the TCP       N       base frame
    15:18  torque at the TCP      Nm      base frame
    18     gripper opening        0 closed .. 1 open
    19:22  motion under way       m       base frame, from the measured to the commanded TCP position
    22:25  rotation under way     rad     base frame, from the measured to the commanded rotation, applied on the left

    action (7,) float32 in [-1, 1]
    0:3    TCP displacement  x the task's metres per step, base frame
    3:6    TCP rotation      x the task's radians per step, base frame, applied on the left
    6      gripper command   > 0 opens, < 0 closes
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError

PROPRIO_DIM = 25
ACTION_DIM = 7
TCP_POSE = slice(0, 6)
TCP_POSITION = slice(0, 3)
TCP_VELOCITY = slice(6, 12)
WRENCH = slice(12, 18)
GRIPPER = 18
"""Index of the gripper opening in `proprio`."""
UNDER_WAY = slice(19, 25)
"""Motion that was commanded and not executed yet. The arm lags; a policy that cannot see this commands it twice."""
GRIPPER_ACTION = 6
"""Index of the gripper command in an action."""
CONTROL_HZ = 10.0
SEGMENT_STEPS = 16
"""Most transitions in one segment."""

Buffer = Literal["demo", "twin", "real", "human"]
BUFFERS: tuple[Buffer, ...] = ("demo", "twin", "real", "human")
U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Source(Enum):
    """The world in which a transition was made."""

    TWIN = "twin"
    REAL = "real"


class Outcome(Enum):
    """The state of the episode at the end of a segment. Success and failure do not bootstrap, all others do.

    STOPPED is the outcome of an attempt in which the arm was stopped: by its controller, or as its link or a camera was
    lost. UNKNOWN is that of an episode that others recorded without saying how it ended; actors never send it.
    """

    RUNNING = "running"
    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Schema:
    """A schema is the layout of one observation and action. Cameras are square; the paper uses 256 and 128 pixels."""

    side_px: int = 64
    wrist_px: int = 64

    def __post_init__(self) -> None:
        for name, px in (("side_px", self.side_px), ("wrist_px", self.wrist_px)):
            if not (16 <= px <= 1024 and px % 16 == 0):
                raise InputError(f"{name}={px}: cameras are square, 16 to 1024 pixels, in multiples of 16")

    @property
    def fields(self) -> dict[str, tuple[str, tuple[int, ...], str, str]]:
        """Returns name -> (dtype, shape, unit, frame)."""
        return {
            "side": ("uint8", (self.side_px, self.side_px, 3), "sRGB", "side camera"),
            "wrist": ("uint8", (self.wrist_px, self.wrist_px, 3), "sRGB", "wrist camera"),
            "proprio": ("float32", (PROPRIO_DIM,), "m rad m/s rad/s N Nm 1 m rad", "base"),
            "action": ("float32", (ACTION_DIM,), "per-step scale", "base"),
            "reward": ("float32", (), "1", "-"),
            "human": ("bool", (), "-", "-"),
        }

    @property
    def hash(self) -> str:
        """Returns 16 hex digits that identify this layout."""
        return hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """An observation array holds one observation per row; n rows."""

    side: U8  # (n, side_px, side_px, 3)
    wrist: U8  # (n, wrist_px, wrist_px, 3)
    proprio: F32  # (n, 25)

    def __len__(self) -> int:
        return len(self.proprio)

    def rows(self, index: slice | NDArray[np.intp] | list[int]) -> "Observation":
        """Returns the rows `index`, as views where numpy allows."""
        return Observation(side=self.side[index], wrist=self.wrist[index], proprio=self.proprio[index])

    def copy(self) -> "Observation":
        return Observation(side=self.side.copy(), wrist=self.wrist.copy(), proprio=self.proprio.copy())

    def bad_rows(self) -> NDArray[np.intp]:
        """Returns the rows that hold a NaN or an infinity; a policy must not see them."""
        return np.flatnonzero(~np.isfinite(self.proprio).all(axis=1))


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A configuration is the initial state s0 of an episode: the start poses of its objects and targets.

    `poses` maps a body's name to (x, y, z, yaw) in the base frame [m, m, m, rad]; `cell` is the index of the guide's
    grid cell that holds the manipulated object, -1 outside the grid.
    """

    region: str
    cell: int = -1
    poses: Mapping[str, tuple[float, float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step is the result of one control step, one row per environment slot."""

    executed: F32  # (n, 7) the action after limits, as it reached the arm
    reward: F32  # (n,)
    terminated: Bools  # (n,) the task is over: bootstrap nothing
    truncated: Bools  # (n,) time is up: bootstrap from the last observation
    success: Bools  # (n,)
