"""This module drives a Robotiq 2F-85 through the socket of its URCap (port 63352 of the robot's address).

    SET POS 255 SPE 255 FOR 60 GTO 1  ► ack        0 open .. 255 closed
    GET POS                           ► POS 228    measured
    GET FLT                           ► FLT 0      no fault

The URCap forwards the text to the registers; see the manual of the 2F-85, section 4. A policy that wavers would
wear the fingers out, so they turn round at most once per `least_interval_s`: a wish that comes too early is not kept;
one that stands is wished again at the next step.
"""

import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from protos.errors import ArmStopped, InputError, Unreachable
from protos.settings import bounded

PORT = 63352
_ACTIVE = 3
FAULTS = {
    5: "an action is awaited after the activation",
    7: "it is not activated",
    8: "it is too hot: let it cool down",
    9: "no communication for a second: check its cable",
    10: "its voltage is too low: check its supply",
    11: "it releases by itself after an emergency",
    12: "an internal fault",
    13: "the activation failed: remove what blocks the fingers",
    14: "its current is too high: remove what blocks the fingers",
    15: "it has released by itself after an emergency: activate it again",
}
"""Faults by their number in the register FLT."""
FAULT_EVERY = 10
"""The opening is read at every step, the fault at every tenth."""


@dataclass(frozen=True, kw_only=True)
class GripperSettings:
    """Motion and register values of one gripper."""

    open_at: int = 3
    """Position reported with open fingers; differs a little from unit to unit."""
    closed_at: int = 230
    speed: int = 255
    force: int = 60
    least_interval_s: float = 0.3
    """Shortest time between two wishes of a policy that turn the fingers round, by the clock of the robot."""
    timeout_s: float = 3.0
    activation_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        ranges = {"least_interval_s": (0.05, 5.0), "timeout_s": (0.1, 30.0), "activation_timeout_s": (0.1, 60.0)}
        bounded(self, "gripper ", ranges, note=" s")
        for name in ("open_at", "closed_at", "speed", "force"):
            if not 0 <= getattr(self, name) <= 255:
                raise InputError(f"gripper {name}={getattr(self, name)}: a register holds 0 to 255")
        if self.open_at >= self.closed_at:
            raise InputError(f"gripper open_at={self.open_at}: must be below closed_at={self.closed_at}")


class Gripper(Protocol):
    """Fingers that are told to open or to close."""

    is_commanded_open: bool

    def activate(self) -> None: ...
    def command(self, *, is_open: bool) -> None: ...
    def follow(self, *, is_open: bool) -> None: ...
    def opening(self) -> float: ...


class RobotiqGripper:
    """Opens and closes the fingers, and measures their opening. `clock` [s] is the robot's.

    Every method raises ArmStopped when the gripper reports a fault or is lost.
    """

    def __init__(self, host: str, settings: GripperSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._address, self._clock = settings, f"{host}:{PORT}", clock
        self._turned_s = -math.inf
        self._reads = 0
        self.refused = 0
        """Number of wishes that came too early."""
        self._lock = threading.Lock()
        self._received = b""
        self.is_commanded_open = True
        try:
            self._socket = socket.create_connection((host, PORT), timeout=settings.timeout_s)
        except OSError as error:
            raise Unreachable(
                f"gripper at {self._address}: {error} (deadline {settings.timeout_s:g} s); is the Robotiq URCap on?"
            ) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def activate(self) -> None:
        """Switches it on; an inactive gripper opens and closes once by itself, so this counts as motion."""
        self._refuse_fault()
        self._set("ACT 1 GTO 1")
        deadline = time.monotonic() + self._settings.activation_timeout_s
        while self._get("STA") != _ACTIVE:
            if time.monotonic() > deadline:
                raise ArmStopped(
                    f"gripper not active after {self._settings.activation_timeout_s:g} s: activate it at the pendant"
                )
            time.sleep(0.05)

    def command(self, *, is_open: bool) -> None:
        """Starts to open or close; returns at once."""
        self._refuse_fault()
        if is_open != self.is_commanded_open:
            self._turned_s = self._clock()
        self.is_commanded_open = is_open
        position = 0 if is_open else 255
        self._set(f"POS {position} SPE {self._settings.speed} FOR {self._settings.force} GTO 1")

    def follow(self, *, is_open: bool) -> None:
        """Opens or closes as a policy wishes, unless the fingers have only just turned round."""
        if is_open == self.is_commanded_open:
            return
        if self._clock() - self._turned_s < self._settings.least_interval_s:
            self.refused += 1
            return
        self.command(is_open=is_open)

    def opening(self) -> float:
        """Returns the measured opening, 0 closed .. 1 open."""
        if self._reads % FAULT_EVERY == 0:
            self._refuse_fault()
        self._reads += 1
        settings = self._settings
        share = (self._get("POS") - settings.open_at) / (settings.closed_at - settings.open_at)
        return min(max(1.0 - share, 0.0), 1.0)

    def close(self) -> None:
        """Closes the connection; the fingers stay as they are."""
        self._socket.close()

    def _refuse_fault(self) -> None:
        if fault := self._get("FLT"):
            what = FAULTS.get(fault, "see the gripper's manual")
            raise ArmStopped(f"gripper at {self._address} reports fault {fault}: {what}")

    def _set(self, registers: str) -> None:
        answer = self._ask(f"SET {registers}")
        if answer != "ack":
            raise ArmStopped(f"gripper at {self._address} answered {answer!r} to SET {registers}")

    def _get(self, name: str) -> int:
        answer = self._ask(f"GET {name}").split()
        if len(answer) != 2 or answer[0] != name or not answer[1].isdigit():
            raise ArmStopped(f"gripper at {self._address} answered {answer} to GET {name}")
        return int(answer[1])

    def _ask(self, command: str) -> str:
        with self._lock:
            try:
                self._socket.sendall(f"{command}\n".encode())
                return self._line()
            except OSError as error:
                raise ArmStopped(
                    f"gripper at {self._address}: link lost ({error}; deadline {self._settings.timeout_s:g} s): "
                    "check that the arm is on and the Robotiq URCap runs"
                ) from error

    def _line(self) -> str:
        self._received = self._received.lstrip(b"\n")
        # the URCap ends "ack" without a newline, other answers with one
        while b"\n" not in self._received and self._received != b"ack":
            data = self._socket.recv(256)
            if not data:
                raise ConnectionResetError("the gripper closed the connection")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode("ascii", "replace").strip()
