"""This module is the link to a UR controller: ports, ur_rtde interfaces, and what the controller reports of itself.

    dashboard 29999 ── robot mode, safety status, remote control?
    RTDE      30004 ── state (RTDEReceiveInterface), command registers (RTDEControlInterface)
    script    30003 ── ur_rtde's control script

ur_rtde is not made for several threads: `Link.lock` guards every command. A command that waits for an answer waits for
ever when the controller falls silent, so each runs in a thread of its own with a deadline; one that is given up stays
behind in ur_rtde. Its constructors hold Python's lock and have deadlines of their own, hence the ports are tried first.
It prints its own reconnection notes to standard error.
"""

import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from protos.errors import ArmStopped, InputError, Unreachable
from protos.proprioception import tool_vector
from protos.schema import F64

log = logging.getLogger(__name__)
T = TypeVar("T")

PORTS = {29999: "dashboard", 30003: "script", 30004: "RTDE"}
OUTPUTS = [
    "timestamp",
    "actual_q",
    "actual_TCP_pose",
    "actual_TCP_speed",
    "actual_TCP_force",
    "robot_mode",
    "safety_mode",
    "safety_status_bits",
    "runtime_state",
    "robot_status_bits",
]
"""Variables that the controller streams: all that is read here and no more, which keeps a package small."""
LOST = "link to the controller lost: check power and network"
_ABANDONED: list[Any] = []
"""ur_rtde objects that lost their controller: destroying them while they reconnect ends the process (ur_rtde 1.6)."""
_NORMAL, _REDUCED = 1, 2
_PROGRAM_RUNS = 0b10
"""Bit of the robot status."""
_REMEDIES = {
    3: "protective stop: find the cause, free the arm, release the stop at the pendant",
    4: "recovery mode: the arm is outside its safety limits; jog it back at the pendant",
    5: "safeguard stop: close the safeguard and reset it",
    6: "emergency stop (system): release the button, then switch the arm on at the pendant",
    7: "emergency stop (robot): release the button, then switch the arm on at the pendant",
    8: "safety violation: restart the safety system at the pendant",
    9: "safety fault: restart the controller",
}


@dataclass(frozen=True)
class ArmState:
    """One reading of the arm, base frame."""

    t: float  # robot clock [s]
    joints: F64  # (6,) rad
    pose: F64  # (6,) m, rotation vector
    velocity: F64  # (6,) m/s, rad/s
    wrench: F64  # (6,) N, Nm


