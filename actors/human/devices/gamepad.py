"""This module understands a gamepad's events, as `/dev/input/event*` hands them out (linux/input.h).

    struct input_event: seconds, microseconds (long each), type u16, code u16, value i32

    left stick     right and away            LB (L1) held    the deadman
    right stick    up; turn about up         RB (R1)         the fingers open or close
    D-pad          turns about away, right   A B X Y Start   success, failure, discard, rerecord, pause

Codes are those of the kernel's drivers for Xbox, PlayStation and Nintendo pads; others have their right stick on Z
and RZ. The kernel repeats nothing: a pad that is held still is silent, so silence counts only after some seconds.
"""

import struct
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from actors.human.devices.reading import Button, beyond
from protos.schema import F64

EVENT = struct.Struct("@llHHi")
EV_SYN, EV_KEY, EV_ABS = 0, 1, 3
SYN_DROPPED = 3
ABS_X, ABS_Y, ABS_Z, ABS_RX, ABS_RY, ABS_RZ, HAT_X, HAT_Y = 0, 1, 2, 3, 4, 5, 16, 17
BTN_SOUTH, BTN_EAST, BTN_X, BTN_Y, BTN_TL, BTN_TR, BTN_START = 0x130, 0x131, 0x133, 0x134, 0x136, 0x137, 0x13B
PRESSES = {
    BTN_TR: Button.GRIPPER,
    BTN_SOUTH: Button.SUCCESS,
    BTN_EAST: Button.FAILURE,
    BTN_X: Button.DISCARD,
    BTN_Y: Button.RERECORD,
    BTN_START: Button.PAUSE,
}
DEAD_ZONE = 0.12
SILENT_S = 2.0
"""A stick that is deflected and sends nothing for so long may be out of reach of its receiver."""
Spans = Mapping[int, tuple[int, int]]
"""Code of an axis -> its least and greatest value."""
HELP = """\
Gamepad: hold LB (L1), the arm follows; let go, and you act no more. Left stick: right, away. Right stick: up, turn.
D-pad: tilt. RB (R1): the fingers open or close. A success, B failure, X discard, Y rerecord, Start pause."""


class GamepadEvents:
    """Satisfies `Decoder`."""

    def __init__(self, spans: Spans) -> None:
        """`spans` are those of the device's axes (`actors.human.devices.finding`)."""
        self._spans = spans
        self._turn, self._up = (ABS_RX, ABS_RY) if ABS_RX in spans else (ABS_Z, ABS_RZ)
        self._values: dict[int, float] = {}
        self.deadman = False
        self.pressed: list[Button] = []
        self.ignored = 0

    @property
    def axes(self) -> F64:
        at = defaultdict(float, self._values)
        # sticks and hats count downwards; a turn to the right is a negative one about "up"
        sticks = (at[ABS_X], -at[ABS_Y], -at[self._up], at[HAT_Y], at[HAT_X], -at[self._turn])
        return beyond(np.array(sticks), DEAD_ZONE)

    def feed(self, packet: bytes) -> None:
        """Takes whole events."""
        for _, _, kind, code, value in EVENT.iter_unpack(packet[: len(packet) - len(packet) % EVENT.size]):
            self._take(kind, code, value)

    def release(self) -> None:
        self._values, self.deadman = {}, False

    def _take(self, kind: int, code: int, value: int) -> None:
        if kind == EV_ABS and code in self._spans:
            low, high = self._spans[code]
            self._values[code] = (2 * value - low - high) / max(high - low, 1)
        elif kind == EV_KEY and code == BTN_TL:
            self.deadman = value != 0
        elif kind == EV_KEY and code in PRESSES:
            if value == 1:
                self.pressed.append(PRESSES[code])
        elif kind == EV_SYN and code == SYN_DROPPED:  # events are missing: what is held is not known any more
            self.release()
        elif kind != EV_SYN:
            self.ignored += 1
