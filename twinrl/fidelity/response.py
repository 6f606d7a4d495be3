"""How alike two worlds move: the same actions from the same state, and where the tool goes.

actions ─► first world ──► TCP path ──┬─ distance at the same time, RMS      [mm]
└─────► second world ─► TCP path ──┼─ delay, from the velocities' cross-correlation  [ms]
└─ gain, how far it goes for the same actions
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.errors import InputError
from protos.schema import CONTROL_HZ, F64

AXES = ("x", "y", "z")
LONGEST_DELAY_STEPS = 10
STILL_M = 0.005
"""An axis that moves less than this in a sequence says nothing of delay and gain."""


@dataclass(frozen=True, kw_only=True)
class AxisResponse:
    """One axis of the base frame, over all sequences."""

    rms_mm: float
    delay_ms: float | None
    """By which the second world is later; negative when it is earlier, None when the axis was not moved."""
    gain: float | None
    """Travel of the second world over that of the first."""


@dataclass(frozen=True, kw_only=True)
class StepResponse:
    """Over all sequences."""

    sequences: int
    rms_mm: float
    """Of the distance between the two tool centre points at the same time."""
    axes: dict[str, AxisResponse]


def step_response(first: Sequence[F64], second: Sequence[F64]) -> StepResponse:
    """Compares TCP paths (T, 3) [m] of the same actions, one sample per control step; T may differ by sequence."""
    if not len(first) or [len(path) for path in first] != [len(path) for path in second]:
        raise InputError(f"{len(first)} and {len(second)} paths: as many, as long, and at least one, needed")
    apart = np.concatenate([a - b for a, b in zip(first, second, strict=True)])
    axes = {}
    for axis, name in enumerate(AXES):
        pairs = [(a[:, axis], b[:, axis]) for a, b in zip(first, second, strict=True)]
        moved = [(a, b) for a, b in pairs if min(np.ptp(a), np.ptp(b)) > STILL_M]
        axes[name] = AxisResponse(
            rms_mm=_rms_mm(apart[:, axis : axis + 1]),
            delay_ms=float(np.mean([delay_ms(a, b) for a, b in moved])) if moved else None,
            gain=float(np.mean([np.ptp(b) / np.ptp(a) for a, b in moved])) if moved else None,
        )
    return StepResponse(sequences=len(first), rms_mm=_rms_mm(apart), axes=axes)


def delay_ms(first: F64, second: F64, hz: float = CONTROL_HZ) -> float:
    """By how much a coordinate (T,) of the second world follows later than that of the first.

    The peak of the cross-correlation of their velocities, between samples by the parabola through its three highest
    points.
    """
    a, b = np.diff(first), np.diff(second)
    lags = np.arange(-LONGEST_DELAY_STEPS, LONGEST_DELAY_STEPS + 1)
    padded = np.pad(b, LONGEST_DELAY_STEPS)
    match = np.array([a @ padded[LONGEST_DELAY_STEPS + lag :][: len(a)] for lag in lags])
    peak = int(np.argmax(match))
    if not 0 < peak < len(lags) - 1:
        return float(lags[peak] * 1000 / hz)
    before, top, after = match[peak - 1 : peak + 2]
    bend = before - 2 * top + after
    between = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float((lags[peak] + between) * 1000 / hz)


def _rms_mm(apart: F64) -> float:
    return float(1000 * np.sqrt((apart**2).sum(axis=1).mean()))
