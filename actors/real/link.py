"""This module is the link to a UR controller: ports, ur_rtde interfaces, and what the controller reports of itself.

    dashboard 29999 ── robot mode, safety status, remote control?
    RTDE      30004 ── state (RTDEReceiveInterface), command registers (RTDEControlInterface)
    script    30003 ── ur_rtde's control script

ur_rtde is not made for several threads: `Link.lock` guards every command. A command that waits for an answer waits for
ever when the controller falls silent, so it runs in a thread beside, with a deadline (`patience`); one that is given up
stays behind in ur_rtde. Its constructors hold Python's lock and have deadlines of their own, hence the ports are tried
first. It prints its own reconnection notes to standard error.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.real.dashboard import SAFETY_STOPS, check_ready
from actors.real.kinematics import ModelName, model_error
from actors.real.patience import Patience
from actors.real.pendant import PendantReading, PendantSettings
from protos.errors import ArmHeld, ArmStopped, InputError, Unreachable
from protos.proprioception import tool_vector
from protos.schema import F64

log = logging.getLogger(__name__)

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
    "target_speed_fraction",
]
"""Variables that the controller streams: all that is read here and no more, which keeps a package small."""
PAYLOAD = ["payload", "payload_cog"]
"""Variables that old software does not have."""
SURE_SHARE = 0.7
"""A wait for the robot's clock sleeps through this share of what the wait before took, and looks again from then on."""
PAUSE_SHARE, SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 0.0001, 0.002
"""It looks again after a share of the time that has passed, within these bounds."""
MOST_UNEXPLAINED = 3
"""Times in a row that a well controller may refuse a command without a reason, before that counts as its trouble."""
LOST = "link to the controller lost: check power and network"
_ABANDONED: list[Any] = []
"""ur_rtde objects that lost their controller: destroying them while they reconnect ends the process (ur_rtde 1.6)."""
_NORMAL, _REDUCED = 1, 2
_PROGRAM_RUNS = 0b10
"""Bit of the robot status."""


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

    def __init__(self, receive: Any, control: Any, timeout_s: float, *, tells_payload: bool = True) -> None:
        self._receive, self.control, self._tells_payload = receive, control, tells_payload
        self._timeout_s, self._patience = timeout_s, Patience(timeout_s)
        self._is_lost = False
        self._unexplained: Counter[str] = Counter()
        self._waited_s = 0.0
        self._told = time.monotonic()
        self.lock = threading.RLock()

    @classmethod
    def connect(cls, host: str, timeout_s: float, expected: PendantSettings, model: ModelName) -> "Link":
        """Connects and uploads the control script. Raises as `check_ready` does, which it calls first."""
        controller = check_ready(host, timeout_s, expected, model)
        import rtde_control

        receive, tells_payload = _receiver(host, timeout_s)
        doubts = controller.doubts()
        if not tells_payload:
            doubts.append(f"software {controller.software} cannot tell the payload: look at the pendant")
        for doubt in doubts:
            log.warning("UR controller at %s: %s", host, doubt)
        try:
            with Patience(timeout_s) as patience:
                control = patience.run(f"control script at {host}", lambda: rtde_control.RTDEControlInterface(host))
        except Unreachable as error:
            if "already in use" not in str(error):
                raise
            raise InputError(
                f"the arm at {host} is driven by another program, of another user or computer: end that first; if "
                "there is none, switch EtherNet/IP, PROFINET and MODBUS off at the pendant"
            ) from error
        return cls(receive, control, timeout_s, tells_payload=tells_payload)

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

    def read_pendant(self, model: ModelName) -> PendantReading:
        """Returns what the controller knows of its tool and arm. Raises ArmStopped when it does not answer."""
        offset: list[float] = []

        def ask() -> bool:
            try:
                offset.extend(self.control.getTCPOffset())
            except RuntimeError as error:  # no answer of the script
                log.debug("%s", error)
            return len(offset) == 6

        self.execute("reading the TCP offset", ask)
        for _ in range(2):  # the package that is under way may be older than the answer
            self.wait_until(self.time_s + 1e-6)
        receive, payload, state = self._receive, self._tells_payload, self.state()
        return PendantReading(
            tcp_offset=np.array(offset),
            payload_kg=float(receive.getPayload()) if payload else None,
            payload_cog_m=np.array(receive.getPayloadCog()) if payload else None,
            off_model=model_error(model, state.joints, state.pose, np.array(offset)),
            force_n=float(np.linalg.norm(state.wrench[:3])),
            speed_slider=self.speed_slider,
        )

    @property
    def speed_slider(self) -> float:
        """The share of the commanded speed that the pendant's slider allows."""
        return float(self._receive.getTargetSpeedFraction())

    @property
    def time_s(self) -> float:
        """The robot's clock [s], as of the newest package."""
        return float(self._receive.getTimestamp())

    @property
    def unheard_s(self) -> float:
        """Seconds since the controller was told anything."""
        return time.monotonic() - self._told

    def trouble(self) -> str:
        """Returns the reason why the controller moves no arm now, with the remedy; empty when it is well."""
        return self._safety() if self.is_connected else LOST

    @property
    def is_script_running(self) -> bool:
        """True while the control script runs."""
        return bool(self.control.isProgramRunning())

    def script_end(self) -> str:
        """Returns why no control script runs, as far as the controller tells; empty while one runs."""
        if self.is_script_running:
            return ""
        # ur_rtde hears that from a connection of its own, so what stopped the script may still be on its way to ours
        deadline = time.monotonic() + self._timeout_s
        while self._receive.getRobotStatus() & _PROGRAM_RUNS and time.monotonic() < deadline:
            time.sleep(0.002)
        return self.trouble() or (
            "the control script ended: stopped at the pendant, or the controller heard too little of this computer"
        )

    def upload(self) -> None:
        """Uploads the control script again, after it ended; nothing moves. Raises ArmStopped when it does not start."""
        what = "starting the control script again"
        self.execute(what, self.control.reuploadScript)
        deadline = time.monotonic() + self._timeout_s
        while not self.is_script_running:
            if time.monotonic() > deadline:
                raise ArmStopped(f"{what}: it does not run (deadline {self._timeout_s:g} s): look at the pendant")
            time.sleep(0.005)

    def _safety(self) -> str:
        mode = self._receive.getSafetyMode()
        if mode in (_NORMAL, _REDUCED):
            return ""
        stop = SAFETY_STOPS.get(mode)
        return f"{stop.name}: {stop.remedy}" if stop else f"safety mode {mode}: see the pendant"

    def stream(self, what: str, command: Callable[[], bool]) -> None:
        """Sends a servo command, which ur_rtde does not wait for. Raises as `execute` does when it is refused."""
        with self.lock:
            self._told = time.monotonic()
            try:
                taken = command()
            except RuntimeError as error:  # it finds the link lost and cannot connect anew
                raise self._lost_by(error) from error
            self._require(what, taken)

    def execute(self, what: str, command: Callable[[], bool | None]) -> None:
        """Runs a command that ur_rtde waits for. Raises ArmStopped when the controller refuses it or is silent.

        Raises ArmHeld when it may be tried again: its script has ended, or it did not say why. A command that returns
        nothing counts as taken.
        """
        with self.lock:
            if not self.is_connected:
                raise ArmStopped(f"{what} impossible: {LOST}")
            try:
                self._told = time.monotonic()
                taken = self._patience.run(what, command)
            except Unreachable as error:
                raise self._lost_by(error) from error
            self._require(what, taken is not False)

    def _lost_by(self, error: Exception) -> ArmStopped:
        """Gives the link up; returns the error to raise."""
        self._is_lost = True
        return ArmStopped(f"{LOST} ({error})")

    @property
    def is_connected(self) -> bool:
        """True while the link is whole. Once lost it stays lost, although ur_rtde goes on trying by itself."""
        if not (self._is_lost or (self._receive.isConnected() and self.control.isConnected())):
            self._is_lost = True
        return not self._is_lost

    def _require(self, what: str, taken: bool) -> None:
        if taken:
            self._unexplained[what] = 0
            return
        ended = self.script_end()
        trouble = self.trouble()  # asked for afterwards: it is heard of a little later than the end of the script
        if trouble:
            raise ArmStopped(f"{what} refused: {trouble}")
        if ended:
            raise ArmHeld(ended)
        self._unexplained[what] += 1
        why = f"{what} refused: the controller did not say why"
        if self._unexplained[what] > MOST_UNEXPLAINED:
            raise ArmStopped(f"{why}, {self._unexplained[what]} times in a row: look at the pendant")
        raise ArmHeld(why)  # as ur_rtde answers where a computer stalls

    def wait_until(self, time_s: float) -> None:
        """Sleeps until the robot's clock shows `time_s`. Raises ArmStopped if it stands still."""
        began, last = time.monotonic(), self.time_s
        if last >= time_s:
            return
        deadline, pause_s = began + self._timeout_s, SURE_SHARE * min(self._waited_s, max(time_s - last, 0.0))
        while (now := self.time_s) < time_s:
            if now != last:
                last, deadline = now, time.monotonic() + self._timeout_s
            elif not self.is_connected:
                raise ArmStopped(LOST)
            elif time.monotonic() > deadline:
                raise ArmStopped(
                    f"the robot's clock stands still for {self._timeout_s:g} s: {self.trouble() or 'check the network'}"
                )
            time.sleep(max(pause_s, SHORTEST_PAUSE_S))
            pause_s = min(PAUSE_SHARE * (time.monotonic() - began), LONGEST_PAUSE_S)
        self._waited_s = time.monotonic() - began

    def close(self) -> None:
        """Ends the control script and both connections. A lost link is left alone: its threads are beyond our reach."""
        if not self.lock.acquire(timeout=self._timeout_s):
            return
        try:
            if self.is_connected:
                self._is_lost = True
                for command in (self.control.stopScript, self.control.disconnect, self._receive.disconnect):
                    self._patience.run("disconnecting", command)
            else:
                _ABANDONED.append((self._receive, self.control))
        except Unreachable as error:
            log.info("%s", error)
        finally:
            self._patience.close()
            self.lock.release()


def _smooth(pose: F64) -> F64:
    """Returns a pose with the rotation vector that does not jump while the tool points down."""
    return np.concatenate([pose[:3], tool_vector(pose[3:])])


def _receiver(host: str, timeout_s: float) -> tuple[Any, bool]:
    """Returns the receiving interface, and whether this controller's software tells the payload."""
    import rtde_receive

    def connect(variables: list[str]) -> Any:
        connecting = lambda: rtde_receive.RTDEReceiveInterface(host, -1.0, variables)  # noqa: E731
        with Patience(timeout_s) as patience:
            return patience.run(f"RTDE at {host}:30004", connecting)

    try:
        return connect([*OUTPUTS, *PAYLOAD]), True
    except Unreachable as error:
        if "not found by the controller" not in str(error):
            raise
    return connect(OUTPUTS), False
