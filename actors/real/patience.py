"""This module runs calls that have no deadline of their own, and gives up those that take too long.

    run(call) ─► calls ─► thread ─► answers ─► result, error, or Unreachable after the deadline
                            └── kept for the next call; one whose call was given up gets a successor

What was given up stays behind in its thread, which ends when the call does.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from protos.errors import Unreachable
from protos.process import Closing

T = TypeVar("T")
_Answers = queue.SimpleQueue[tuple[Any, RuntimeError | None]]
_Calls = queue.SimpleQueue[tuple[Callable[[], Any], _Answers] | None]


class Patience(Closing):
    """A thread for calls of ur_rtde, one at a time, with one deadline for each."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._calls: _Calls | None = None

    def run(self, what: str, call: Callable[[], T]) -> T:
        """Returns what the call does. Raises Unreachable for a RuntimeError, and after the deadline."""
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._calls,), daemon=True, name="ur_rtde calls").start()
        answers: _Answers = queue.SimpleQueue()
        self._calls.put((call, answers))
        try:
            result, error = answers.get(timeout=self._timeout_s)
        except queue.Empty:
            self.close()
            raise Unreachable(f"{what}: no answer (deadline {self._timeout_s:g} s)") from None
        if error is not None:
            raise Unreachable(f"{what}: {error} (deadline {self._timeout_s:g} s)") from error
        return result

    def close(self) -> None:
        """Lets the thread end once it has nothing more to do; another call starts a new one."""
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None


def _serve(calls: _Calls) -> None:
    """Answers calls until there is none; the body of the thread."""
    while (waiting := calls.get()) is not None:
        call, answers = waiting
        try:
            answers.put((call(), None))
        except RuntimeError as error:
            answers.put((None, error))
