"""This module measures one practice on the arm: when it converged, what help it took, how its success went.

Time to converge is the paper's (arXiv 2602.09023): up to the end of the first run of 10 consecutive successes without
help, counted from the first episode on the arm. Success is that of policies which were tried every few thousand steps
from starts spread over each region.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONVERGED_EPISODES = 10
BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Point:
    """The success of one policy of a practice."""

    steps: int
    """Transitions of the arm that the practice had made."""
    successes: Mapping[str, int]
    """Successes by region."""
    rollouts: int
    """Per region."""

    def share(self, region: str) -> float:
        """Returns the share of successes in a region."""
        return self.successes.get(region, 0) / self.rollouts

    @property
    def mean(self) -> float:
        """Share of successes over all regions."""
        return float(np.mean([self.share(region) for region in self.successes]))


@dataclass(frozen=True, kw_only=True)
class Practice:
    """The measures of one practice."""

    steps: int
    robot_min: float
    """Minutes of the robot's clock."""
    episodes: int
    helped: int
    """Episodes with a takeover."""
    human_steps: int
    converged_steps: int | None
    """Transitions until it converged; None where it never did."""
    converged_min: float | None
    """Minutes of the robot's clock until then."""
    helped_until: int
    """Episodes with a takeover until it converged, or all of them."""


def practice(episodes: Sequence[Mapping[str, Any]]) -> Practice:
    """Returns the measures of a practice's episodes, the lines of its `episodes.jsonl` in their order."""
    end = converged_at(episodes)
    until = episodes if end is None else episodes[: end + 1]
    last = episodes[-1] if episodes else {"total_steps": 0, "robot_s": 0.0}
    return Practice(
        steps=int(last["total_steps"]),
        robot_min=float(last["robot_s"]) / 60,
        episodes=len(episodes),
        helped=_helped(episodes),
        human_steps=sum(int(each["human_steps"]) for each in episodes),
        converged_steps=None if end is None else int(episodes[end]["total_steps"]),
        converged_min=None if end is None else float(episodes[end]["robot_s"]) / 60,
        helped_until=_helped(until),
    )


def converged_at(episodes: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the place of the episode that completes the first run of successes without help; None without one."""
    run = 0
    for place, each in enumerate(episodes):
        run = run + 1 if each["success"] and not each["human_steps"] else 0
        if run == CONVERGED_EPISODES:
            return place
    return None


def dip(points: Sequence[Point]) -> float:
    """Returns by how much the success over all regions falls below its start: 0 … 1."""
    return max(0.0, points[0].mean - min(each.mean for each in points))


def area(points: Sequence[Point], region: str | None = None) -> float:
    """Returns the mean success over the steps of a practice, by trapezes; of all regions or of one."""
    values = [each.mean if region is None else each.share(region) for each in points]
    steps = np.array([each.steps for each in points], float)
    if len(points) < 2 or steps[-1] == steps[0]:
        return values[-1]
    widths = np.diff(steps)
    return float(widths @ (np.array(values[1:]) + np.array(values[:-1])) / 2 / widths.sum())


def median_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """Returns the median of values, one per seed, with its 95 % bootstrap interval.

    A value that was never reached counts as infinite, so a median or an end may be infinite too.
    """
    given: NDArray[np.float64] = np.array(values, float)
    draws = np.random.default_rng(seed).integers(len(given), size=(BOOTSTRAP_DRAWS, len(given)))
    low, high = np.quantile(np.median(given[draws], axis=1), (0.025, 0.975), method="closest_observation")
    return float(np.median(given)), float(low), float(high)


def _helped(episodes: Sequence[Mapping[str, Any]]) -> int:
    return sum(bool(each["human_steps"]) for each in episodes)
