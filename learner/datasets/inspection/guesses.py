"""This module turns the evidence in a dataset's numbers into the settings that read it.

columns ─► evidence ─► Understood ─► what the mapping must say otherwise
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from learner.datasets import motion
from learner.datasets.evidence import (
    ActionEvidence,
    GripperEvidence,
    RotationEvidence,
    action_evidence,
    gripper_evidence,
    rotation_evidence,
)
from learner.datasets.inspection.columns import PoseColumns, guessed_columns, mapped_columns
from learner.datasets.inspection.raw import Raw, RawEpisode
from learner.datasets.settings import ForeignMapping, LeRobotMapping, RldsMapping
from protos.schema import F64

_WRIST = re.compile(r"wrist|hand|grip|eye_in", re.IGNORECASE)
_STATE = re.compile(r"state|pose|eef|ee_|cartesian|proprio", re.IGNORECASE)
_FAR_M = 10.0
"""Distance that no arm reaches; larger numbers are millimetres."""
_SLACK = 0.1
_OPPOSITE = -0.2


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a transition, states or actions, of all episodes that have both."""

    columns: PoseColumns | None
    rows: tuple[F64, ...]  # (n, k) per episode, all columns side by side
    names: tuple[str, ...]
    note: str = ""

    def part(self, columns: Sequence[int]) -> list[F64]:
        """Returns some of the columns, per episode."""
        return [each[:, list(columns)] for each in self.rows]

    @property
    def gripper(self) -> list[F64]:
        """Returns the gripper's column (n,) per episode; empty where there is none."""
        at = None if self.columns is None else self.columns.gripper
        return [] if at is None else [each[:, at] for each in self.rows]


@dataclass(frozen=True, kw_only=True)
class Understood:
    """The meaning that the numbers seem to have, with the evidence for it."""

    state: Side
    action: Side
    motion: ActionEvidence | None
    state_rotation: RotationEvidence | None
    action_rotation: RotationEvidence | None
    state_gripper: GripperEvidence | None
    action_gripper: GripperEvidence | None
    state_metres: float
    """Metres per unit of the state's positions."""


def understood(raw: Raw, episodes: Sequence[RawEpisode], mapping: ForeignMapping | None) -> Understood:
    """Looks at the numbers of raw episodes with the columns of a mapping, or with guessed ones."""
    whole = [each for each in episodes if each.steps and not each.problem and _finite(each)]
    width = {name: numbers.shape[1] for each in whole[:1] for name, numbers in each.numbers.items()}
    state, action = (_side(raw, whole, mapping, width, what) for what in ("state", "action"))
    metres = 0.001 if _largest(state) > _FAR_M else 1.0
    moved = _motion(state, action, None, metres)
    turns = _turned(action) if moved is not None and moved.guess == "delta" else None
    rotation = _rotation(state, turns)
    return Understood(
        state=state,
        action=action,
        motion=_motion(state, action, rotation, metres),
        state_rotation=rotation,
        action_rotation=_rotation(action, None),
        state_gripper=gripper_evidence(state.gripper, action.gripper) if state.gripper else None,
        action_gripper=gripper_evidence(action.gripper, state.gripper) if action.gripper else None,
        state_metres=metres,
    )


def _finite(episode: RawEpisode) -> bool:
    lengths = {len(each) for each in episode.numbers.values()}
    return len(lengths) == 1 and all(np.isfinite(each).all() for each in episode.numbers.values())


def _side(
    raw: Raw, episodes: Sequence[RawEpisode], mapping: ForeignMapping | None, width: Mapping[str, int], what: str
) -> Side:
    columns: PoseColumns | str | None = None if mapping is None else mapped_columns(mapping, what, width)
    feature = _feature(width, what)
    if columns is None and feature is not None:
        rows = np.concatenate([each.numbers[feature] for each in episodes])
        columns = guessed_columns(feature, raw.names.get(feature, ()), rows)
    if columns is None or isinstance(columns, str):
        return Side(columns=None, rows=(), names=(), note=columns or f"no feature that looks like a pose of the {what}")
    joined = [columns.joined(each.numbers) for each in episodes]
    names = [name for each in columns.features for name in (raw.names.get(each) or _numbered(each, width[each]))]
    return Side(columns=columns, rows=tuple(each for each in joined if each is not None), names=tuple(names))


def _feature(width: Mapping[str, int], what: str) -> str | None:
    """Returns the feature that is most likely the state or the action: by its name, the shorter one first."""
    actions = [name for name in width if name.split("/")[-1].split(".")[0] == "action" or "action" in name.split("/")]
    if what == "action":
        return min(actions, key=len, default=None)
    states = [name for name in width if name not in actions and _STATE.search(name.split("/")[-1])]
    return min(states, key=lambda name: (not name.endswith("state"), len(name)), default=None)


def _numbered(feature: str, width: int) -> list[str]:
    return [f"{feature.rsplit('/', maxsplit=1)[-1]}[{index}]" for index in range(width)]


def _rotation(side: Side, turns: Sequence[F64] | None) -> RotationEvidence | None:
    if side.columns is None or not side.columns.rotation or not side.rows:
        return None
    return rotation_evidence(side.part(side.columns.rotation), turns)


def _turned(action: Side) -> list[F64] | None:
    """Returns the three numbers of the actions' rotations, which every form of a small turn has in common."""
    three = 3
    if action.columns is None or len(action.columns.rotation) != three:
        return None
    return action.part(action.columns.rotation)


