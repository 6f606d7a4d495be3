"""This module holds the guides that need no service, and the lines that are kept of the episodes' results.

ListGuide       a fixed list of starts
RandomGuide     random starts of a task's space
ReportedGuide   another guide whose results are written down
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from actors.interfaces import EpisodeResult, Guide
from protos.files import JsonLines, write_durably
from protos.schema import Configuration, Outcome
from protos.space import ConfigurationSpace


class ListGuide:
    """Gives the starts of a list; keeps the results, in order of finishing."""

    def __init__(self, configurations: Iterable[Configuration]) -> None:
        self._left = list(configurations)[::-1]
        self.results: list[EpisodeResult] = []

    def next(self) -> Configuration | None:
        """Returns the next start of the list, None at its end."""
        return self._left.pop() if self._left else None

    def report(self, result: EpisodeResult) -> None:
        """Keeps the result."""
        self.results.append(result)


class RandomGuide:
    """Gives starts drawn uniformly from one region, or from all regions alike, until `enough()` is true."""

    def __init__(
        self,
        space: ConfigurationSpace,
        seed: int,
        *,
        region: str | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        self._space, self._region, self._enough = space, region, enough
        self._rng = np.random.default_rng(seed)

    def next(self) -> Configuration | None:
        """Returns a random start, None once there are enough."""
        return None if self._enough() else self._space.sample(self._rng, region=self._region)

    def report(self, result: EpisodeResult) -> None:
        """Ignores the result: starts do not depend on outcomes."""


class ReportedGuide:
    """Passes on another guide's starts and writes one line per result; ends when `enough()` is true."""

    def __init__(
        self,
        guide: Guide,
        lines: JsonLines,
        describe: Callable[[EpisodeResult], dict[str, Any]],
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        self._guide, self._lines, self._describe, self._enough = guide, lines, describe, enough

    def next(self) -> Configuration | None:
        """Returns the other guide's next start, None once there are enough."""
        return None if self._enough() else self._guide.next()

    def report(self, result: EpisodeResult) -> None:
        """Writes a line and passes the result on."""
        self._lines.write(self._describe(result))
        self._guide.report(result)


def result_line(result: EpisodeResult, manipulated: str) -> dict[str, Any]:
    """Returns one episode as a run folder keeps it; x and y are the start of the body `manipulated` [m]."""
    x, y = result.configuration.poses[manipulated][:2]
    return {
        "region": result.configuration.region,
        "cell": result.configuration.cell,
        "x": x,
        "y": y,
        "outcome": result.outcome.value,
        "success": result.outcome is Outcome.SUCCESS,
        "steps": result.steps,
        "human_steps": result.human_steps,
        "interventions": result.interventions,
        "version": result.version,
    }


def write_lines(path: Path, results: Iterable[EpisodeResult], manipulated: str) -> None:
    """Writes results as JSON lines."""
    write_durably(path, (json.dumps(result_line(result, manipulated)).encode() + b"\n" for result in results))
