"""This module asks for what hands and eyes do at the table: placing the objects, judging if the task is solved.

LabHands       the stand-in's lab does both at once
ConsoleHands   an operator at this terminal does
"""

import logging
import select
import sys
from typing import Protocol, TextIO

from actors.lab import LabClient
from protos.errors import ArmStopped, InputError
from protos.schema import Configuration
from twin.tasks import TOOL

log = logging.getLogger(__name__)


class Hands(Protocol):
    """The person at the table."""

    def place(self, configuration: Configuration) -> None:
        """Returns when the objects stand where the configuration says and nobody is within the arm's reach."""
        ...

    def judge(self) -> bool:
        """Returns True if the task is solved at this moment; does not wait."""
        ...

    def free(self, reason: str) -> None:
        """Returns once a person has freed the tool and wants to go on; the arm has stopped itself for `reason`."""
        ...

    def go_on(self, reason: str) -> None:
        """Returns once a person wants the arm to move on; it stands for `reason`."""
        ...


class LabHands:
    """Places and judges through the stand-in's lab protocol."""

    def __init__(self, lab: LabClient) -> None:
        self._lab = lab

    def place(self, configuration: Configuration) -> None:
        self._lab.place(configuration)

    def judge(self) -> bool:
        return self._lab.success()

    def free(self, reason: str) -> None:
        """Logs the reason: holding where it stands is enough to free the stand-in's tool."""
        log.warning("scripted operator: the arm stopped itself (%s); freed, going on", reason)

    def go_on(self, reason: str) -> None:
        """Logs the reason: the stand-in hurts nobody."""
        log.info("scripted operator: go on (%s)", reason)


class ConsoleHands:
    """Asks the operator at the terminal. Enter during an episode says that the task is solved."""

    def __init__(self, answers: TextIO = sys.stdin, screen: TextIO = sys.stdout) -> None:
        self._answers, self._screen = answers, screen
        self._is_done = False

    def place(self, configuration: Configuration) -> None:
        self._is_done = False
        for name, (x, y, _, yaw) in configuration.poses.items():
            if name != TOOL:
                self._say(f"  {name}: x = {x * 100:.1f} cm, y = {y * 100:.1f} cm, turned {yaw * 57.3:.0f} degrees")
        self._say("Place the objects (base frame), leave the arm's reach, press Enter.")
        if not self._answers.readline():
            raise InputError("the terminal is closed: nobody can place the objects")
        self._say("The arm moves. Enter: the task is solved. Ctrl-C: hold.")

    def judge(self) -> bool:
        if not self._is_done and select.select([self._answers], [], [], 0)[0]:
            self._is_done = bool(self._answers.readline())
        return self._is_done

    def free(self, reason: str) -> None:
        self._say(f"THE ARM STOPPED ITSELF: {reason}.\nFree the tool, leave the arm's reach, press Enter to go on.")
        if not self._answers.readline():
            raise ArmStopped(f"{reason}; the terminal is closed, nobody can free the tool")

    def go_on(self, reason: str) -> None:
        self._say(f"The arm waits: {reason}.\nLeave the arm's reach, press Enter and it moves.")
        if not self._answers.readline():
            raise ArmStopped(f"{reason}; the terminal is closed, nobody can say that the arm may move")

    def _say(self, text: str) -> None:
        self._screen.write(text + "\n")
        self._screen.flush()
