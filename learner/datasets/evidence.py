"""This module guesses what the numbers of foreign data mean, and says by which numbers it knows.

    states, actions of episodes ─┬─► action_evidence ───► deltas or absolute poses, in which unit, in which frame
                                 ├─► rotation_evidence ─► Euler angles, rotation vector, quaternion; radians, degrees
                                 └─► gripper_evidence ──► its two ends, and which of them is open

A state at row t is followed by the one at row t + 1. Deltas of an arm are what its state then does, somewhat later and
somewhat less; absolute poses lie on the states. A guess is a guess: none is used without a person's settings, but data
that contradict their settings are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from learner.datasets import motion
from learner.datasets.motion import RotationForm
from protos.schema import F64

ActionForm = Literal["delta", "absolute"]
"""Meaning of an action's pose: the motion from the pose before, or the pose to go to."""
Guess = Literal["delta", "absolute", "unclear"]
RotationGuess = RotationForm | Literal["unclear"]
Frame = Literal["base", "tool", "unclear"]
UNITS = {"m": 1.0, "mm": 1000.0, "cm": 100.0}
"""Numbers per metre."""
_RATIOS = (1.0, 0.001, 0.01, 100.0, 1000.0)
"""Units per unit that two positions may differ by."""
_RATIO_TOLERANCE = 0.2
_UNIT_TOLERANCE = 0.45
_ABSOLUTE_ERROR = 0.25
_DELTA_LIKENESS = 0.5
_LAGS = 3
_MOST_ROWS = 200_000
_DEGREES = 2 * np.pi + 0.5
_QUATERNION_ERROR = 0.02
_THREE: tuple[RotationForm, ...] = ("euler", "rotation_vector")
_SAME_RAD = 0.02
_BEYOND_RAD = 0.2
_CLEARLY_MORE = 0.05
_STILL = 1e-9


@dataclass(frozen=True, kw_only=True)
class ActionEvidence:
    """This evidence compares the first three numbers of actions with the positions of states.

    A likeness is the cosine between all numbers of two signals: 1 equal up to a factor, 0 unrelated.
    """

    guess: Guess
    delta_likeness: float
    """Likeness of actions and of the states' differences, at the best lag."""
    lag: int
    """Steps by which the states follow the actions best."""
    moved_per_unit: float
    """Motion of the state, in its own unit, per unit of the action: 1 for deltas in the state's unit."""
    correlation: tuple[float, ...]
    """Correlation of each axis of the action with the states' difference."""
    slope: tuple[float, ...]
    """Motion of the state per unit of the action, by axis."""
    absolute_error: float
    """Root mean square distance of actions from the next states, over the actions' own size: 0 for absolute poses."""
    absolute_per_state: float
    """Actions per state with which they are compared: 1, or 1000 for poses in millimetres beside metres."""
    next_state_share: float
    """Share of actions that equal the next state to a thousandth of its range."""
    action_size: float
    """Median length of an action."""
    step_size: float
    """Median length of a state's difference."""
    frame: Frame
    frame_likeness: tuple[float, float]
    """Likeness of actions and of the states' differences in the base frame and in the tool's."""

    @property
    def unit(self) -> str:
        """Returns the unit of deltas if the state is in metres; "" for another factor, as of normalised actions."""
        per_metre = 1.0 / self.moved_per_unit if self.moved_per_unit > 0 else 0.0
        fits = [name for name, each in UNITS.items() if abs(per_metre / each - 1.0) < _UNIT_TOLERANCE]
        return fits[0] if fits else ""

    def __str__(self) -> str:
        return (
            f"actions are {self.action_size:.3g} long, the state moves {self.step_size:.3g} a step; as poses they miss "
            f"the next state by {100 * self.absolute_error:.0f} % ({100 * self.next_state_share:.0f} % equal it), as "
            f"motions they agree with the state's to {self.delta_likeness:.2f} of 1"
        )


