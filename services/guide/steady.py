"""This module keeps an arm's session going while the guide is away: by the last map, with the reports kept for later.

next ── guide answers ──► its draw, and the map beside it
└─ it does not ────► a draw of our own from the last map; tried again at the next episode
report ── kept until the guide takes it, each under an id of its own
"""

import logging
from collections import deque
from collections.abc import Sequence
from uuid import uuid4

import numpy as np

from protos.errors import Unreachable
from protos.schema import Configuration
from protos.space import ConfigurationSpace
from services.guide.client import Episode, GuideClient
from services.guide.schedule import EXPLORE, CellSuccess, choose

log = logging.getLogger(__name__)

LOST_S = 0.5
"""Deadline once there is a map to go on by: an arm that is kept waiting for a second holds and asks its operator."""
KEPT_REPORTS = 256


class SteadyGuide:
    """Draws and reports through a client, and without the guide once it has a map. One thread at a time."""

    def __init__(self, client: GuideClient, space: ConfigurationSpace, *, seed: int) -> None:
        self._client, self._space = client, space
        self._rng = np.random.default_rng(seed)
        self._map: Sequence[CellSuccess] = ()
        self._waiting: deque[tuple[str, Episode]] = deque(maxlen=KEPT_REPORTS)
        self.away = ""
        """The reason why starts come from the last map, in one line; empty while the guide answers."""

    def next(self) -> Configuration:
        """Returns the next initial configuration. Raises Unreachable when the guide has not answered even once."""
        deadline_s = LOST_S if self._map else None
        try:
            self._send(deadline_s)
            start = self._client.draw(deadline_s=deadline_s).configuration
            self._map = self._client.success_map(deadline_s=deadline_s)
        except Unreachable as error:
            if not self._map:
                raise
            self._tell(str(error))
            chosen, _ = choose(self._map, self._rng, EXPLORE)
            return self._space.sample(self._rng, cell=chosen.cell)
        self._tell("")
        return start

    def report(self, result: Episode) -> None:
        """Keeps the result of a real episode until the guide has counted it; the newest ones where they are many."""
        self._waiting.append((uuid4().hex, result))
        try:
            self._send(LOST_S)
        except Unreachable as error:
            self._tell(str(error))

    def _send(self, deadline_s: float | None) -> None:
        while self._waiting:
            report_id, result = self._waiting[0]
            self._client.report(result, report_id=report_id, deadline_s=deadline_s)
            self._waiting.popleft()

    def _tell(self, away: str) -> None:
        if away and not self.away:
            log.warning("%s; starts come from its last map until it is back", away)
        elif self.away and not away:
            log.info("the guide is back")
        self.away = away
