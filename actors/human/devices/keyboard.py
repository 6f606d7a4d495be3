"""This module reads keys of a terminal, which tells presses and repeats of a key and never its release.

    arrows   right, away      PgUp PgDn   up, down     [ ]   turn     space   stand still, and go on acting
    g        the fingers open or close                 b     give back
    s f d r p and Enter       success, failure, discard, rerecord, pause

A key moves the arm for one reading; held, it repeats. Its person acts until no key came for `LAPSE_S`, which is longer
than the pause before a key repeats: so the deadman is a finger that keeps pressing. Letters that judge need Enter, so
that a slip of the finger judges nothing. In a question the terminal works in lines again (`in_lines`).
"""

import contextlib
import os
import select
import termios
import time
from collections.abc import Callable, Iterator

import numpy as np

from actors.human.devices.reading import Button, Reading
from protos.process import Closing
from protos.schema import F64

LAPSE_S = 0.7
MOVES: dict[bytes, tuple[int, float]] = {
    b"\x1b[C": (0, 1.0),
    b"\x1b[D": (0, -1.0),
    b"\x1b[A": (1, 1.0),
    b"\x1b[B": (1, -1.0),
    b"\x1b[5~": (2, 1.0),
    b"\x1b[6~": (2, -1.0),
    b"[": (5, 1.0),
    b"]": (5, -1.0),
}
"""Bytes of a key -> the axis that it moves, and the way."""
STAY, FINGERS, GIVE_BACK = b" ", b"g", b"b"
WORDS = {
    "s": Button.SUCCESS,
    "f": Button.FAILURE,
    "d": Button.DISCARD,
    "r": Button.RERECORD,
    "p": Button.PAUSE,
}
LONGEST_KEY = 4
HELP = """\
Keyboard: arrows right and away, PgUp PgDn up and down, [ ] turn; space: stand still; g: the fingers open or close.
Without a key for a moment, or with b, you act no more.
With Enter: s success, f failure, d discard, r rerecord, p pause."""


class Keyboard(Closing):
    """Satisfies `Device`. Between two readings the terminal may be used otherwise."""

    name, help, is_terminal = "keyboard", HELP, True

    def __init__(self, descriptor: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the descriptor to read; standard input by default."""
        self._input, self._clock = descriptor, clock
        self._before = termios.tcgetattr(descriptor) if os.isatty(descriptor) else None
        self._rest, self._word = b"", ""
        self._t = -np.inf
        self._trouble = ""

    def read(self) -> Reading:
        axes, pressed = np.zeros(6), list[Button]()
        if not self._trouble:
            self._take(self._typed(), axes, pressed)
        now = self._clock()
        is_acting = not self._trouble and now - self._t <= LAPSE_S
        moved = axes if is_acting else np.zeros(6)
        return Reading(t=self._t, axes=moved, deadman=is_acting, pressed=tuple(pressed), trouble=self._trouble)

    def close(self) -> None:
        """Gives the terminal back as it was."""
        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._input, termios.TCSANOW, self._before)

    def _typed(self) -> bytes:
        """Returns what was typed since the last reading, key by key and not echoed."""
        typed = self._rest
        try:
            if self._before is not None:
                _set_flags(self._input, on=0, off=termios.ICANON | termios.ECHO)
            while select.select([self._input], [], [], 0.0)[0]:
                if not (more := os.read(self._input, 4096)):
                    raise OSError("end of input")
                typed += more
        except (OSError, termios.error) as error:
            self._trouble = f"the terminal is closed ({error})"
        self._rest = b""
        return typed

    def _take(self, typed: bytes, axes: F64, pressed: list[Button]) -> None:
        while typed:
            key = next((key for key in MOVES if typed.startswith(key)), typed[:1])
            if key == b"\x1b" and len(typed) < LONGEST_KEY and any(move.startswith(typed) for move in MOVES):
                self._rest = typed  # the other half of a key is still to come
                return
            typed = typed[len(key) :]
            self._press(key, axes, pressed)

    def _press(self, key: bytes, axes: F64, pressed: list[Button]) -> None:
        word, self._word = self._word, ""
        if key in MOVES:
            axis, way = MOVES[key]
            axes[axis] = way
            self._t = self._clock()
        elif key in (STAY, FINGERS):
            self._t = self._clock()
            if key == FINGERS:
                pressed.append(Button.GRIPPER)
        elif key == GIVE_BACK:
            self._t = -np.inf
            axes[:] = 0.0
        elif key in (b"\n", b"\r"):
            if (button := WORDS.get(word)) is not None:
                pressed.append(button)
        else:
            self._word = key.decode(errors="replace").lower()


@contextlib.contextmanager
def in_lines(descriptor: int) -> Iterator[None]:
    """Lets a terminal hand out whole lines and echo them, as for a question; afterwards it is as it was before."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    _set_flags(descriptor, on=termios.ICANON | termios.ECHO, off=0)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _set_flags(descriptor: int, *, on: int, off: int) -> None:
    now = termios.tcgetattr(descriptor)
    wanted = now[3] & ~off | on
    if wanted != now[3]:
        termios.tcsetattr(descriptor, termios.TCSANOW, [*now[:3], wanted, *now[4:]])