def action_evidence(
    positions: Sequence[F64], actions: Sequence[F64], orientations: Sequence[F64] | None = None
) -> ActionEvidence | None:
    """Compares episodes' actions (n, 3) with positions (n, 3) of the same rows; None where nothing moves.

    With orientations (n, 4), unit quaternions, it also tells motions in the tool's frame from such in the base frame.
    """
    long = [i for i, each in enumerate(positions) if len(each) > _LAGS + 1]
    if not long:
        return None
    state = np.concatenate([positions[i][:-1] for i in long])[:_MOST_ROWS]
    following = np.concatenate([positions[i][1:] for i in long])[:_MOST_ROWS]
    action = np.concatenate([actions[i][:-1] for i in long])[:_MOST_ROWS]
    size, step = _rms(action), _rms(following - state)
    if size < _STILL or step < _STILL:
        return None
    lag, pairs = _best_lag([positions[i] for i in long], [actions[i] for i in long])
    delta = _likeness(*pairs)
    per_state = _per_state(action, following)
    error = _rms(action - per_state * following) / size
    turned = None if orientations is None else [orientations[i] for i in long]
    frames = (delta, _tool_likeness([positions[i] for i in long], [actions[i] for i in long], turned, lag))
    correlation, slope = _by_axis(*pairs)
    return ActionEvidence(
        guess=_guess(delta, error),
        delta_likeness=delta,
        lag=lag,
        moved_per_unit=float((pairs[0] * pairs[1]).sum() / max((pairs[0] ** 2).sum(), _STILL)),
        correlation=correlation,
        slope=slope,
        absolute_error=error,
        absolute_per_state=per_state,
        next_state_share=_equal_share(action / per_state, following),
        action_size=float(np.median(np.linalg.norm(action, axis=1))),
        step_size=float(np.median(np.linalg.norm(following - state, axis=1))),
        frame=_frame(*frames),
        frame_likeness=frames,
    )


def _per_state(action: F64, state: F64) -> float:
    """Returns the ratio of units that the one between actions and states is close to; 1 where there is none."""
    found = float((action * state).sum() / max((state**2).sum(), _STILL))
    return next((ratio for ratio in _RATIOS if abs(found / ratio - 1.0) < _RATIO_TOLERANCE), 1.0)


def _equal_share(pose: F64, state: F64) -> float:
    return float((np.abs(pose - state).max(axis=1) <= 1e-3 * np.ptp(state, axis=0).max()).mean())


def _guess(delta: float, error: float) -> Guess:
    if error < _ABSOLUTE_ERROR and error < np.sqrt(max(0.0, 1.0 - delta**2)):
        return "absolute"
    return "delta" if delta > _DELTA_LIKENESS else "unclear"


def _best_lag(positions: Sequence[F64], actions: Sequence[F64]) -> tuple[int, tuple[F64, F64]]:
    """Returns the lag at which differences of the state are most like the actions, and both signals at it."""
    found = {lag: _pairs(positions, actions, lag) for lag in range(_LAGS)}
    best = max(found, key=lambda lag: _likeness(*found[lag]) - 1e-6 * lag)
    return best, found[best]


def _pairs(positions: Sequence[F64], actions: Sequence[F64], lag: int) -> tuple[F64, F64]:
    moved = [np.diff(each, axis=0)[lag:] for each in positions]
    asked = [each[: len(step)] for each, step in zip(actions, moved, strict=True)]
    return np.concatenate(asked)[:_MOST_ROWS], np.concatenate(moved)[:_MOST_ROWS]


def _tool_likeness(
    positions: Sequence[F64], actions: Sequence[F64], orientations: Sequence[F64] | None, lag: int
) -> float:
    """Returns the likeness when the actions are taken as motions in the frame of the tool; 0 where it is unknown."""
    if orientations is None:
        return 0.0
    turned = [_rotated(each, quaternion) for quaternion, each in zip(orientations, actions, strict=True)]
    return _likeness(*_pairs(positions, turned, lag))


