"""This module says what a person tells by a device: six axes, a deadman, presses of buttons, each with a time.

    bytes of the device ─► Decoder ─► axes, deadman, presses ─► Reading ─► `actors.human.person`

Axes are the device's own, as its person sees them: x right, y away, z up; then the turns about them, right-handed. They
are -1 to 1 and 0 within the device's dead zone. A device that is unplugged, or silent while it says that it is pressed,
is in `trouble`; its axes are 0 and its deadman is released from then on.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from protos.schema import F64

AXES = ("right", "away", "up", "turn about right", "turn about away", "turn about up")


class Button(StrEnum):
    """A press asks for one of these, whatever the key or button is."""

    GRIPPER = "gripper"
    """The fingers do the other thing."""
    SUCCESS = "success"
    FAILURE = "failure"
    DISCARD = "discard"
    """Ends the attempt and keeps nothing of it; another start comes."""
    RERECORD = "rerecord"
    """Ends the attempt and keeps nothing of it; the same start comes again."""
    PAUSE = "pause"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The newest word of a device."""

    t: float
    """Time of its newest event, on the clock of `time.monotonic` [s]."""
    axes: F64  # (6,)
    deadman: bool
    """True while the person says "I act"; without it axes mean nothing."""
    pressed: tuple[Button, ...] = ()
    """Presses since the reading before, oldest first."""
    trouble: str = ""
    """The reason why the device cannot be believed; empty when it can."""


class Decoder(Protocol):
    """Turns bytes of a device into what its person says; keeps no clock."""

    pressed: list[Button]
    """Presses that nobody took yet."""
    ignored: int
    """Number of packets that are none of this device's."""

    @property
    def axes(self) -> F64:
        """Deflections (6,)."""
        ...

    @property
    def deadman(self) -> bool:
        """True while it is held."""
        ...

    def feed(self, packet: bytes) -> None:
        """Takes what one read of the device gave."""
        ...

    def release(self) -> None:
        """Forgets deflections and what is held; presses stay."""
        ...


class Device(Protocol):
    """One device in a person's hand."""

    name: str
    help: str
    """Keys and buttons, in a few lines."""
    is_terminal: bool
    """True where its keys come from the terminal that questions are asked at."""

    def read(self) -> Reading:
        """Returns the newest word; does not wait."""
        ...

    def close(self) -> None: ...


def beyond(values: F64, dead_zone: float) -> F64:
    """Returns values within -1 to 1, 0 within the dead zone and growing from 0 at its edge."""
    clipped = np.clip(values, -1.0, 1.0)
    return np.sign(clipped) * np.maximum(np.abs(clipped) - dead_zone, 0.0) / (1.0 - dead_zone)
