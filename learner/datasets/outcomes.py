"""This module decides how a recorded episode ended, for every format the same.

success flags ─► any: success, none: no success     ┐
rewards ───────► a sparse one above 0: success      ├─► else what the flags of its end say: failure or timeout
neither ───────► what the settings say, or unknown  ┘
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.schema import F32, Outcome

IMITATED = "success,unknown"
"""Outcomes of the episodes that a policy imitates unless a person chooses others."""
ALL = "all"


def named_outcomes(text: str) -> frozenset[Outcome]:
    """Returns the outcomes that a text names, as "success,unknown" or "all" do. Raises InputError for another word."""
    words = [word.strip() for word in text.split(",")]
    if words == [ALL]:
        return frozenset(Outcome)
    valid = {outcome.value: outcome for outcome in Outcome}
    for word in words:
        if word not in valid:
            raise InputError(f"outcomes={text!r}: {word!r} is none of {', '.join(valid)}; or {ALL} by itself")
    return frozenset(valid[word] for word in words)


def counted(outcomes: Mapping[str, int]) -> str:
    """Returns how many episodes have each outcome, as "failure 3, timeout 1"; empty for none."""
    return ", ".join(f"{outcome} {count}" for outcome, count in outcomes.items())


def outcome_of(
    *,
    success: NDArray[np.bool_] | None = None,
    reward: NDArray[np.floating] | None = None,
    end: Outcome = Outcome.UNKNOWN,
    success_reward: float | None = None,
    unsaid: Outcome | None = None,
) -> Outcome:
    """Returns the outcome of an episode with these success flags (T,) and rewards (T,); None: the data have none.

    `end` is what the flags of the episode's end make of one without success: FAILURE, TIMEOUT, or UNKNOWN
    where there are none. An episode succeeds by its reward where any step's reaches `success_reward`, by default
    where any is above 0: a demonstration may go on for a while after its success. Rewards that are above 0 with
    several values are shaped, as a distance to the goal is, and decide nothing without `success_reward`. `unsaid` is
    the outcome where nothing decides.
    """
    if success is not None:
        if success.any():
            return Outcome.SUCCESS
        return Outcome.FAILURE if end is Outcome.UNKNOWN else end
    found = Outcome.UNKNOWN
    if reward is not None:
        found = _by_reward(reward, end, success_reward)
    return unsaid if found is Outcome.UNKNOWN and unsaid is not None else found


def _by_reward(reward: NDArray[np.floating], end: Outcome, success_reward: float | None) -> Outcome:
    if success_reward is not None:
        succeeded = bool((reward >= success_reward).any())
        return Outcome.SUCCESS if succeeded else Outcome.FAILURE if end is Outcome.UNKNOWN else end
    levels = np.unique(reward[reward > 0])
    if not len(levels):
        return end
    return Outcome.SUCCESS if len(levels) == 1 else Outcome.UNKNOWN


def reward_of(outcome: Outcome, steps: int) -> F32:
    """Returns rewards (T,) where the data have none: 1 for the last step of a success, else 0."""
    reward = np.zeros(steps, np.float32)
    reward[-1:] = outcome is Outcome.SUCCESS
    return reward