def _frame(base: float, tool: float) -> Frame:
    if max(base, tool) < _DELTA_LIKENESS:
        return "unclear"
    return "tool" if tool > base + 0.1 else "base"


def _by_axis(action: F64, moved: F64) -> tuple[tuple[float, ...], tuple[float, ...]]:
    correlation, slope = [], []
    for a, m in zip(action.T, moved.T, strict=True):
        still = np.ptp(a) < _STILL or np.ptp(m) < _STILL
        correlation.append(0.0 if still else float(np.corrcoef(a, m)[0, 1]))
        slope.append(float((a * m).sum() / max((a**2).sum(), _STILL)))
    return tuple(correlation), tuple(slope)


@dataclass(frozen=True, kw_only=True)
class RotationEvidence:
    """This evidence reads the same numbers as each form of rotation that has so many."""

    guess: RotationGuess
    degrees: bool
    reason: str


def rotation_evidence(rotations: Sequence[F64], turns: Sequence[F64] | None = None) -> RotationEvidence:
    """Guesses the form of rotations (n, 3 or 4) of several episodes, of states or absolute actions.

    The right form turns little where an angle goes past ±π and the numbers jump; it turns as the actions' rotations
    `turns` (n, 3) say, where they are motions; and only Euler angles are longer than π together, only rotation vectors
    have a middle number beyond ±π/2.
    """
    rows = np.concatenate([each for each in rotations if len(each)])[:_MOST_ROWS]
    axes = 3
    if rows.shape[1] != axes:
        off = float(np.abs(np.linalg.norm(rows, axis=1) - 1.0).max())
        found: RotationGuess = "quaternion_xyzw" if off <= _QUATERNION_ERROR else "unclear"
        return RotationEvidence(guess=found, degrees=False, reason=f"four numbers of length 1 ± {off:.1g}")
    largest = float(np.abs(rows).max())
    degrees = largest > _DEGREES
    factor = np.pi / 180 if degrees else 1.0
    guess, reason = _three_numbers([factor * each for each in rotations], factor * rows, turns)
    unit = f"numbers up to {largest:.0f}, so degrees; " if degrees else ""
    return RotationEvidence(guess=guess, degrees=degrees, reason=unit + reason)


