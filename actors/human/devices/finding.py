"""This module finds devices by what the kernel tells of them, opens their nodes, and says what is missing.

    /sys/class/hidraw/*/device/uevent       HID_ID=bus:vendor:product ─► a SpaceMouse? ─► /dev/hidraw*
    /sys/class/input/event*/device          keys, axes, name          ─► a gamepad?    ─► /dev/input/event*

No library is needed: the kernel's nodes hand out the same bytes as hidapi and evdev do. The error of a device that
cannot be opened names what is missing (device, permission, terminal) and the remedy.
"""

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from actors.human.devices import gamepad, spacemouse
from actors.human.devices.keyboard import Keyboard
from actors.human.devices.listening import Listening
from actors.human.devices.reading import Device
from protos.errors import InputError

Kind = Literal["spacemouse", "gamepad", "keyboard"]
KINDS: tuple[Kind, ...] = get_args(Kind)
UDEV_RULES = {
    "spacemouse": 'KERNEL=="hidraw*", ATTRS{idVendor}=="256f", TAG+="uaccess"',
    "gamepad": 'KERNEL=="event*", ENV{ID_INPUT_JOYSTICK}=="1", TAG+="uaccess"',
}
"""Lines of a udev rule that let the person at the screen read a device."""
RULE_FILE = "/etc/udev/rules.d/70-twinrl.rules"
ABSINFO = struct.Struct("@6i")
AXIS_CODES = (*range(gamepad.ABS_RZ + 1), gamepad.HAT_X, gamepad.HAT_Y)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A device that the kernel knows."""

    kind: Kind
    name: str
    node: Path


class Nodes:
    """The places where the kernel shows devices; a test has its own."""

    def __init__(self, sys: Path = Path("/sys/class"), dev: Path = Path("/dev")) -> None:
        self._sys, self._dev = sys, dev

    def found(self) -> list[Found]:
        """Returns SpaceMice and gamepads, in the order of their nodes."""
        mice = [one for node in sorted(self._sys.glob("hidraw/*")) if (one := self._mouse(node))]
        pads = [one for node in sorted(self._sys.glob("input/event*")) if (one := self._pad(node))]
        return mice + pads

    def _mouse(self, entry: Path) -> Found | None:
        told = dict(line.split("=", 1) for line in _text(entry / "device/uevent").splitlines() if "=" in line)
        try:
            _, vendor, product = (int(number, 16) for number in told.get("HID_ID", "").split(":"))
        except ValueError:
            return None
        if product not in spacemouse.VENDORS.get(vendor, ()):
            return None
        return Found(kind="spacemouse", name=told.get("HID_NAME", "SpaceMouse"), node=self._dev / entry.name)

    def _pad(self, entry: Path) -> Found | None:
        keys = _bits(_text(entry / "device/capabilities/key"))
        if gamepad.BTN_SOUTH not in keys or gamepad.BTN_TL not in keys:
            return None
        name = _text(entry / "device/name").strip() or "gamepad"
        return Found(kind="gamepad", name=name, node=self._dev / "input" / entry.name)


def open_device(kind: Kind, node: Path | None = None, nodes: Nodes | None = None) -> Device:
    """Opens a device, the first of its kind that is found or the one at `node`. Raises InputError with the remedy."""
    if kind == "keyboard":
        if not os.isatty(0):
            raise InputError("keyboard: standard input is no terminal; start it in a terminal, without a pipe or nohup")
        return Keyboard()
    if node is None:
        here = [one for one in (nodes or Nodes()).found() if one.kind == kind]
        if not here:
            raise InputError(f"{kind}: none is plugged in; {MISSING[kind]}; `twinrl device` shows what is found")
        node, name = here[0].node, here[0].name
    else:
        name = f"{kind} {node}"
    descriptor = _opened(kind, node)
    if kind == "spacemouse":
        return Listening(
            descriptor,
            spacemouse.SpaceMouseReports(),
            name=name,
            help=spacemouse.HELP,
            silent_s=spacemouse.SILENT_S,
        )
    decoder = gamepad.GamepadEvents(_spans(descriptor))
    return Listening(descriptor, decoder, name=name, help=gamepad.HELP, silent_s=gamepad.SILENT_S)


MISSING = {
    "spacemouse": "plug it or its receiver in (USB vendor 256f, or 046d with c603 to c63f; `lsusb` lists them)",
    "gamepad": "plug it in or pair it, and switch it on (`cat /proc/bus/input/devices` lists what the kernel knows)",
}


def readable(found: Found) -> str:
    """Returns "may be read", or the remedy where this user may not read a node."""
    return "may be read" if os.access(found.node, os.R_OK) else f"may not be read by this user; {_permit(found.kind)}"


def _permit(kind: Kind) -> str:
    return f"as root: echo '{UDEV_RULES[kind]}' >> {RULE_FILE}; udevadm control --reload; then plug it in anew"


def _opened(kind: Kind, node: Path) -> int:
    try:
        return os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise InputError(f"{kind} {node}: this user may not read it; {_permit(kind)}") from error
        raise InputError(f"{kind} {node}: {error.strerror}; {MISSING[kind]}") from error


def _spans(descriptor: int) -> dict[int, tuple[int, int]]:
    """Returns the spans of a pad's axes, as the kernel tells them (EVIOCGABS)."""
    spans = {}
    for code in AXIS_CODES:
        answer = bytearray(ABSINFO.size)
        try:
            fcntl.ioctl(descriptor, 2 << 30 | ABSINFO.size << 16 | ord("E") << 8 | 0x40 + code, answer)
        except OSError:
            continue  # it has no such axis
        _, low, high, *_ = ABSINFO.unpack(answer)
        if high > low:
            spans[code] = (low, high)
    return spans


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _bits(words: str) -> set[int]:
    """Returns the numbers of the bits in a capability mask: hexadecimal words of 64 bits, the highest first."""
    mask = 0
    for word in words.split():
        mask = mask << 64 | int(word, 16)
    return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}
