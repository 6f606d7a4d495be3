"""This module starts every process of TwinRL in the same way.

    command line ─tyro─► arguments ─► main(arguments) ─► exit code
                                         │ TwinRLError ─► one line on stderr: "twinrl: <what is wrong and what to do>"
                                         │ OSError ─────► the same, of what the system refused (`protos.problems`)
                                         │ Ctrl-C ──────► exit code 130
                                         └ anything else is a bug and shows its traceback

A supervisor recognises the line and passes it on, whichever child wrote it (`problem_in`); it gives each child a pipe
for it, since a log on a full disk cannot hold it. The traceback behind a line goes to a child's log, and to whoever
runs `python -X dev`.
"""

import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from typing import Self, TypeVar

from protos.errors import TwinRLError
from protos.problems import doing, problem_of

log = logging.getLogger(__name__)

A = TypeVar("A")
PREFIX = "twinrl: "
PROBLEM_PIPE = "TWINRL_PROBLEM_PIPE"
"""Environment variable with descriptor and inode of the pipe to the supervisor, as "7:4711"."""
MAX_PROBLEM_BYTES = 4_096
"""A pipe takes so much in one piece."""
LONGEST_PROBLEM = 1_000
"""Characters of a problem that are shown: a wrong value in a file may be as long as the file."""
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

    def parse_and_run() -> int:
        parsed = tyro.cli(kind, args=arguments, prog=prog, config=(tyro.conf.UseAppendAction,))
        return int(main(parsed) or Exit.DONE)

    return exit_code_of(parse_and_run)


def exit_code_of(command: Callable[[], int]) -> int:
    """Runs a command to its exit code; tells the problem that ended it in one line."""
    try:
        code = command()
        with doing("writing the output"):
            sys.stdout.flush()
        return code
    except (TwinRLError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():  # `twinrl status | head` has what it wanted
            _drop_output()
            return Exit.DONE
        return _told(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _told(error: TwinRLError | OSError) -> Exit:
    if sys.flags.dev_mode or (PROBLEM_PIPE in os.environ and not isinstance(error, TwinRLError)):
        log.error("ended by %s", type(error).__name__, exc_info=error)
    tell_problem(problem_of(error))
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    return Exit.PROBLEM


def _reader_is_gone() -> bool:
    """Tells whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _drop_output() -> None:
    """Lets Python's own flush at exit succeed; it would print a traceback and change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def interrupt_on_signal(*, hangup: bool = False) -> None:
    """Lets SIGINT and SIGTERM raise KeyboardInterrupt from now on; with `hangup` the first SIGHUP does too.

    A background job of a shell starts with SIGINT ignored, and SIGTERM would otherwise end the process at once. With
    `hangup` a lost terminal counts even under nohup.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def hang_up(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # shell and kernel both tell of one lost terminal
        raise KeyboardInterrupt

    on_signal(interrupt)
    if hangup:
        signal.signal(signal.SIGHUP, hang_up)


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
    """Writes one line to stderr, in the form that `problem_in` finds, and to the supervisor if there is one.

    Of a long text its ends are told.
    """
    text = " ".join(text.splitlines())
    if len(text) > LONGEST_PROBLEM:
        text = f"{text[: LONGEST_PROBLEM // 2]} … {text[-LONGEST_PROBLEM // 2 :]}"
    line = f"{PREFIX}{text}\n"
    with suppress(OSError, ValueError):
        descriptor, inode = map(int, os.environ.get(PROBLEM_PIPE, "").split(":"))
        if os.fstat(descriptor).st_ino == inode:  # else it was closed on the way from the supervisor to here
            os.write(descriptor, line.encode(errors="replace")[:MAX_PROBLEM_BYTES])
    with suppress(OSError):  # on a full disk, at a lost terminal
        sys.stderr.write(line)
        sys.stderr.flush()


class ProblemPipe:
    """The way of a child's problem to its supervisor, which no full disk blocks.

    Start the child in `writing()`, with `environment` and the descriptor `writer`; `read` once when it has ended.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.environment = {PROBLEM_PIPE: f"{self.writer}:{os.fstat(self.writer).st_ino}"}
        self.told = ""
        """The problem that was read."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Leaves the writing end to the child alone."""
        try:
            yield
        except BaseException:
            os.close(self._reader)
            self._reader = -1
            raise
        finally:
            os.close(self.writer)

    def read(self) -> None:
        """Reads what the child told, and closes the pipe."""
        if self._reader < 0:
            return
        with suppress(BlockingIOError):
            self.told = problem_in(os.read(self._reader, MAX_PROBLEM_BYTES).decode(errors="replace")) or ""
        os.close(self._reader)
        self._reader = -1


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