def _three_numbers(rotations: Sequence[F64], rows: F64, turns: Sequence[F64] | None) -> tuple[RotationGuess, str]:
    """Returns the form of three numbers [rad], and how it is known."""
    apart = _apart(rows[:: max(1, len(rows) // 1000)])
    if apart < _SAME_RAD:
        return "unclear", f"Euler angles and rotation vectors differ by {apart:.3f} rad only"
    jump = {form: _largest_jump(rotations, form) for form in _THREE}
    if max(jump.values()) > 0.0:
        reason = f"where numbers jump past π the tool turns {jump['euler']:.2f} rad as Euler angles, "
        reason += f"{jump['rotation_vector']:.2f} as a rotation vector"
        if min(jump.values()) < 0.5 * max(jump.values()):
            return min(_THREE, key=lambda form: jump[form]), reason
    if turns is not None:
        like = {form: _turn_likeness(rotations, turns, form) for form in _THREE}
        reason = f"turns are like the actions' to {like['euler']:.2f} of 1 as Euler angles, "
        reason += f"{like['rotation_vector']:.2f} as rotation vectors"
        if max(like.values()) > _DELTA_LIKENESS and abs(like["euler"] - like["rotation_vector"]) > _CLEARLY_MORE:
            return max(_THREE, key=lambda form: like[form]), reason
    length, middle = float(np.linalg.norm(rows, axis=1).max()), float(np.abs(rows[:, 1]).max())
    if length > np.pi + _BEYOND_RAD >= np.pi / 2 + middle:
        return "euler", f"together up to {length:.2f} rad long, the middle one up to {middle:.2f}"
    if middle > np.pi / 2 + _BEYOND_RAD and length <= np.pi + _BEYOND_RAD:
        return "rotation_vector", f"the middle number goes up to {middle:.2f}, the length up to {length:.2f} rad"
    return "unclear", f"both forms fit; they differ by up to {apart:.2f} rad"


def _largest_jump(rotations: Sequence[F64], form: RotationForm) -> float:
    """Returns the largest turn [rad] between rows whose numbers differ by more than π; 0 where none do."""
    largest = 0.0
    for each in rotations:
        rows = np.flatnonzero(np.abs(np.diff(each, axis=0)).max(axis=1, initial=0.0) > np.pi)
        if len(rows):
            before, after = (motion.quaternions(each[at], form) for at in (rows, rows + 1))
            largest = max(largest, float(np.linalg.norm(motion.turns(before, after), axis=1).max()))
    return largest


def _turn_likeness(rotations: Sequence[F64], turns: Sequence[F64], form: RotationForm) -> float:
    """Returns the likeness of the actions' rotations and of the turns of the state, at the best lag."""
    moved = [
        motion.turns(q[:-1], q[1:]) for q in (motion.quaternions(each, form) for each in rotations if len(each) > _LAGS)
    ]
    asked = [each for each in turns if len(each) > _LAGS]
    found = [
        _likeness(np.concatenate([a[: len(m) - lag] for a, m in pairs]), np.concatenate([m[lag:] for _, m in pairs]))
        for pairs in [list(zip(asked, moved, strict=True))]
        for lag in range(_LAGS)
        if pairs
    ]
    return max(found, default=0.0)


def _apart(rows: F64) -> float:
    """Returns the largest angle [rad] between the two readings of three numbers."""
    forms = [motion.quaternions(rows, form) for form in ("euler", "rotation_vector")]
    return float(np.linalg.norm(motion.turns(*forms), axis=1).max())


@dataclass(frozen=True, kw_only=True)
class GripperEvidence:
    """This evidence is on one column, of the state or of the action."""

    low: float
    high: float
    two_valued: bool
    """Almost all rows lie at one of the two ends."""
    starts_high: float
    """Share of episodes whose first value is nearer to the high end; grippers mostly start open."""
    correlation: float
    """Correlation with the other column; below 0 the two have opposite senses."""

    @property
    def opens_at_high(self) -> bool:
        return self.starts_high >= 0.5


def gripper_evidence(grippers: Sequence[F64], others: Sequence[F64]) -> GripperEvidence | None:
    """Looks at one gripper column (n,) of several episodes, beside another of the same rows, which may be missing.

    Returns None for one that never moves.
    """
    rows = np.concatenate([each for each in grippers if len(each)])
    low, high = float(rows.min()), float(rows.max())
    if high - low < _STILL:
        return None
    share = (rows - low) / (high - low)
    first = [(each[0] - low) / (high - low) for each in grippers if len(each)]
    other = np.concatenate([np.empty(0), *others])
    moving = len(other) == len(rows) and np.ptp(other) > _STILL
    return GripperEvidence(
        low=low,
        high=high,
        two_valued=bool((np.minimum(share, 1.0 - share) < 0.05).mean() > 0.95),
        starts_high=float(np.mean([each > 0.5 for each in first])),
        correlation=float(np.corrcoef(rows, other)[0, 1]) if moving else 0.0,
    )


def _rotated(vector: F64, quaternion: F64) -> F64:
    """Turns vectors (n, 3) by unit quaternions (n, 4)."""
    axis = quaternion[:, 1:]
    turned: F64 = vector + 2.0 * np.cross(axis, np.cross(axis, vector) + quaternion[:, :1] * vector)
    return turned


def _likeness(a: F64, b: F64) -> float:
    return float((a * b).sum() / max(np.sqrt((a**2).sum() * (b**2).sum()), _STILL))


def _rms(values: F64) -> float:
    return float(np.sqrt((values**2).sum(axis=1).mean()))
