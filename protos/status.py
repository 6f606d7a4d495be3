"""What a process does right now, in a small file that `twinrl status` reads.

Written atomically and at most twice a second; a reader sees a whole file or none.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

MIN_INTERVAL_S = 0.5


class StatusFile:
    """`<name>.status.json`: {"t", "pid", "doing", "waiting_for", "rates"}."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0.0
        self._doing = ""
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, *, doing: str, waiting_for: str = "", **rates: float) -> None:
        """States the current activity; a change of `doing` is written at once, numbers at the interval."""
        now = time.monotonic()
        if doing == self._doing and now - self._written < MIN_INTERVAL_S:
            return
        self._written, self._doing = now, doing
        content = {"t": time.time(), "pid": os.getpid(), "doing": doing, "waiting_for": waiting_for, "rates": rates}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content))
        temporary.replace(self._path)


def read_status(path: Path) -> dict[str, Any] | None:
    """The last status, or None when there is none yet."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
