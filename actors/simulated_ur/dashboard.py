"""This module answers on the dashboard port: one line in, one line out, what an operator does at the teach pendant.

    asks     robotmode, safetystatus, safetymode, programstate, running, is in remote control, get …, polyscopeversion
    changes  power on, brake release, power off, unlock protective stop, restart safety, stop, popup, close popup

What a version of the software does not know is "could not understand", as on the robot; in local control changes are
refused. There are no programs on this robot's disk: `load` and `play` fail. Unlike on a robot a protective stop can be
unlocked at once, without the five seconds to look for its cause.

Source: Universal Robots, "Dashboard Server e-Series, port 29999".
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from actors.simulated_ur.lines import answer_lines
from actors.simulated_ur.pendant import Pendant, Version

GREETING = "Connected: Universal Robots Dashboard Server"
SINCE: dict[str, tuple[Version, Version]] = {
    "safetystatus": ((5, 4, 0, 0), (3, 11, 0, 0)),
    "is in remote control": ((5, 6, 0, 0), (4, 0, 0, 0)),
    "get serial number": ((5, 6, 0, 0), (3, 12, 0, 0)),
    "get robot model": ((5, 6, 0, 0), (3, 12, 0, 0)),
}
"""First version of an e-Series and of a CB3 that knows a command; 4.0 never came."""
LOCAL = (
    "Command is not allowed due to safety reasons, please switch robot to Remote Control mode "
    "and reconnect to port 29999"
)


class Machine(Protocol):
    """The part of the controller that the dashboard reads and changes."""

    pendant: Pendant
    popup: str

    @property
    def is_running(self) -> bool: ...
    def set_pendant(self, pendant: Pendant) -> None: ...
    def stop_program(self, why: str) -> None: ...


class Dashboard:
    """Answers the commands that drivers and operators of an arm use."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._changes: dict[str, Callable[[], str]] = {
            "power on": self._power_on,
            "power off": lambda: self._set("Powering off", power="POWER_OFF"),
            "brake release": self._release_brakes,
            "unlock protective stop": self._unlock,
            "restart safety": self._restart_safety,
            "stop": self._stop,
            "play": lambda: "Failed to execute: play",
            "pause": lambda: "Failed to execute: pause",
            "close safety popup": lambda: self._close_popup("closing safety popup"),
            "close popup": lambda: self._close_popup("closing popup"),
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one connection, line by line, until the client leaves."""
        writer.write(f"{GREETING}\n".encode())
        await answer_lines(reader, writer, lambda line: f"{self.answer(line)}\n")

    def answer(self, line: str) -> str:
        """Returns the robot's answer to one command."""
        command, version = line.lower(), self._machine.pendant.version
        if (since := SINCE.get(command)) and version < since[0 if version >= (5, 0, 0, 0) else 1]:
            return f'could not understand: "{line}"'
        if command.startswith("popup "):
            self._machine.popup = line[len("popup ") :]
            return "showing popup"
        if command.startswith("load "):
            return f"File not found: {line[len('load ') :]}"
        if (change := self._changes.get(command)) is not None:
            return change() if self._machine.pendant.is_remote or "popup" in command else LOCAL
        return self._told().get(command, f'could not understand: "{line}"')

    def _told(self) -> dict[str, str]:
        machine, pendant = self._machine, self._machine.pendant
        runs = machine.is_running
        return {
            "polyscopeversion": f"URSoftware {pendant.software} (Jan 01 2024)",
            "get serial number": "20235500001",
            "get robot model": pendant.model,
            "is in remote control": str(pendant.is_remote).lower(),
            "robotmode": f"Robotmode: {pendant.mode}",
            "safetystatus": f"Safetystatus: {pendant.safety}",
            "safetymode": f"Safetymode: {pendant.safety}",
            "running": f"Program running: {str(runs).lower()}",
            "programstate": f"{'PLAYING' if runs else 'STOPPED'} <unnamed>",
            "get loaded program": "No program loaded",
            "isprogramsaved": "false <unnamed>",
            "quit": "Disconnected",
        }

    def _set(self, answer: str, **changes: object) -> str:
        self._machine.set_pendant(replace(self._machine.pendant, **changes))  # type: ignore[arg-type]
        return answer

    def _power_on(self) -> str:
        is_off = self._machine.pendant.mode == "POWER_OFF"
        return self._set("Powering on", power="IDLE") if is_off else "Powering on"

    def _release_brakes(self) -> str:
        return self._set("Brake releasing", power="RUNNING")

    def _unlock(self) -> str:
        if self._machine.pendant.safety == "PROTECTIVE_STOP":
            self._set("", safety="NORMAL")
        return "Protective stop releasing"

    def _restart_safety(self) -> str:
        if self._machine.pendant.safety in ("VIOLATION", "FAULT"):
            self._set("", safety="NORMAL", power="POWER_OFF")
        return "Restarting safety"

    def _stop(self) -> str:
        self._machine.stop_program("stopped at the dashboard")
        return "Stopped"

    def _close_popup(self, answer: str) -> str:
        self._machine.popup = ""
        return answer
