"""This module holds the settings by which a person describes a dataset that its folder alone does not explain.

    {"path": "fractal/0.1.0", "rlds": {"state": ["steps/observation/base_pose_tool_reached", …], "hz": 3}}
    {"path": "libero", "lerobot": {"side": "observation.images.image", "wrist": "observation.images.image2",
                                   "state_rotation": "rotation_vector", "action_gripper": [1, -1]}}

Files of features name numbers and give their shapes, but not their meaning, and many datasets hold joint angles, which
cannot be used here. So nothing is guessed: a mapping names the poses and motions of the tool in the robot's base frame.
The defaults of RLDS fit Bridge V2 and what is converted in its manner.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from learner.datasets import motion
from learner.datasets.dataset import ActionScale
from learner.datasets.evidence import ActionForm
from learner.datasets.motion import ROTATION_COLUMNS, RotationForm
from protos.errors import InputError
from protos.schema import F32, F64, PROPRIO_DIM, Outcome, Source

Numbers = NDArray[np.floating]
MAX_HZ = 1000.0
"""Largest rate that is believed."""


@dataclass(frozen=True, kw_only=True)
class ForeignMapping:
    """A foreign mapping holds what LeRobotDatasets and RLDS datasets of others do not say about their numbers."""

    state_rotation: RotationForm = "euler"
    state_metres: float = 1.0
    """Metres per unit of the state's position."""
    state_radians: float = 1.0
    """Radians per unit of the state's rotation: 0.0174533 for degrees."""
    state_gripper: tuple[float, float] = (0.0, 1.0)
    """The state's value when closed and when open."""
    action_form: ActionForm | None = None
    """"absolute": actions are poses to go to, and the motion of a step is from one to the next. null: motions per step;
    data whose actions lie on the states are then refused. "delta": motions, and nothing is checked."""
    metres: float = 1.0
    """Metres per unit of the action's position."""
    radians: float = 1.0
    """Radians per unit of the action's rotation."""
    action_rotation: RotationForm = "euler"
    action_gripper: tuple[float, float] = (0.0, 1.0)
    """The action's value that closes and the one that opens."""
    scale_percentile: float = 99.0
    """Motion at this percentile becomes an action of 1; more is clipped."""
    scale_episodes: int = 1000
    """The scale is fitted to this many episodes from the start."""
    hz: float | None = None
    """Steps per second, where the data do not say it, or wrongly."""
    outcome: Outcome | None = None
    """Outcome of an episode where neither success flags nor rewards tell; null: unknown."""
    reward: str | None = None
    """Feature with a reward of each step; an empty text: it tells nothing. null: the format's usual one."""
    success_reward: float | None = None
    """Reward from which on an episode is a success; null: above 0, where rewards are not shaped."""
    human: bool = True
    """A person chose the actions."""
    source: Source = Source.REAL

    def __post_init__(self) -> None:
        if self.scale_episodes < 1 or not 50 < self.scale_percentile <= 100:
            raise InputError(
                f"scale_episodes={self.scale_episodes}, scale_percentile={self.scale_percentile}: "
                "scale_episodes ≥ 1, 50 < scale_percentile ≤ 100"
            )
        check_hz(self.hz)
        for name, (closed, opened) in (("state_gripper", self.state_gripper), ("action_gripper", self.action_gripper)):
            if closed == opened:
                raise InputError(f"{name}={closed:g}, {opened:g}: closed and open must differ")

    def _proprio(self, position: Numbers, rotation: Numbers, gripper: Numbers, times: F64 | None) -> F32:
        return motion.proprio(
            self.state_metres * position,
            self._state_quaternions(rotation),
            motion.between(gripper, self.state_gripper),
            times,
        )

    def _state_quaternions(self, rotation: Numbers) -> F64:
        factor = 1.0 if self.state_rotation == "quaternion_xyzw" else self.state_radians
        return motion.quaternions(factor * rotation, self.state_rotation)

    def _motion(
        self, position: Numbers, rotation: Numbers | None, gripper: Numbers, start: tuple[Numbers, Numbers] | None
    ) -> tuple[F32, F32]:
        """Returns motions (n, 6) and gripper commands (n,) of actions.

        `start` holds position and rotation of the state at the first of them, None where there are no states; absolute
        actions then start where the first one is.
        """
        moved = np.zeros((len(position), 6), np.float32)
        place = self.metres * position
        quaternion = None
        if rotation is not None:
            factor = 1.0 if self.action_rotation == "quaternion_xyzw" else self.radians
            quaternion = motion.quaternions(factor * rotation, self.action_rotation)
        if self.action_form == "absolute":
            first = place[:1] if start is None else self.state_metres * start[0]
            moved[:, 0:3] = np.diff(place, axis=0, prepend=first)
            if quaternion is not None:
                turned = quaternion[:1] if start is None else self._state_quaternions(start[1])
                moved[:, 3:6] = motion.turns(np.concatenate([turned, quaternion[:-1]]), quaternion)
        else:
            moved[:, 0:3] = place
            if quaternion is not None:
                moved[:, 3:6] = motion.rotation_vectors(quaternion)
        command = 2.0 * motion.between(gripper, self.action_gripper) - 1.0
        return moved, command.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class LeRobotMapping(ForeignMapping):
    """A LeRobot mapping names features of a LeRobotDataset and the columns of its state and action."""

    side: str | None = "observation.images.side"
    """A camera's feature; null gives black images."""
    wrist: str | None = "observation.images.wrist"
    state: str | None = "observation.state"
    """null: unknown, zeros."""
    state_position: tuple[int, int, int] = (0, 1, 2)
    """Columns of the state that hold the position [m]."""
    state_rotation_at: tuple[int, ...] = (3, 4, 5)
    """Columns of the state that hold the rotation."""
    state_gripper_at: int = -1
    """Column of the state that holds the gripper; negative counts from the end."""
    action: str = "action"
    action_position: tuple[int, int, int] = (0, 1, 2)
    """Columns of the action that hold the displacement per step."""
    action_rotation_at: tuple[int, ...] = (3, 4, 5)
    """Columns of the action that hold the rotation per step, applied on the left; empty: none."""
    action_gripper_at: int = -1
    """Column of the action that holds the gripper."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, form in (("state_rotation", self.state_rotation), ("action_rotation", self.action_rotation)):
            count = len(getattr(self, f"{name}_at"))
            if count != ROTATION_COLUMNS[form] and not (count == 0 and name == "action_rotation"):
                raise InputError(f"{name}_at names {count} numbers, {form} has {ROTATION_COLUMNS[form]}")

    def check(self, features: Mapping[str, Any], path: Path) -> None:
        """Raises InputError for a feature that the dataset lacks or that has too few numbers."""
        for name in ("side", "wrist"):
            wanted, cameras = getattr(self, name), [k for k, f in features.items() if f["dtype"] in ("video", "image")]
            if wanted is not None and wanted not in cameras:
                raise InputError(f"{path}: {name}={wanted!r} is none of the cameras {', '.join(cameras) or '(none)'}")
        for name in ("state", "action"):
            wanted = getattr(self, name)
            if wanted is None:
                continue
            if wanted not in features:
                raise InputError(f"{path}: {name}={wanted!r} is none of the features {', '.join(features)}")
            size = features[wanted]["shape"][-1]
            for index in (*getattr(self, f"{name}_position"), *getattr(self, f"{name}_rotation_at")):
                if not -size <= index < size:
                    raise InputError(f"{path}: {name} has {size} numbers, number {index} is not among them")

    def proprio(self, state: Numbers | None, rows: int, times: F64 | None) -> F32:
        """Returns proprioception (n, 25) of states (n, S) at `times` (n,) [s]; zeros where there are none."""
        if state is None:
            return np.zeros((rows, PROPRIO_DIM), np.float32)
        position, rotation = state[:, list(self.state_position)], state[:, list(self.state_rotation_at)]
        return self._proprio(position, rotation, state[:, self.state_gripper_at], times)

    def motion(self, action: Numbers, state: Numbers | None) -> tuple[F32, F32]:
        """Returns motions (n, 6) [m, rad] per step and gripper commands (n,), −1 close to 1 open.

        `action` is (n, A), and `state` (n, S) of the same rows, which absolute actions start from.
        """
        rotation = action[:, list(self.action_rotation_at)] if self.action_rotation_at else None
        start = None if state is None else (state[:1, self.state_position], state[:1, self.state_rotation_at])
        return self._motion(action[:, self.action_position], rotation, action[:, self.action_gripper_at], start)

    def positions(self, action: Numbers, state: Numbers) -> tuple[Numbers, Numbers]:
        """Returns positions (n, 3) [m] of states, and the first three numbers (n, 3) of actions."""
        return self.state_metres * state[:, self.state_position], self.metres * action[:, self.action_position]


@dataclass(frozen=True, kw_only=True)
class RldsMapping(ForeignMapping):
    """An RLDS mapping names features of features.json; of several names the first that the dataset has is taken."""

    side: tuple[str, ...] = ("image_0", "image", "image_primary", "exterior_image_1_left", "front_rgb", "rgb")
    """Names below steps/observation; a camera that is missing gives black images."""
    wrist: tuple[str, ...] = ("wrist_image", "hand_image", "image_wrist", "wrist_image_left", "wrist_rgb")
    instruction: tuple[str, ...] = (
        "steps/language_instruction",
        "steps/observation/natural_language_instruction",
        "episode_metadata/language_instruction",
    )
    state: tuple[str, ...] = ("steps/observation/state",)
    """Joined to one vector: position (3), rotation, and the gripper in the last column. Empty: unknown, zeros."""
    action: tuple[str, ...] = ("steps/action",)
    """Joined to one vector: displacement (3) [m] and rotation (3) [rad] per step, base frame, and the gripper in the
    last column."""
    success: tuple[str, ...] = ("steps/success", "steps/is_success", "episode_metadata/success")
    """Flags of success, of each step or of the episode; where there are none, the reward decides."""
    last_action: bool = True
    """The last step's action was carried out, as in Bridge and most of Open X-Embodiment; false: the last step only
    holds the final observation, as RLDS has it."""
    split: str = "train"

    def proprio(self, state: Numbers, times: F64 | None) -> F32:
        """Returns proprioception (n, 25) of states (n, S) at `times` (n,) [s]."""
        return self._proprio(*_split(state, self.state_rotation, "state"), times)

    def motion(self, action: Numbers, state: Numbers | None) -> tuple[F32, F32]:
        """Returns motions (n, 6) [m, rad] per step and gripper commands (n,), −1 close to 1 open.

        `action` is (n, A), and `state` (n, S) of the same rows, which absolute actions start from.
        """
        start = None if state is None else _split(state[:1], self.state_rotation, "state")[:2]
        return self._motion(*_split(action, self.action_rotation, "action"), start)

    def positions(self, action: Numbers, state: Numbers) -> tuple[Numbers, Numbers]:
        """Returns positions (n, 3) [m] of states, and the first three numbers (n, 3) of actions."""
        return self.state_metres * state[:, :3], self.metres * action[:, :3]


@dataclass(frozen=True, kw_only=True)
class ReleasedMapping:
    """A released mapping holds what the pickles released with the paper do not say."""

    hand: str = "left"
    """The arm whose pose, gripper and camera a raw frame's keys name."""
    hz: float = 20.0
    """Steps per second of the raw frames."""
    training_hz: float | None = None
    """Steps per second of training files, which do not say it; null: unknown."""
    outcome: Outcome | None = Outcome.SUCCESS
    """Outcome of raw episodes, which do not say it; null: unknown."""
    actions: Literal["by name", "normalised", "metres"] = "by name"
    """Unit of the actions in training files: [−1, 1], or metres and radians. By name: metres in a file with "_delta"
    and without "_normalized" in its name, as the authors' scripts call them."""
    source: Source = Source.TWIN
    limit_bytes: int = 8 << 30
    """Most memory for one file."""

    def __post_init__(self) -> None:
        check_hz(self.hz)
        check_hz(self.training_hz)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Data settings say where a dataset is and how to read it."""

    path: Path
    """Relative to the settings file."""
    instruction: str | None = None
    """Replaces the stored one."""
    action_scale: ActionScale | None = None
    """Replaces the stored or fitted one."""
    resample: bool = True
    """Data of another rate than the one that is wanted, as control's in `twinrl sft`, are resampled; false: refused."""
    rlds: RldsMapping = field(default_factory=RldsMapping)
    lerobot: LeRobotMapping | None = None
    released: ReleasedMapping = field(default_factory=ReleasedMapping)


def check_hz(hz: float | None) -> None:
    """Raises InputError for a rate that no recording has."""
    if hz is not None and not 0 < hz <= MAX_HZ:
        raise InputError(f"hz={hz:g}: above 0, at most {MAX_HZ:g}")


def _split(columns: Numbers, form: RotationForm, what: str) -> tuple[Numbers, Numbers, Numbers]:
    expected = 3 + ROTATION_COLUMNS[form] + 1
    if columns.shape[1] < expected:
        raise InputError(
            f"{what} has {columns.shape[1]} columns; position (3), rotation as {form} ({ROTATION_COLUMNS[form]}) and "
            "gripper are wanted: describe the dataset in a settings file"
        )
    return columns[:, :3], columns[:, 3 : expected - 1], columns[:, -1]
