"""Trying a policy from a list of starts: the guide, the missing sink, and the lines that are kept of each episode."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actors.interfaces import EpisodeResult
from protos.episode import Segment
from protos.schema import Configuration, Outcome


class ListGuide:
    """A fixed list of configurations; keeps the results, in order of finishing."""

    def __init__(self, configurations: Iterable[Configuration]) -> None:
        self._left = list(configurations)[::-1]
        self.results: list[EpisodeResult] = []

    def next(self) -> Configuration | None:
        return self._left.pop() if self._left else None

    def report(self, result: EpisodeResult) -> None:
        self.results.append(result)


class NoSink:
    """Evaluation leaves no transitions behind."""

    def add(self, segment: Segment) -> None:
        """Dropped on purpose: a policy must not learn from its exam."""


def result_line(result: EpisodeResult, manipulated: str) -> dict[str, Any]:
    """One episode as the run folder keeps it."""
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
    """Results as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(result_line(result, manipulated)) + "\n" for result in results))
