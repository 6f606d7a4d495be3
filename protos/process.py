"""This module starts every process of TwinRL in the same way.

    command line ─tyro─► arguments ─► main(arguments) ─► exit code
                                         │ TwinRLError ─► one line on stderr: "twinrl: <what is wrong and what to do>"
                                         │ Ctrl-C ─────► exit code 130

A supervisor recognises the line and passes it on, whichever child wrote it (`problem_in`).
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Self, TypeVar

from protos.errors import TwinRLError

A = TypeVar("A")
PREFIX = "twinrl: "
SIGNAL_POLL_S = 0.25
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Exit(IntEnum):
    """The exit codes of every TwinRL process; anything else is a bug or a signal."""

    DONE = 0
    PROBLEM = 2
    """A person can mend it; the last line of stderr says how."""
    ARM_STOPPED = 3
    """The arm is stopped and waits for its operator."""
    INTERRUPTED = 130


def run_process(
    kind: Callable[..., A],
    main: Callable[[A], int | None],
    *,
    prog: str | None = None,
    arguments: Sequence[str] | None = None,
    level: int = logging.INFO,
) -> int:
    """Parses the command line into `kind` (a dataclass), runs `main` with it and returns the exit code.

    `prog` is the name that `--help` shows. `main` may return an exit code of its own.
    """
    import tyro  # not before it is needed: `twinrl --help` and the guardian start at once

    logging.basicConfig(level=level, format=LOG_FORMAT)
    try:
        parsed = tyro.cli(kind, args=arguments, prog=prog, config=(tyro.conf.UseAppendAction,))
        return int(main(parsed) or Exit.DONE)
    except TwinRLError as error:
        tell_problem(str(error))
        return Exit.PROBLEM
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


class StopEvent(threading.Event):
    """An event that a signal handler sets while the main thread waits for it.

    Python runs a handler between two instructions of the main thread: a signal that arrives in the instant before a
    wait begins is handled when that wait ends. Hence no single wait is long.
    """

    def wait(self, timeout: float | None = None) -> bool:
        """Returns True once the event is set, False after `timeout` seconds without that."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left_s = SIGNAL_POLL_S if deadline is None else min(deadline - time.monotonic(), SIGNAL_POLL_S)
            if left_s <= 0:
                return False
            super().wait(left_s)
        return True


def stop_on_signal() -> StopEvent:
    """Returns an event that SIGINT and SIGTERM set from now on. Call it in the main thread."""
    stop = StopEvent()
    on_signal(stop.set)
    return stop


def interrupt_on_signal() -> None:
    """Lets SIGINT and SIGTERM raise KeyboardInterrupt from now on.

    A background job of a shell starts with SIGINT ignored, and SIGTERM would otherwise end the process at once.
    """

    def interrupt() -> None:
        raise KeyboardInterrupt

    on_signal(interrupt)


def on_signal(action: Callable[[], None]) -> None:
    """Calls `action` on SIGINT and SIGTERM from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: action())


@contextmanager
def interruptible(notice: str) -> Iterator[StopEvent]:
    """Yields an event that the first SIGINT or SIGTERM sets, with `notice` on stderr; a second one acts as before."""
    stop = StopEvent()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def interrupt() -> None:
        stop.set()
        restore()
        sys.stderr.write(f"\n{notice}\n")

    on_signal(interrupt)
    try:
        yield stop
    finally:
        restore()


def tell_problem(text: str) -> None:
    """Writes one line to stderr, in the form that `problem_in` finds."""
    sys.stderr.write(f"{PREFIX}{' '.join(text.splitlines())}\n")
    sys.stderr.flush()


def problem_in(log: str) -> str | None:
    """The problem that a process told in the last line of its log; None when it told none."""
    last = log.rstrip("\n").rpartition("\n")[2]
    return last.removeprefix(PREFIX) if last.startswith(PREFIX) else None


class Closing:
    """A base of objects with a `close` method: leaving a `with` block closes them."""

    def close(self) -> None:
        """Gives back what the object holds."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
