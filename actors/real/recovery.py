"""This module brings an arm's session through a stop: it says what to do, waits until that is done, and connects anew.

    ArmStopped ─► cause and remedy: at the terminal, in the status ─► the arm is held, its connections are closed
                        ┌───────────── every second, until all is well ─────────────┐
                        └─► ports, dashboard ─► cameras ─► gripper ─► arm's driver ─┴─► the next reset asks for "go"

Nothing moves before that "go". Ctrl-C ends the session, as at any other time.
"""

import logging
import math
import time

from actors.real.robot import Robot
from actors.real.settings import ConsoleLab
from actors.real.table.terminal import Terminal
from protos.errors import ArmStopped, InputError, Unreachable
from protos.status import StatusFile

log = logging.getLogger(__name__)
TRY_EVERY_S = 1.0
"""Time between two tries to connect."""
WHAT_NOW = (
    "This attempt counts neither as a success nor as a failure. Nothing moves; once the cause is gone you are asked. "
    "Ctrl-C: end."
)


class Recovery:
    """Waits at the stops of one arm. At a console that has no end; at the stand-in nobody may be there to mend it."""

    def __init__(self, robot: Robot) -> None:
        self._robot, self._status = robot, StatusFile()
        lab = robot.settings.lab
        self._terminal = Terminal() if isinstance(lab, ConsoleLab) else None
        self._patience_s = math.inf if isinstance(lab, ConsoleLab) else lab.mended_within_s

    def mended(self, stop: ArmStopped) -> bool:
        """Returns True once the arm is connected anew, False when that took too long."""
        self._tell(told := str(stop))
        self._say(WHAT_NOW)
        deadline = time.monotonic() + self._patience_s
        self._robot.environment.hold(f"stopped: {stop}")
        self._robot.disconnect()
        while True:
            self._status.write(doing=f"STOPPED: {told}")
            try:
                self._robot.reconnect()
            except (ArmStopped, InputError, Unreachable) as error:
                if str(error) != told:
                    self._tell(told := str(error))
            else:
                self._say("The cause of the stop is gone; the arm is connected anew.")
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(TRY_EVERY_S)

    def _tell(self, why: str) -> None:
        self._status.write(doing=f"STOPPED: {why}")
        log.warning("STOPPED: %s", why)
        self._say(f"\nSTOPPED: {why}.")

    def _say(self, text: str) -> None:
        if self._terminal is not None:
            self._terminal.say(text)
