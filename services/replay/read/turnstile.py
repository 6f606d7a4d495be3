"""A lock that lets whoever waits go next."""

import threading
from types import TracebackType


class Turnstile:
    """A thread that takes the lock again and again does not keep another from it, as it would with a plain lock."""

    def __init__(self) -> None:
        self._inside, self._entrance = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._entrance:
            self._inside.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside.release()
