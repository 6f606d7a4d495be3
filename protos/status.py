"""This module keeps the status of a long-running process in one small file, which `twinrl status` reads.

    process ── StatusFile.write ──► logs/<process>.status.json ──► read_status ──► twinrl status

    {"t": 1763640000.0, "pid": 4711, "doing": "twin RL", "waiting_for": "", "rates": {"updates/s": 41.0}}

The file is replaced in one step, so a reader never sees half of it.
"""

import json
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from protos.problems import problem_of

log = logging.getLogger(__name__)

STATUS_VARIABLE = "TWINRL_STATUS_FILE"
"""Environment variable with the status file of a process, set by the supervisor that starts it."""
WRITE_INTERVAL_S = 0.5
AFTER_FAILURE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Status:
    """A status says what a process does, and for whom it waits."""

    t: float
    """Unix seconds of the writing."""
    pid: int
    doing: str
    waiting_for: str
    """Process that it waits for, and why ("learner: allowance of the twin buffer"); empty when it works."""
    rates: dict[str, float] = field(default_factory=dict)


class StatusFile:
    """A status file is written at most twice a second; call `write` in every turn of a loop, also while waiting.

    Without a path the file is the one named by `TWINRL_STATUS_FILE`; where that is not set nothing is written. A change
    of `doing` is written at once, so counters belong into `rates`.
    """

    def __init__(self, path: Path | None = None) -> None:
        named = os.environ.get(STATUS_VARIABLE, "")
        self.path = path if path is not None else (Path(named) if named else None)
        self._next = 0.0
        self._doing = ""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, *, doing: str, waiting_for: str = "", **rates: float) -> None:
        """Replaces the file, or does nothing when it said the same less than half a second ago."""
        now = time.monotonic()
        if self.path is None or (doing == self._doing and now < self._next):
            return
        self._next, self._doing = now + WRITE_INTERVAL_S, doing
        entry = {"t": time.time(), "pid": os.getpid(), "doing": doing, "waiting_for": waiting_for, "rates": rates}
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            partial.write_text(json.dumps(entry))
            partial.replace(self.path)
        except OSError as error:  # a display of the work does not end it
            log.warning("no status is shown: %s", problem_of(error))
            self._next = now + AFTER_FAILURE_S


def read_status(path: Path) -> Status | None:
    """Reads the file; returns None when it is missing or not a status file."""
    try:
        entry = json.loads(path.read_text())
        return Status(
            t=float(entry["t"]),
            pid=int(entry["pid"]),
            doing=str(entry["doing"]),
            waiting_for=str(entry["waiting_for"]),
            rates={str(name): float(value) for name, value in entry["rates"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def duration(seconds: float) -> str:
    """Formats a span of time as 0:07, 12:40 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
