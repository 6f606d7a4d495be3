"""The dashboard server: one line in, one line out; what an operator does at the teach pendant.

Source: Universal Robots, "Dashboard Server e-Series", port 29999.
"""

import asyncio
import logging
from typing import Protocol

log = logging.getLogger(__name__)

PORT = 29999
GREETING = "Connected: Universal Robots Dashboard Server"


class Pendant(Protocol):
    """What the dashboard needs of the controller."""

    @property
    def is_stopped(self) -> bool: ...
    def unlock(self) -> None: ...
    def stop_program(self, why: str) -> None: ...


class Dashboard:
    """Answers the commands that a driver of the arm uses; anything else is "could not understand", as on the robot."""

    def __init__(self, pendant: Pendant) -> None:
        self._pendant = pendant

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(f"{GREETING}\n".encode())
            while line := await reader.readline():
                writer.write(f"{self.answer(line.decode('ascii', 'replace').strip().lower())}\n".encode())
                await writer.drain()
        except ConnectionError:
            log.debug("dashboard client went away")
        finally:
            writer.close()

    def answer(self, command: str) -> str:
        """The robot's answer to one command."""
        stopped = self._pendant.is_stopped
        if command == "unlock protective stop":
            self._pendant.unlock()
        elif command == "stop":
            self._pendant.stop_program("dashboard")
        answers = {
            "polyscopeversion": "URSoftware 5.15.0.0 (Jan 01 2024)",
            "get serial number": "20235500001",
            "get robot model": "UR5",
            "is in remote control": "true",
            "robotmode": "Robotmode: RUNNING",
            "safetystatus": f"Safetystatus: {'PROTECTIVE_STOP' if stopped else 'NORMAL'}",
            "unlock protective stop": "Protective stop releasing",
            "close safety popup": "closing safety popup",
            "stop": "Stopped",
            "quit": "Disconnected",
        }
        return answers.get(command, f'could not understand: "{command}"')
