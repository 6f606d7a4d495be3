"""A person's hand for tests: turns the wishes of an expert into the bytes of a device, at the other end of a socket."""

import os
import socket
import struct
import time

import numpy as np

from actors.human import Person, PersonSettings
from actors.human.devices import Button, Keyboard, Listening, gamepad, spacemouse
from actors.human.devices.keyboard import MOVES
from protos.errors import InputError

SPANS = dict.fromkeys(range(6), (-32768, 32767)) | {gamepad.HAT_X: (-1, 1), gamepad.HAT_Y: (-1, 1)}
TOWARDS_ROBOT = PersonSettings(facing_deg=0.0, scale=1.0, turn_scale=1.0)
"""A person who looks along +x of the base frame: right is -y, away is +x."""


class Clock:
    """A clock that tests move."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def packets_pipe():
    """A pair of sockets that keeps packets apart, as a hidraw node keeps reports."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours.detach(), theirs


class Hand:
    """The person's end of a device. `device` is the other one."""

    is_step_wise = False
    """True where a deflection is all or nothing."""

    def __init__(self):
        self.clock, self._sent = Clock(), 0
        self.wishes, self.is_held = np.zeros(6), False

    def open(self):
        """Opens the device, once; afterwards it is not there any more."""
        if self._sent < 0:
            raise InputError(f"{self.kind}: none is plugged in")
        return self.device

    def wish(self, axes, *, held=True):
        """Deflects the axes of the device (6,) and holds the deadman, or lets go."""
        raise NotImplementedError

    def press(self, button):
        raise NotImplementedError

    def unplug(self):
        self._sent = -1
        self._wire.close()
        deadline = time.monotonic() + 10
        while not self.device.read().trouble:
            assert time.monotonic() < deadline, "the device did not notice"
            time.sleep(0.001)

    def close(self):
        self._wire.close()
        self.device.close()

    def _send(self, *packets):
        for packet in packets:
            self._wire.sendall(packet)
            self._sent += len(packet)
        deadline = time.monotonic() + 10
        while self.device.heard < self._sent:
            assert time.monotonic() < deadline, "the device did not listen"
            time.sleep(0.0002)


def undone(values, dead_zone):
    """Deflections that a dead zone turns into these values."""
    return np.sign(values) * (np.abs(values) * (1 - dead_zone) + dead_zone * (np.abs(values) > 0))


class SpaceMouseHand(Hand):
    """An older SpaceMouse, which sends turns in a report of their own; `new` sends all in one."""

    kind = "spacemouse"

    def __init__(self, *, new=False):
        super().__init__()
        node, self._wire = packets_pipe()
        self._new, self._buttons = new, 0
        reports = spacemouse.SpaceMouseReports()
        self.device = Listening(node, reports, name="mouse", help="", silent_s=spacemouse.SILENT_S, clock=self.clock)

    def wish(self, axes, *, held=True):
        raw = np.round(undone(np.asarray(axes), spacemouse.DEAD_ZONE) * spacemouse.FULL * np.tile(spacemouse.OURS, 2))
        self._buttons = self._buttons & ~spacemouse.DEADMAN_BIT | spacemouse.DEADMAN_BIT * held
        numbers = [int(number) for number in raw]
        if self._new:
            reports = [struct.pack("<B6h", 1, *numbers)]
        else:
            reports = [struct.pack("<B3h", 1, *numbers[:3]), struct.pack("<B3h", 2, *numbers[3:])]
        self._send(*reports, self._pressed())

    def press(self, button):
        assert button is Button.GRIPPER, "two buttons are all it has"
        self._buttons |= spacemouse.GRIPPER_BIT
        down = self._pressed()
        self._buttons &= ~spacemouse.GRIPPER_BIT
        self._send(down, self._pressed())

    def _pressed(self):
        return struct.pack("<BH", 3, self._buttons)


