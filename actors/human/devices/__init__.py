"""This room holds the devices in a person's hand: SpaceMouse, gamepad, keyboard; one interface, no library.

    open_device ─► Listening (a node and a decoder: spacemouse, gamepad) or Keyboard ─► read() ─► Reading

`twinrl device`, or `python -m actors.human.devices` on the robot's computer, shows all axes and buttons live.
"""

from actors.human.devices.finding import KINDS, Found, Kind, Nodes, open_device
from actors.human.devices.keyboard import WORDS, Keyboard, in_lines
from actors.human.devices.listening import Listening
from actors.human.devices.reading import AXES, Button, Device, Reading

__all__ = [
    "AXES",
    "KINDS",
    "WORDS",
    "Button",
    "Device",
    "Found",
    "Keyboard",
    "Kind",
    "Listening",
    "Nodes",
    "Reading",
    "in_lines",
    "open_device",
]
