"""This module reads files again when they change, so that renewed certificates are used without a restart."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from protos.errors import InputError

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_EVERY_S = 1.0


class Reread(Generic[T]):
    """Holds what was read from files; what has changed and cannot be read is logged, and what was there stays."""

    def __init__(self, files: Sequence[Path], read: Callable[[], T]) -> None:
        """Reads at once. Raises InputError for files that cannot be read."""
        self._files, self._read = files, read
        self._lock = threading.Lock()
        self._states, self._value, self.reads = self._look(), read(), 1
        self._next_s = time.monotonic() + LOOK_EVERY_S

    def get(self) -> T:
        """Returns the newest value; looks at the files once a second at most."""
        with self._lock:
            if time.monotonic() >= self._next_s:
                self._next_s = time.monotonic() + LOOK_EVERY_S
                self._follow()
            return self._value

    def _follow(self) -> None:
        states = self._look()
        if states == self._states:
            return
        try:
            self._value = self._read()
        except InputError as error:  # half copied: certificate and key come one after the other
            log.warning("the files from before stay in use: %s", error)
            return
        self._states, self.reads = states, self.reads + 1
        log.info("read again: %s", ", ".join(str(file) for file in self._files))

    def _look(self) -> list[tuple[int, int, int]]:
        return [_state(file) for file in self._files]


def _state(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size
