"""How the features of a foreign RLDS dataset become observations and actions.

Every lab names and orders things its own way; features.json gives names and shapes, but not what the columns mean. The
defaults fit Bridge V2 and what is converted in its manner; another dataset is described in a settings file.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learner.datasets import motion
from learner.datasets.motion import ROTATION_COLUMNS, RotationForm, between
from protos.errors import InputError
from protos.schema import F32, Source

Numbers = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class RldsMapping:
    """Of names that are listed with alternatives, the first that the dataset has is taken."""

    side: tuple[str, ...] = ("image_0", "image", "image_primary", "exterior_image_1_left", "front_rgb", "rgb")
    """Names below steps/observation; no such camera gives black pictures."""
    wrist: tuple[str, ...] = ("wrist_image", "hand_image", "image_wrist", "wrist_image_left", "wrist_rgb")
    instruction: tuple[str, ...] = (
        "steps/language_instruction",
        "steps/observation/natural_language_instruction",
        "episode_metadata/language_instruction",
    )
    state: tuple[str, ...] = ("steps/observation/state",)
    """Joined to one vector: position (3), rotation, and the gripper in the last column. Empty: not known, zeros."""
    state_rotation: RotationForm = "euler"
    state_gripper: tuple[float, float] = (0.0, 1.0)
    """The state's value when closed and when open."""
    action: tuple[str, ...] = ("steps/action",)
    """Joined to one vector: displacement (3) [m] and rotation (3) [rad] per step, base frame, and the gripper in the
    last column."""
    action_rotation: RotationForm = "euler"
    action_gripper: tuple[float, float] = (0.0, 1.0)
    """The action's value that closes and the one that opens."""
    last_action: bool = True
    """Whether the last step's action was carried out, as in Bridge and most of Open X-Embodiment; if not, the last step
    only holds the final observation, as RLDS has it."""
    hz: float = 5.0
    """Control rate, for velocities."""
    split: str = "train"
    scale_percentile: float = 99.0
    """Motion at this percentile becomes an action of 1; more is clipped."""
    scale_episodes: int = 1000
    """The scale is fitted to this many episodes from the start."""
    human: bool = True
    """A person chose the actions."""
    source: Source = Source.REAL

    def __post_init__(self) -> None:
        if self.hz <= 0 or self.scale_episodes < 1 or not 50 < self.scale_percentile <= 100:
            raise InputError(
                f"hz={self.hz}, scale_episodes={self.scale_episodes}, scale_percentile={self.scale_percentile}: "
                "hz > 0, scale_episodes ≥ 1, 50 < scale_percentile ≤ 100"
            )
        for name, ends in (("state_gripper", self.state_gripper), ("action_gripper", self.action_gripper)):
            if ends[0] == ends[1]:
                raise InputError(f"{name}={ends}: two different values, closed and open")

    def proprio(self, state: Numbers) -> F32:
        """Proprioception (n, 25) of states (n, S)."""
        position, rotation, gripper = _split(state, self.state_rotation, "state")
        quaternion = motion.quaternions(rotation, self.state_rotation)
        return motion.proprio(position, quaternion, between(gripper, self.state_gripper), self.hz)

    def motion(self, action: Numbers) -> tuple[F32, F32]:
        """Motions (n, 6) [m, rad] per step, and gripper commands (n,) from −1 close to 1 open, of actions (n, A)."""
        displacement, rotation, gripper = _split(action, self.action_rotation, "action")
        turn = motion.rotation_vectors(motion.quaternions(rotation, self.action_rotation))
        command = 2.0 * between(gripper, self.action_gripper) - 1.0
        return np.concatenate([displacement, turn], axis=1).astype(np.float32), command.astype(np.float32)


def _split(columns: Numbers, form: RotationForm, what: str) -> tuple[Numbers, Numbers, Numbers]:
    expected = 3 + ROTATION_COLUMNS[form] + 1
    if columns.shape[1] < expected:
        raise InputError(
            f"{what} has {columns.shape[1]} columns; position (3), rotation as {form} ({ROTATION_COLUMNS[form]}) and "
            "gripper are wanted: describe the dataset in a settings file"
        )
    return columns[:, :3], columns[:, 3 : expected - 1], columns[:, -1]
