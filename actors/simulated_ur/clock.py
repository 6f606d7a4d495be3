"""Robot time: real time while nobody commands, ahead of the wall clock while servo commands are executed.

    wall   ──────── thinking 8 ms ────────┬ servoL(…, t=0.02) takes 1 ms ┬── thinking …
    robot  ──────── + 8 ms ───────────────┴ + 20 ms ─────────────────────┴──

A grant is robot time that a command asks for: the controller simulates it at once, as fast as it can. A driver that
paces itself on the robot's own clock, as it does with a real arm, then runs as fast as the simulation, while the time
that it spends thinking still passes on the robot. With `fast=False` grants are ignored: robot time is real time.
"""

import time
from collections.abc import Callable

STALL_S = 0.1
"""A longer gap between two ticks is a stall of this computer; the robot does not make up for it with a leap."""


class RobotClock:
    """Advances the controller by calling `advance(seconds)`."""

    def __init__(
        self, advance: Callable[[float], None], *, fast: bool, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._advance, self._now = advance, now
        self.fast = fast
        self._mark = now()

    def catch_up(self) -> None:
        """Lets the real time pass that went by since the last call or grant."""
        now = self._now()
        elapsed, self._mark = now - self._mark, now
        self._advance(min(elapsed, STALL_S))

    def grant(self, seconds: float) -> None:
        """Lets `seconds` of robot time pass at once (with `fast`); what that takes on the wall does not count."""
        if self.fast:
            self._advance(seconds)
            self._mark = self._now()
