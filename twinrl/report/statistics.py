"""Rates with their uncertainty, and moving windows."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """`successes` of `trials`."""

    successes: int
    trials: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> "Rate":
        """Counts booleans."""
        counted = list(outcomes)
        return cls(successes=sum(counted), trials=len(counted))

    @property
    def share(self) -> float:
        """The observed share; NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan

    def interval(self) -> tuple[float, float]:
        """Wilson score interval at 95 % (E. B. Wilson, 1927): sound for few trials and for shares near 0 and 1."""
        if not self.trials:
            return 0.0, 1.0
        n, p = self.trials, self.share
        scale = 1 + Z_95**2 / n
        centre = (p + Z_95**2 / (2 * n)) / scale
        half = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2)) / scale
        low = 0.0 if self.successes == 0 else centre - half
        high = 1.0 if self.successes == n else centre + half
        return low, high


def moving_mean(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Mean of the last `window` values at each position; over fewer where there are not that many yet."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
