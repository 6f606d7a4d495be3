"""This module understands the reports of 3Dconnexion's SpaceMice, as `/dev/hidraw*` and hidapi hand them out.

    01  x y z            int16 each, little endian          older models send turns in a report of their own
    01  x y z rx ry rz   int16 each                         newer ones (Wireless, receivers) all in one
    02  rx ry rz         int16 each
    03  buttons          a bit for each, the left one first

The cap's own frame has x right, y towards the person and z down; half a turn about x makes it ours. Full deflection is
about 350. Holding the left button is the deadman; the right one is the gripper's. While the cap is deflected the device
repeats itself some sixty times a second; at rest it is silent.
"""

import struct

import numpy as np

from actors.human.devices.reading import Button, beyond
from protos.schema import F64

FULL = 350.0
DEAD_ZONE = 0.06
SILENT_S = 0.5
"""A deflected cap that is silent for so long is gone."""
VENDORS = {0x256F: range(0x10000), 0x046D: range(0xC603, 0xC640)}
"""Vendor -> its SpaceMice: 3Dconnexion sells nothing else of interest, Logitech did for a while."""
DEADMAN_BIT, GRIPPER_BIT = 0x01, 0x02
TRANSLATION, ROTATION, BUTTONS = 1, 2, 3
OURS = np.array([1.0, -1.0, -1.0])
HELP = """\
SpaceMouse: hold the LEFT button and move the cap, the arm follows; let go, and you act no more.
RIGHT button: the fingers open or close."""


class SpaceMouseReports:
    """Decodes reports of a SpaceMouse; satisfies `Decoder`."""

    def __init__(self) -> None:
        self._raw = np.zeros(6)
        self._buttons = 0
        self.pressed: list[Button] = []
        self.ignored = 0

    @property
    def axes(self) -> F64:
        return beyond(self._raw * np.tile(OURS, 2) / FULL, DEAD_ZONE)

    @property
    def deadman(self) -> bool:
        return bool(self._buttons & DEADMAN_BIT)

    def feed(self, packet: bytes) -> None:
        """Takes one report."""
        kind, body = (packet[0], packet[1:]) if packet else (0, b"")
        if kind == TRANSLATION and len(body) >= 12:
            self._raw = np.array(struct.unpack_from("<6h", body), float)
        elif kind in (TRANSLATION, ROTATION) and len(body) >= 6:
            first = 0 if kind == TRANSLATION else 3
            self._raw[first : first + 3] = struct.unpack_from("<3h", body)
        elif kind == BUTTONS and body:
            if body[0] & ~self._buttons & GRIPPER_BIT:
                self.pressed.append(Button.GRIPPER)
            self._buttons = body[0]
        else:
            self.ignored += 1  # battery, lamp

    def release(self) -> None:
        self._raw, self._buttons = np.zeros(6), 0
