"""This module finds the pose and the gripper among a feature's numbers: by the settings, by names, by their count.

x, y, z │ roll, pitch, yaw  or  rx, ry, rz  or  qx, qy, qz, qw │ gripper
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from learner.datasets.motion import ROTATION_COLUMNS
from learner.datasets.settings import ForeignMapping, LeRobotMapping, RldsMapping
from protos.schema import F64, GRIPPER, PROPRIO_DIM

_JOINTS = re.compile(r"joint|shoulder|elbow|waist|forearm|motor|wrist_?(\d|flex|roll)", re.IGNORECASE)
_GRIPPER = re.compile(r"grip|finger|claw", re.IGNORECASE)
_OTHER = re.compile(r"vel|force|torque|under_way|wrench|acc|current|effort", re.IGNORECASE)
_TURNS = re.compile(r"rot|roll|pitch|yaw|quat|axis|euler|orient|(^|[^a-z])(r[xyz]|q[xyzw])$", re.IGNORECASE)
_ORDER = {"x": 0, "roll": 0, "rx": 0, "qx": 0, "y": 1, "pitch": 1, "ry": 1, "qy": 1, "z": 2, "yaw": 2, "rz": 2, "qz": 2}
_LAST = {**_ORDER, "w": 3, "qw": 3}


@dataclass(frozen=True, kw_only=True)
class PoseColumns:
    """The place of a pose and of a gripper in the numbers of one feature, or of several side by side."""

    features: tuple[str, ...]
    position: tuple[int, ...]
    rotation: tuple[int, ...]
    """Three or four columns; empty: no rotation."""
    gripper: int | None
    known_by: str

    def joined(self, numbers: Mapping[str, F64]) -> F64 | None:
        """Returns the columns (n, k) of all features side by side; None where an episode lacks one."""
        if not self.features or any(name not in numbers for name in self.features):
            return None
        parts = [numbers[name] for name in self.features]
        return np.concatenate(parts, axis=1) if len({len(part) for part in parts}) == 1 else None


def mapped_columns(mapping: ForeignMapping, what: str, width: Mapping[str, int]) -> PoseColumns | None:
    """Returns the columns of "state" or "action" that a mapping names; None where the dataset has no such feature."""
    form = mapping.state_rotation if what == "state" else mapping.action_rotation
    if isinstance(mapping, LeRobotMapping):
        feature = mapping.state if what == "state" else mapping.action
        if feature is None or feature not in width:
            return None
        gripper = mapping.state_gripper_at if what == "state" else mapping.action_gripper_at
        return PoseColumns(
            features=(feature,),
            position=mapping.state_position if what == "state" else mapping.action_position,
            rotation=mapping.state_rotation_at if what == "state" else mapping.action_rotation_at,
            gripper=gripper % width[feature],
            known_by="settings",
        )
    assert isinstance(mapping, RldsMapping)
    features = mapping.state if what == "state" else mapping.action
    count = 3 + ROTATION_COLUMNS[form]
    total = sum(width.get(name, 0) for name in features)
    if not features or any(name not in width for name in features) or total <= count:
        return None
    return PoseColumns(
        features=tuple(features),
        position=(0, 1, 2),
        rotation=tuple(range(3, count)),
        gripper=total - 1,
        known_by="settings",
    )


def guessed_columns(feature: str, names: Sequence[str], rows: F64) -> PoseColumns | str:
    """Guesses the columns of one feature by the names of its numbers, else by their count; or says what they are."""
    if any(_JOINTS.search(name) for name in names) and not any(_LAST.get(_end(name)) == 0 for name in names):
        return f"{feature}: joint angles ({', '.join(names[:3])} …), which a policy that moves a tool cannot use"
    return _by_names(feature, names) or _by_count(feature, rows)


def _by_names(feature: str, names: Sequence[str]) -> PoseColumns | None:
    gripper = [i for i, name in enumerate(names) if _GRIPPER.search(name)]
    rest = [i for i, name in enumerate(names) if i not in gripper and not _OTHER.search(name)]
    turns = [i for i in rest if _TURNS.search(names[i]) and _end(names[i]) in _LAST]
    position = [i for i in rest if i not in turns and _end(names[i]) in ("x", "y", "z")]
    axes = 3
    if len(position) != axes or len(turns) not in (0, 3, 4):
        return None
    return PoseColumns(
        features=(feature,),
        position=tuple(sorted(position, key=lambda i: _LAST[_end(names[i])])),
        rotation=tuple(sorted(turns, key=lambda i: _LAST[_end(names[i])])),
        gripper=gripper[-1] if gripper else None,
        known_by="names",
    )


def _end(name: str) -> str:
    """Returns the last word of a name: "x" of "tcp_x", "roll" of "motor.roll"."""
    return re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().rstrip("_0123456789"))[-1]


def _by_count(feature: str, rows: F64) -> PoseColumns | str:
    width = rows.shape[1]
    if width == PROPRIO_DIM:
        return _columns(feature, 3, GRIPPER)
    if width in (7, 8):
        four = _is_quaternion(rows[:, 3:7])
        return _columns(feature, 4 if four else 3, None if four and width == 7 else width - 1)
    if width in (4, 6):
        return _columns(feature, 0 if width == 4 else 3, 3 if width == 4 else None)
    return f"{feature}: {width} numbers without names; which of them are a pose is not known"


def _is_quaternion(rows: F64) -> bool:
    """Tells whether numbers (n, 4) have length 1 and turn; three at rest beside a gripper at 1 have that length too."""
    length = np.linalg.norm(rows, axis=1)
    turning = int((np.ptp(rows, axis=0) > 1e-6).sum()) if len(rows) else 0
    return turning > 1 and bool((np.abs(length - 1.0) < 0.02).all())


def _columns(feature: str, turns: int, gripper: int | None) -> PoseColumns:
    return PoseColumns(
        features=(feature,),
        position=(0, 1, 2),
        rotation=tuple(range(3, 3 + turns)),
        gripper=gripper,
        known_by="count",
    )