def _largest(side: Side) -> float:
    """Returns the largest position."""
    if side.columns is None or not side.rows:
        return 0.0
    return max(float(np.abs(each).max(initial=0.0)) for each in side.part(side.columns.position))


def _motion(state: Side, action: Side, rotation: RotationEvidence | None, metres: float) -> ActionEvidence | None:
    if state.columns is None or action.columns is None or len(state.rows) != len(action.rows):
        return None
    turned: list[F64] | None = None
    if rotation is not None and state.columns.rotation:
        form = "euler" if rotation.guess == "unclear" and len(state.columns.rotation) == 3 else rotation.guess
        if form != "unclear":
            factor = np.pi / 180 if rotation.degrees else 1.0
            turned = [motion.quaternions(factor * each, form) for each in state.part(state.columns.rotation)]
    positions = [metres * each for each in state.part(state.columns.position)]
    return action_evidence(positions, action.part(action.columns.position), turned)


def needed(found: Understood, raw: Raw, mapping: ForeignMapping | None) -> dict[str, Any]:
    """Returns the fields that a mapping must have to read the data as they were understood, beside those it has."""
    wanted = _lerobot_fields(found, raw) if mapping is None else {}
    current = mapping or LeRobotMapping()
    for name, turns, grip in (
        ("state", found.state_rotation, found.state_gripper),
        ("action", found.action_rotation, found.action_gripper),
    ):
        absolute = name == "state" or (found.motion is not None and found.motion.guess == "absolute")
        if turns is not None and turns.guess not in ("unclear", getattr(current, f"{name}_rotation")) and absolute:
            wanted[f"{name}_rotation"] = turns.guess
        if turns is not None and turns.degrees:
            wanted["state_radians" if name == "state" else "radians"] = round(np.pi / 180, 9)
        if grip is not None and (ends := _ends(grip, getattr(current, f"{name}_gripper"), found, mapping)):
            wanted[f"{name}_gripper"] = ends
    if found.state_metres != 1.0:
        wanted["state_metres"] = found.state_metres
    return _changed(wanted | _of_motion(found.motion, current), current)


def _lerobot_fields(found: Understood, raw: Raw) -> dict[str, Any]:
    """Returns the features and columns of a LeRobotDataset that nothing describes."""
    hands = [camera.name for camera in raw.cameras if _WRIST.search(camera.name)]
    others = [camera.name for camera in raw.cameras if camera.name not in hands]
    wanted: dict[str, Any] = {"side": next(iter(others), None), "wrist": next(iter(hands), None)}
    if found.state.columns is None:
        wanted["state"] = None
    for name, side in (("state", found.state), ("action", found.action)):
        if side.columns is not None:
            wanted[name] = side.columns.features[0]
            wanted[f"{name}_position"] = side.columns.position
            wanted[f"{name}_rotation_at"] = side.columns.rotation
            if side.columns.gripper is not None:
                last = side.columns.gripper == len(side.names) - 1
                wanted[f"{name}_gripper_at"] = -1 if last else side.columns.gripper
            if len(side.columns.rotation) == 4:
                wanted[f"{name}_rotation"] = "quaternion_xyzw"
    return wanted


def _ends(
    grip: GripperEvidence, current: tuple[float, float], found: Understood, mapping: ForeignMapping | None
) -> tuple[float, float] | None:
    """Returns the closed and the open end, where the current ones do not hold the values or nobody has said them."""
    slack = _SLACK * abs(current[1] - current[0])
    inside = min(current) - slack <= grip.low and grip.high <= max(current) + slack
    wide = grip.high - grip.low > 0.5 * abs(current[1] - current[0])
    opens_high = grip.opens_at_high
    if grip is found.action_gripper and found.state_gripper is not None and abs(grip.correlation) > -_OPPOSITE:
        opens_high = found.state_gripper.opens_at_high == (grip.correlation > 0)
    if inside and wide and (mapping is not None or opens_high == (current[1] > current[0])):
        return None
    low, high = (float(f"{each:.4g}") for each in (grip.low, grip.high))
    return (low, high) if opens_high else (high, low)


def _of_motion(seen: ActionEvidence | None, current: ForeignMapping) -> dict[str, Any]:
    if seen is None:
        return {}
    if seen.guess == "absolute":
        return {"action_form": "absolute", "metres": _nearest_unit(1.0 / seen.absolute_per_state)}
    if seen.guess != "delta" or current.action_form == "absolute" or current.metres != 1.0:
        return {}
    if seen.unit == "m" or seen.moved_per_unit <= 0:
        return {}
    return {"metres": _nearest_unit(seen.moved_per_unit)}


def _nearest_unit(metres: float) -> float:
    """Returns 1, 0.01 or 0.001 m where the factor is near to one, else the factor itself."""
    fits = [unit for unit in (1.0, 0.01, 0.001) if abs(metres / unit - 1.0) < 0.45]
    return fits[0] if fits else float(f"{metres:.3g}")


def _changed(wanted: Mapping[str, Any], current: ForeignMapping) -> dict[str, Any]:
    known = {each.name for each in fields(current)}
    now = asdict(current)
    return {name: value for name, value in wanted.items() if name in known and now[name] != value}


def mapping_kind(mapping: ForeignMapping | None, raw: Raw) -> str:
    """Returns the key of a mapping in a settings file."""
    return "rlds" if isinstance(mapping, RldsMapping) or raw.format == "rlds" else "lerobot"