class Link:
    """Holds the open connection to one controller. `connect` uploads the control script; nothing moves."""

    def __init__(self, receive: Any, control: Any, timeout_s: float) -> None:
        self._receive, self.control = receive, control
        self._timeout_s = timeout_s
        self._is_lost = False
        self.lock = threading.RLock()

    @classmethod
    def connect(cls, host: str, timeout_s: float) -> "Link":
        """Connects and uploads the control script. Raises as `check_ready` does, which it calls first."""
        check_ready(host, timeout_s)
        import rtde_control
        import rtde_receive

        receive = _within(
            timeout_s, f"RTDE at {host}:30004", lambda: rtde_receive.RTDEReceiveInterface(host, -1.0, OUTPUTS)
        )
        control = _within(timeout_s, f"control script at {host}", lambda: rtde_control.RTDEControlInterface(host))
        return cls(receive, control, timeout_s)

    def state(self) -> ArmState:
        """Returns the newest package."""
        receive = self._receive
        return ArmState(
            t=receive.getTimestamp(),
            joints=np.array(receive.getActualQ()),
            pose=_smooth(np.array(receive.getActualTCPPose())),
            velocity=np.array(receive.getActualTCPSpeed()),
            wrench=np.array(receive.getActualTCPForce()),
        )

    @property
    def time_s(self) -> float:
        """The robot's clock [s], as of the newest package."""
        return float(self._receive.getTimestamp())

    def trouble(self) -> str:
        """Returns the reason why the arm cannot be commanded now, with the remedy; empty when it can."""
        if not self.is_connected:
            return LOST
        if (why := self._safety()) or self.control.isProgramRunning():
            return why
        # ur_rtde hears that from a connection of its own, so what stopped the script may still be on its way to ours
        deadline = time.monotonic() + self._timeout_s
        while self._receive.getRobotStatus() & _PROGRAM_RUNS and time.monotonic() < deadline:
            time.sleep(0.002)
        return self._safety() or (
            "the control script does not run (stopped at the pendant, or the controller's watchdog ended it)"
        )

    def _safety(self) -> str:
        mode = self._receive.getSafetyMode()
        return "" if mode in (_NORMAL, _REDUCED) else _REMEDIES.get(mode, f"safety mode {mode}: see the pendant")

    def stream(self, what: str, command: Callable[[], bool]) -> None:
        """Sends a servo command, which ur_rtde does not wait for. Raises ArmStopped when the controller refuses it."""
        with self.lock:
            self._require(what, command())

    def execute(self, what: str, command: Callable[[], bool]) -> None:
        """Runs a command that ur_rtde waits for. Raises ArmStopped when the controller refuses it or is silent."""
        with self.lock:
            if not self.is_connected:
                raise ArmStopped(f"{what} impossible: {LOST}")
            try:
                taken = _within(self._timeout_s, what, command)
            except Unreachable as error:
                self._is_lost = True
                raise ArmStopped(f"{LOST} ({error})") from error
            self._require(what, taken)

    @property
    def is_connected(self) -> bool:
        """True while the link is whole. Once lost it stays lost, although ur_rtde goes on trying by itself."""
        if not (self._is_lost or (self._receive.isConnected() and self.control.isConnected())):
            self._is_lost = True
        return not self._is_lost

    def _require(self, what: str, taken: bool) -> None:
        if not taken:
            raise ArmStopped(f"{what} refused: {self.trouble() or 'the controller did not say why'}")

    def wait_until(self, time_s: float) -> None:
        """Sleeps until the robot's clock shows `time_s`. Raises ArmStopped if it stands still."""
        pause_s, deadline, last = 0.0001, time.monotonic() + self._timeout_s, self.time_s
        while (now := self.time_s) < time_s:
            if now != last:
                last, deadline = now, time.monotonic() + self._timeout_s
            elif time.monotonic() > deadline:
                raise ArmStopped(
                    f"the robot's clock stands still for {self._timeout_s:g} s: {self.trouble() or 'check the network'}"
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.002)

    def close(self) -> None:
        """Ends the control script and both connections. A lost link is left alone: its threads are beyond our reach."""
        if not self.lock.acquire(timeout=self._timeout_s):
            return
        try:
            if self.is_connected:
                self._is_lost = True
                for command in (self.control.stopScript, self.control.disconnect, self._receive.disconnect):
                    _within(self._timeout_s, "disconnecting", command)
            else:
                _ABANDONED.append((self._receive, self.control))
        except Unreachable as error:
            log.info("%s", error)
        finally:
            self.lock.release()


def _smooth(pose: F64) -> F64:
    """Returns a pose with the rotation vector that does not jump while the tool points down."""
    return np.concatenate([pose[:3], tool_vector(pose[3:])])


def check_ready(host: str, timeout_s: float) -> None:
    """Raises Unreachable when no controller answers at `host`, ArmStopped when the robot is not ready to move.

    InputError when it is in local control. Nothing is uploaded.
    """
    for port, name in PORTS.items():
        _probe(host, port, name, timeout_s)
    _check_dashboard(host, timeout_s)


def _probe(host: str, port: int, name: str, timeout_s: float) -> None:
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError as error:
        raise Unreachable(f"UR controller at {host}: {name} port {port}: {error} (deadline {timeout_s:g} s)") from error


def _check_dashboard(host: str, timeout_s: float) -> None:
    """Raises ArmStopped or InputError unless the robot is on, without a safety stop and in remote control."""
    import dashboard_client

    dashboard = dashboard_client.DashboardClient(host)
    try:
        dashboard.connect(round(timeout_s * 1000))
        mode, safety = dashboard.robotmode(), dashboard.safetystatus()
        is_remote = dashboard.isInRemoteControl()
        dashboard.disconnect()
    except RuntimeError as error:
        raise Unreachable(f"UR controller at {host}: dashboard: {error} (deadline {timeout_s:g} s)") from error
    if "RUNNING" not in mode:
        raise ArmStopped(f"{mode.strip()}: switch the arm on and release its brakes at the pendant")
    if not any(word in safety for word in ("NORMAL", "REDUCED")):
        raise ArmStopped(f"{safety.strip()}: find the cause, free the arm, release the stop at the pendant")
    if not is_remote:
        raise InputError(f"UR controller at {host} is in local control: choose remote control at the pendant")


def _within(timeout_s: float, what: str, call: Callable[[], T]) -> T:
    """Runs a call of ur_rtde that has no deadline of its own. Raises Unreachable after `timeout_s`."""
    answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except RuntimeError as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True, name=what).start()
    try:
        result, error = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise Unreachable(f"{what}: no answer (deadline {timeout_s:g} s)") from None
    if error is not None:
        raise Unreachable(f"{what}: {error} (deadline {timeout_s:g} s)") from error
    return result  # type: ignore[return-value]
