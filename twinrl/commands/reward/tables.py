"""This module writes what `twinrl reward` says of a classifier: its guard, and its verdicts beside the outcomes."""

from collections.abc import Iterable

from learner.reward import Verdict
from policy.reward import Guard
from protos.schema import Outcome
from twinrl.report.inputs import Rate


def described(guard: Guard) -> str:
    """Returns a guard in one line for a person to read."""
    spans = (
        f"{axis} {100 * low:+.1f} to {100 * high:+.1f}"
        for axis, low, high in zip("xyz", guard.low, guard.high, strict=True)
    )
    fingers = {True: "told to open", False: "told to close", None: "either way"}[guard.opens]
    return f"tool from the target's start {', '.join(spans)} cm; gripper {fingers}"


def summary(verdicts: Iterable[tuple[Outcome, Verdict]]) -> str:
    """Returns shares beside their counts and Wilson 95 % intervals."""
    found = list(verdicts)
    solved = [verdict for outcome, verdict in found if outcome is Outcome.SUCCESS]
    counts = (
        ("agree with the outcome", Rate.of(verdict == "agrees" for _, verdict in found)),
        ("false successes", Rate.of(verdict == "false success" for _, verdict in found)),
        ("successes missed", Rate.of(verdict == "missed" for verdict in solved)),
    )
    lines = []
    for name, rate in counts:
        low, high = (100 * bound for bound in rate.interval())
        lines.append(f"    {name:<24} {rate.successes:>4} of {rate.trials:<4} {low:5.1f} to {high:5.1f} %\n")
    return "".join(lines)