class GamepadHand(Hand):
    """A pad as the kernel shows it: a value that has not changed is not told again."""

    kind = "gamepad"

    def __init__(self):
        super().__init__()
        node, self._wire = packets_pipe()
        self._told = {}
        self.device = Listening(
            node, gamepad.GamepadEvents(SPANS), name="pad", help="", silent_s=gamepad.SILENT_S, clock=self.clock
        )

    def wish(self, axes, *, held=True):
        right, away, up, about_right, about_away, about_up = undone(np.asarray(axes), gamepad.DEAD_ZONE)
        values = {
            gamepad.ABS_X: right,
            gamepad.ABS_Y: -away,
            gamepad.ABS_RY: -up,
            gamepad.ABS_RX: -about_up,
            gamepad.HAT_Y: about_right,
            gamepad.HAT_X: about_away,
        }
        raw = {
            (gamepad.EV_ABS, code): round((value * (SPANS[code][1] - SPANS[code][0]) + sum(SPANS[code])) / 2)
            for code, value in values.items()
        }
        self._tell(raw | {(gamepad.EV_KEY, gamepad.BTN_TL): int(held)})

    def press(self, button):
        code = next(code for code, one in gamepad.PRESSES.items() if one is button)
        self._tell({(gamepad.EV_KEY, code): 1})
        self._tell({(gamepad.EV_KEY, code): 0})

    def _tell(self, values):
        new = {name: value for name, value in values.items() if self._told.get(name, 0) != value}
        self._told |= values
        events = [gamepad.EVENT.pack(1, 0, kind, code, value) for (kind, code), value in new.items()]
        if events:
            self._send(b"".join(events) + gamepad.EVENT.pack(1, 0, gamepad.EV_SYN, 0, 0))


class KeyboardHand(Hand):
    """Keys through a pty; a key is pressed, or not."""

    kind, is_step_wise = "keyboard", True

    def __init__(self):
        super().__init__()
        self._wire, self.terminal = os.openpty()
        self.device = Keyboard(self.terminal, clock=self.clock)
        self.device.read()  # from now on keys come one by one

    def wish(self, axes, *, held=True):
        keys = [key for key, (axis, way) in MOVES.items() if np.sign(np.round(axes[axis])) == way]
        if not held:
            self.clock.now += 1.0
        else:
            self.type(b"".join(keys) or b" ")

    def press(self, button):
        self.type({Button.GRIPPER: b"g"}.get(button) or f"{WORD_OF[button]}\n".encode())

    def type(self, keys):
        os.write(self._wire, keys)

    def unplug(self):
        self._sent = -1
        os.close(self._wire)

    def close(self):
        self.device.close()
        os.close(self.terminal)
        if self._sent >= 0:
            os.close(self._wire)


WORD_OF = {Button.SUCCESS: "s", Button.FAILURE: "f", Button.DISCARD: "d", Button.RERECORD: "r", Button.PAUSE: "p"}
HANDS = {"spacemouse": SpaceMouseHand, "gamepad": GamepadHand, "keyboard": KeyboardHand}


class Driver:
    """A person who wants what an expert wants, and can only say it with the device; satisfies `Operator`.

    `wants(step)` is False where the person lets go.
    """

    def __init__(self, hand, expert, robot, *, always=True, settings=TOWARDS_ROBOT, wants=lambda step: True):
        self.hand, self._expert, self._robot, self._wants = hand, expert, robot, wants
        self.person = Person(hand.open, settings, always=always, say=lambda text: None)
        self.person.robot = robot
        robot.is_away = self._is_away if always else lambda: False
        self._is_closing, self._scale = False, settings.scale

    def override(self, slot, step, observation):
        if self._wants(step):
            self._act(self._expert.override(slot, step, observation), step)
        else:
            self.hand.wish(np.zeros(6), held=False)
        return self.person.override(slot, step, observation)

    def _act(self, action, step):
        if step == 0:
            self._is_closing = self._robot.is_closing
        x, y, z = action[:3] / self._scale
        wish = np.array([-y, x, z, 0, 0, 0])
        self.hand.wish(np.clip(wish, -1, 1))
        if (action[6] < 0) != self._is_closing:
            self._is_closing = not self._is_closing
            self.hand.press(Button.GRIPPER)

    def _is_away(self):
        self.hand.wish(np.zeros(6))
        return self.person.is_away()
