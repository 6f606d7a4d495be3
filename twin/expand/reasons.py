"""Why a twin demonstration is not made, or not kept."""

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """In the order in which they are looked for: of a plan, then of what the twin did with it."""

    TURN = "turn"
    """The tool would have to turn, and the task's actions do not."""
    NO_PATH = "no path"
    """No collision-free way was found between two contacts."""
    WORK_BOX = "work box"
    """The path leaves the box in which the tool may be commanded."""
    REACH = "reach"
    """Inverse kinematics misses a pose of the path."""
    JOINT_LIMIT = "joint limit"
    COLLISION = "collision"
    """Of the arm with the table or a body, or of a finger with the table."""
    TOO_LONG = "too long"
    """The path takes more control steps than an episode has."""
    LEASH = "leash"
    """The arm stayed so far behind that the command was held back."""
    NOT_DONE = "not done"
    """The twin ran it, and the task was not done."""


@dataclass(frozen=True)
class Refused:
    """A plan, or an episode, that is no demonstration."""

    reason: Reason
