"""A scanning twin tries cell after cell with the newest weights, without exploration; the results go to the guide.

    ScanGuide.wait ─► guide: next_scan ─► episodes, slot by slot ─► guide: report (cell, outcome, version, steps)
        ▲                                     │ no cell is due: the slots run out
        └─────────────────────────────────────┘

Its episodes go to no buffer: a policy must not learn from its examination. While the guide is away there is nobody to
scan for, so it waits; a result that cannot be reported is dropped, and the cell tried again in the next pass.
"""

import logging
import threading

from actors.interfaces import EpisodeResult
from protos.errors import Unreachable
from protos.schema import Configuration, Outcome
from services.guide import GuideClient

log = logging.getLogger(__name__)

POLL_S = 1.0
"""Pause between two questions whether a cell is due."""


class ScanGuide:
    """The guide of scanning twins, over a client of the guide service. Safe to call from several threads."""

    def __init__(self, client: GuideClient) -> None:
        self._client = client
        self._ahead: Configuration | None = None
        self._lock = threading.Lock()
        self.waits_for = ""
        """The reason why no start is to be had, in one line; empty while there is one."""
        self.scans = self.successes = self.steps = 0

    def wait(self, stop: threading.Event) -> bool:
        """Returns True once a cell is due, False when told to stop first."""
        while not stop.is_set():
            start = self._ask()
            if start is not None:
                self._ahead = start
                return True
            stop.wait(POLL_S)
        return False

    def next(self) -> Configuration | None:
        """Returns the next start; None while no cell is due, and while the guide is away."""
        with self._lock:
            ahead, self._ahead = self._ahead, None
        return ahead if ahead is not None else self._ask()

    def report(self, result: EpisodeResult) -> None:
        """Reports a result, and counts those that arrived."""
        try:
            self._client.report(result, twin=True)
        except Unreachable as error:
            log.warning("the result of a scan is lost: %s", error)
            return
        with self._lock:
            self.scans += 1
            self.successes += result.outcome is Outcome.SUCCESS
            self.steps += result.steps

    def _ask(self) -> Configuration | None:
        try:
            start = self._client.next_scan()
        except Unreachable as error:
            self.waits_for = str(error)
            return None
        self.waits_for = "" if start is not None else "learner: versions that no cell was tried with"
        return start
