"""This module defines what an inspection finds; `twinrl inspect` prints it as tables or as one JSON object."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from learner.datasets.dataset import ActionScale
from learner.datasets.evidence import ActionEvidence, GripperEvidence, RotationEvidence
from learner.datasets.inspection.raw import Camera


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Everything known of time: the rate that is stated, and the stamps of the rows."""

    stated_hz: float | None
    used_hz: float | None
    """Rate that the reader takes, by the settings or by the data."""
    stamped_hz: float | None = None
    """Median of the stamps; None without stamps."""
    late_s: float = 0.0
    """99th percentile of the distance between a period and the median one."""
    longest_s: float = 0.0
    """Longest time between two rows."""
    gaps: int = 0
    """Periods longer than one and a half of the median."""
    back: int = 0
    """Rows whose stamp is not after the one before."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Everything known of the poses of states or of actions."""

    feature: str
    columns: str
    """The columns of position, rotation, gripper, and how they are known."""
    rotation: RotationEvidence | None = None
    gripper: GripperEvidence | None = None
    note: str = ""
    """Other content: joint angles, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """The statistics of one number of a state or an action, over the episodes that were looked at."""

    name: str
    least: float
    p01: float
    mean: float
    p99: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The number of steps of the episodes that were looked at."""

    total: int = 0
    shortest: int = 0
    median: int = 0
    longest: int = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that an inspection finds."""

    path: str
    format: str
    name: str
    written_by_twinrl: bool
    episodes: int
    looked_at: int
    lengths: Lengths
    cameras: tuple[Camera, ...]
    rate: Rate
    state: Pose
    action: Pose
    motion: ActionEvidence | None
    """Evidence on actions beside states; None where the two cannot be compared."""
    outcomes: Mapping[str, int]
    outcomes_by: str
    """The feature or the setting that decides the outcomes."""
    skipped: tuple[str, ...]
    """Place and reason of what the reader skips."""
    scale: ActionScale | None
    """Meaning that an action of 1 would have; None where the data cannot be read yet."""
    instructions: Mapping[str, int]
    statistics: tuple[Column, ...]
    settings: Mapping[str, Any] | None
    """A settings file that reads the data as they were understood here; None where none is needed or possible."""
    remarks: tuple[str, ...]
    """Sentences on what a person should look at before training, the gravest first."""
