"""This module shows a device live and says what of it has never been seen: a self-test before it moves an arm.

    right -0.42 … turn about up +0.00   deadman HELD   pressed gripper   612 bytes, 3 not understood

A SpaceMouse of which only buttons arrive shows here at once: its axes stay among what has not been seen.
"""

import os
import time
from collections.abc import Callable, Iterator

import numpy as np

from actors.human.devices.finding import MISSING, Kind, Nodes, readable
from actors.human.devices.reading import AXES, Button, Device, Reading
from protos.errors import Unreachable

SURE = 0.3
"""An axis has been seen once it was deflected so far, both ways."""
LOOK_S = 0.05
JUDGING = (Button.SUCCESS, Button.FAILURE, Button.DISCARD, Button.RERECORD, Button.PAUSE)
HAS: dict[Kind, tuple[tuple[int, ...], tuple[Button, ...]]] = {
    "spacemouse": ((0, 1, 2, 3, 4, 5), (Button.GRIPPER,)),
    "gamepad": ((0, 1, 2, 3, 4, 5), (Button.GRIPPER, *JUDGING)),
    "keyboard": ((0, 1, 2, 5), (Button.GRIPPER, *JUDGING)),
}
"""Kind -> the axes and buttons that it has."""


class Seen:
    """Gathers what was seen of a device."""

    def __init__(self, kind: Kind) -> None:
        self._axes, self._buttons = HAS[kind]
        self._least, self._most = np.zeros(6), np.zeros(6)
        self._pressed: dict[Button, int] = {}
        self._was_held = False

    def add(self, reading: Reading) -> None:
        self._least, self._most = np.minimum(self._least, reading.axes), np.maximum(self._most, reading.axes)
        self._was_held |= reading.deadman
        for button in reading.pressed:
            self._pressed[button] = self._pressed.get(button, 0) + 1

    def missing(self) -> list[str]:
        """Returns what has never been seen."""
        axes = [
            f"{AXES[axis]} {way}"
            for axis in self._axes
            for way, value in (("+", self._most[axis]), ("-", -self._least[axis]))
            if value < SURE
        ]
        buttons = [str(button) for button in self._buttons if button not in self._pressed]
        return axes + ([] if self._was_held else ["deadman"]) + buttons

    def line(self, reading: Reading) -> str:
        """Returns the present state in one line."""
        axes = "  ".join(f"{AXES[axis]} {reading.axes[axis]:+.2f}" for axis in self._axes)
        pressed = " ".join(f"{button}×{count}" for button, count in self._pressed.items()) or "nothing"
        return f"{axes}  deadman {'HELD' if reading.deadman else 'free'}  pressed {pressed}"


def found_lines(nodes: Nodes) -> Iterator[str]:
    """Yields a line for each device that the kernel knows, and for each kind of which there is none."""
    found = nodes.found()
    for one in found:
        yield f"{one.kind:<11} {one.node}  {one.name}  {readable(one)}"
    for kind, remedy in MISSING.items():
        if kind not in {one.kind for one in found}:
            yield f"{kind:<11} none: {remedy}"
    yield "keyboard    this terminal's" if os.isatty(0) else "keyboard    none: standard input is no terminal"


def watch(device: Device, kind: Kind, show: Callable[[str], None], seconds: float) -> list[str]:
    """Shows the device until all of it has been seen or the time is up; returns what has not been seen.

    Raises Unreachable with the reason when it is in trouble.
    """
    seen, end = Seen(kind), time.monotonic() + seconds
    while (missing := seen.missing()) and time.monotonic() < end:
        reading = device.read()
        seen.add(reading)
        show(seen.line(reading))
        if reading.trouble:
            raise Unreachable(reading.trouble)
        time.sleep(LOOK_S)
    return missing


def advice(kind: Kind, missing: list[str]) -> str:
    """Returns what to do about what was not seen."""
    if kind == "spacemouse" and len(missing) > 6 and "gripper" not in missing:
        return "its buttons arrive and its cap does not: stop spacenavd or 3DxWare if they run, and plug it in anew"
    if kind == "gamepad" and missing:
        return "switch the pad to its XInput (Xbox) mode if it has one; other modes number sticks and buttons otherwise"
    return "try these again; a device without them cannot be used for them"
