"""Returns of one episode of T steps: n-step sums, bootstrap discounts, Monte Carlo.

A terminated episode (success or failure) has no value after its end; a truncated one (time is up, or its end never
arrived) bootstraps from its last observation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos.schema import F32


@dataclass(frozen=True, kw_only=True, slots=True)
class NStep:
    """For step t, with k = min(n, T - t): Σ_{j<k} γ^j r_{t+j}, and what to multiply the value k steps ahead with."""

    reward: F32  # (T,)
    discount: F32  # (T,) γ^k; 0 where step t + k is the end of a terminated episode
    ahead: NDArray[np.int32]  # (T,) k


def n_step(reward: F32, *, terminated: bool, gamma: float, n: int) -> NStep:
    """Sutton & Barto, Reinforcement Learning, 2nd edition, equation 7.1, cut off at the end of the episode."""
    steps = len(reward)
    ahead = np.minimum(n, steps - np.arange(steps))
    total = np.zeros(steps)
    for j in range(min(n, steps)):
        total[: steps - j] += gamma**j * reward[j:]
    discount = gamma ** ahead.astype(float)
    if terminated:
        discount[np.arange(steps) + ahead == steps] = 0.0
    return NStep(reward=total.astype(np.float32), discount=discount.astype(np.float32), ahead=ahead.astype(np.int32))


def monte_carlo(reward: F32, gamma: float) -> F32:
    """Σ_{j≥0} γ^j r_{t+j} to the last known step, (T,): the reference value of Cal-QL (arXiv 2303.05479, section 4)."""
    total, returns = 0.0, np.zeros(len(reward), np.float32)
    for t in range(len(reward) - 1, -1, -1):
        total = float(reward[t]) + gamma * total
        returns[t] = total
    return returns
