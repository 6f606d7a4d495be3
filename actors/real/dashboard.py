"""This module asks a UR controller's dashboard whether the arm is ready: nothing is uploaded and nothing moves.

    ports tried ─► mode, safety, remote control, software, model ─► all that is wrong, in one message

What old software cannot tell is None, and said as a doubt: PolyScope before 5.6 and every CB3 do not know whether the
robot is in remote control.
"""

import re
import socket
from dataclasses import dataclass

from actors.real.pendant import PendantSettings
from protos.errors import ArmStopped, InputError, Unreachable

PORTS = {29999: "dashboard", 30003: "script", 30004: "RTDE"}
DRIVABLE_MINOR = 4
"""ur_rtde 1.6 takes PolyScope 5.0 to 5.3 for a CB3 before 3.4, whose registers it does not use: it never answers."""
_STOPPED = "find the cause, free the arm, release the stop at the pendant"
_BUTTON = "release the button, then switch the arm on at the pendant"


@dataclass(frozen=True)
class SafetyStop:
    """A safety mode that stops the arm: the dashboard's word for it, ours, and the remedy."""

    word: str
    name: str
    remedy: str


SAFETY_STOPS = {
    3: SafetyStop("PROTECTIVE_STOP", "protective stop", _STOPPED),
    4: SafetyStop("RECOVERY", "recovery mode", "the arm is outside its safety limits; jog it back at the pendant"),
    5: SafetyStop("SAFEGUARD_STOP", "safeguard stop", "close the safeguard and reset it"),
    6: SafetyStop("SYSTEM_EMERGENCY_STOP", "emergency stop (system)", _BUTTON),
    7: SafetyStop("ROBOT_EMERGENCY_STOP", "emergency stop (robot)", _BUTTON),
    8: SafetyStop("VIOLATION", "safety violation", "restart the safety system at the pendant"),
    9: SafetyStop("FAULT", "safety fault", "restart the controller"),
}
"""Safety modes that stop the arm, by their number in RTDE's safety_mode."""


@dataclass(frozen=True, kw_only=True)
class Controller:
    """A controller as its dashboard describes it."""

    mode: str
    safety: str
    software: str
    model: str | None
    is_remote: bool | None

    def stops(self) -> list[str]:
        """Returns why the arm cannot move, with remedies."""
        found = []
        if self.mode != "RUNNING":
            found.append(f"robot mode {self.mode}: switch the arm on and release its brakes at the pendant")
        if self.safety not in ("NORMAL", "REDUCED"):
            found.append(f"safety {self.safety}: {_remedy(self.safety)}")
        return found

    def differences(self, expected: PendantSettings, model: str) -> list[str]:
        """Returns what is set otherwise than expected, with remedies."""
        found = []
        if self.is_remote is False:
            found.append("it is in local control: choose remote control at the pendant")
        version = _numbers(self.software)
        if version < _numbers(expected.oldest_software):
            found.append(
                f"its software is {self.software}, older than arm.pendant.oldest_software={expected.oldest_software}: "
                "a CB3 (3.x) arm has other lengths than the model of an e-Series"
            )
        if len(version) < 2 or version[1] < DRIVABLE_MINOR:
            found.append(
                f"ur_rtde cannot drive software {self.software}: it looks at the second number alone, which must be "
                f"{DRIVABLE_MINOR} or more; update the robot"
            )
        if self.model is not None and self.model.lower().removesuffix("e") != model.removesuffix("e"):
            found.append(f"it drives a {self.model}, arm.model is {model!r}: check the arm's address and model")
        return found

    def doubts(self) -> list[str]:
        """Returns what this version cannot tell."""
        if self.is_remote is not None:
            return []
        return [f"software {self.software} cannot tell whether the robot is in remote control: look at the pendant"]


def check_ready(host: str, timeout_s: float, expected: PendantSettings, model: str) -> Controller:
    """Raises Unreachable when no controller answers at `host`, ArmStopped when the robot is not ready to move.

    InputError when it is ready but set otherwise than expected, or the arm is none of `model`.
    """
    for port, name in PORTS.items():
        _probe(host, port, name, timeout_s)
    controller = read_dashboard(host, timeout_s)
    stops, differences = controller.stops(), controller.differences(expected, model)
    if stops or differences:
        text = f"UR controller at {host}: {'; '.join([*stops, *differences])}"
        raise ArmStopped(text) if stops else InputError(text)
    return controller


def read_dashboard(host: str, timeout_s: float) -> Controller:
    """Asks the dashboard. Raises Unreachable."""
    import dashboard_client

    dashboard = dashboard_client.DashboardClient(host)
    try:
        dashboard.connect(round(timeout_s * 1000))
        software = dashboard.polyscopeVersion()
        tells_remote = _numbers(software) >= (5, 6)
        safety = _value(dashboard.safetystatus()) or _value(dashboard.safetymode()) or "unknown"
        controller = Controller(
            mode=_value(dashboard.robotmode()) or "unknown",
            safety=safety,
            software=software,
            model=_value(dashboard.getRobotModel()),
            is_remote=bool(dashboard.isInRemoteControl()) if tells_remote else None,
        )
        dashboard.disconnect()
    except RuntimeError as error:
        raise Unreachable(f"UR controller at {host}: dashboard: {error} (deadline {timeout_s:g} s)") from error
    return controller


def _remedy(word: str) -> str:
    return next((stop.remedy for stop in SAFETY_STOPS.values() if stop.word == word), _STOPPED)


def _value(answer: str) -> str | None:
    """Returns what stands behind the name in an answer; None when the command was not understood."""
    if answer.startswith("could not understand"):
        return None
    return answer.rpartition(":")[2].strip()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _probe(host: str, port: int, name: str, timeout_s: float) -> None:
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError as error:
        raise Unreachable(f"UR controller at {host}: {name} port {port}: {error} (deadline {timeout_s:g} s)") from error
