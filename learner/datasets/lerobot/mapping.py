"""How the features of somebody else's LeRobotDataset become observations and actions.

info.json gives names and shapes, not what the numbers mean, and most datasets hold joint angles, which are of no use
here. So nothing is guessed: a person describes the dataset in a settings file, for example

    {"path": "libero",
     "lerobot": {"side": "observation.images.image", "wrist": "observation.images.image2",
                 "state_rotation": "rotation_vector", "action_rotation": "rotation_vector", "action_gripper": [1, -1]}}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learner.datasets import motion
from learner.datasets.motion import ROTATION_COLUMNS, RotationForm, between
from protos.errors import InputError
from protos.schema import F32, PROPRIO_DIM, Outcome, Source

Numbers = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class LeRobotMapping:
    """Poses and motions are those of the tool in the robot's base frame."""

    side: str | None = "observation.images.side"
    """A camera's feature; null gives black pictures."""
    wrist: str | None = "observation.images.wrist"
    state: str | None = "observation.state"
    """null: not known, zeros."""
    state_position: tuple[int, int, int] = (0, 1, 2)
    """Which of the state's numbers are the position [m] …"""
    state_rotation_at: tuple[int, ...] = (3, 4, 5)
    """… and the rotation …"""
    state_rotation: RotationForm = "euler"
    state_gripper_at: int = -1
    """… and the gripper; negative counts from the end."""
    state_gripper: tuple[float, float] = (0.0, 1.0)
    """Its value when closed and when open."""
    action: str = "action"
    action_position: tuple[int, int, int] = (0, 1, 2)
    """Which of the action's numbers are the displacement per step …"""
    action_rotation_at: tuple[int, ...] = (3, 4, 5)
    """… and the rotation per step, applied on the left; empty: none …"""
    action_rotation: RotationForm = "euler"
    action_gripper_at: int = -1
    """… and the gripper."""
    action_gripper: tuple[float, float] = (0.0, 1.0)
    """The value that closes and the one that opens."""
    metres: float = 1.0
    """Displacement at 1, where actions are not in metres."""
    radians: float = 1.0
    """Rotation at 1, where actions are not in radians."""
    scale_percentile: float = 99.0
    """Motion at this percentile becomes an action of 1; more is clipped."""
    scale_episodes: int = 1000
    """The scale is fitted to this many episodes from the start."""
    outcome: Outcome = Outcome.SUCCESS
    """Of an episode, where there is no next.success."""
    human: bool = True
    """A person chose the actions."""
    source: Source = Source.REAL

    def __post_init__(self) -> None:
        if self.scale_episodes < 1 or not 50 < self.scale_percentile <= 100:
            raise InputError(
                f"scale_episodes={self.scale_episodes}, scale_percentile={self.scale_percentile}: "
                "scale_episodes ≥ 1, 50 < scale_percentile ≤ 100"
            )
        for name, form in (("state_rotation", self.state_rotation), ("action_rotation", self.action_rotation)):
            count = len(getattr(self, f"{name}_at"))
            if count != ROTATION_COLUMNS[form] and not (count == 0 and name == "action_rotation"):
                raise InputError(f"{name}_at names {count} numbers, {form} has {ROTATION_COLUMNS[form]}")
        for name in ("state_gripper", "action_gripper"):
            closed, opened = getattr(self, name)
            if closed == opened:
                raise InputError(f"{name}={closed:g}, {opened:g}: closed and open must differ")

    def check(self, features: Mapping[str, Any], path: Path) -> None:
        """Raises InputError for a feature that the dataset does not have, or has with too few numbers."""
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

    def proprio(self, state: Numbers | None, rows: int, hz: float) -> F32:
        """Proprioception (n, 25) of states (n, S); zeros where there are none."""
        if state is None:
            return np.zeros((rows, PROPRIO_DIM), np.float32)
        rotation = motion.quaternions(state[:, list(self.state_rotation_at)], self.state_rotation)
        opening = between(state[:, self.state_gripper_at], self.state_gripper)
        return motion.proprio(state[:, list(self.state_position)], rotation, opening, hz)

    def motion(self, action: Numbers) -> tuple[F32, F32]:
        """Motions (n, 6) [m, rad] per step, and gripper commands (n,) from −1 close to 1 open, of actions (n, A)."""
        moved = np.zeros((len(action), 6), np.float32)
        moved[:, 0:3] = self.metres * action[:, list(self.action_position)]
        if self.action_rotation_at:
            turned = motion.quaternions(self._turned(action), self.action_rotation)
            moved[:, 3:6] = motion.rotation_vectors(turned)
        command = 2.0 * between(action[:, self.action_gripper_at], self.action_gripper) - 1.0
        return moved, command.astype(np.float32)

    def _turned(self, action: Numbers) -> Numbers:
        turned = action[:, list(self.action_rotation_at)]
        return turned if self.action_rotation == "quaternion_xyzw" else self.radians * turned
