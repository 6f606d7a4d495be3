"""Factors of learning rates."""

import math


def late_decay(progress: float, *, floor: float = 0.1) -> float:
    """1 in the first half of a stage, falling linearly to `floor` at its end."""
    return min(1.0, max(floor, 2.0 * (1.0 - progress)))


def warmup_cosine(step: int, *, warmup: int, decay: int, floor: float = 0.0) -> float:
    """Rises linearly over the first `warmup` steps, then falls to `floor` over `decay` steps by a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, decay))))
    return floor + (1.0 - floor) * cosine
