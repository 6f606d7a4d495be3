"""CPU seconds and wall time of everything that a block starts, also of processes that nobody waits for, as Ray's."""

import contextlib
import threading
import time
from types import TracebackType
from typing import Self

import psutil

SAMPLE_S = 0.5


class Meter:
    """User and system time of this process's descendants, each as last seen; a context manager.

    What a process does between its last sample and its end is missing: at most `SAMPLE_S` per process.
    """

    def __init__(self) -> None:
        self._seen: dict[psutil.Process, float] = {}
        self._before: dict[psutil.Process, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-meter", daemon=True)
        self._started = time.monotonic()
        self.wall_s = 0.0

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far, without what was used before the block."""
        return sum(spent - self._before.get(process, 0.0) for process, spent in self._seen.items())

    def __enter__(self) -> Self:
        self._sample()
        self._before = self._seen.copy()
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()
        self.wall_s = time.monotonic() - self._started

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                spent = process.cpu_times()
                self._seen[process] = spent.user + spent.system
