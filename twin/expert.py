"""The scripted expert: a pure numpy function, for demonstrations in the twin and for the scripted operator of the arm.

Every height it aims at falls continuously with the horizontal error (a funnel):

    height of the tool                      reach:  far above the object, down onto it as the error shrinks
      \\_                    _/              close:  aligned and low
        \\__              __/                carry:  9 cm high, down as the target comes near
           \\____________/                   release: over the target and low; then rise
            error -> 0

A rule that switches between heights teaches a cloned policy to hover at the switch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos.schema import ACTION_DIM, F32, GRIPPER_ACTION, Bools

F64 = NDArray[np.float64]
GRASP_HEIGHT_M = 0.014
"""Tool above the object's underside while grasping."""
OPEN, CLOSE = 1.0, -1.0


@dataclass(frozen=True, kw_only=True)
class PickState:
    """n situations; positions in the base frame."""

    tool: F64  # (n, 3) measured TCP position
    commanded: F64  # (n, 3) commanded TCP position, actions under way included
    grasp_width: F64  # (n,) m between the fingers, measured
    closing: Bools  # (n,) the gripper is commanded to close
    object_position: F64  # (n, 3) centre
    target: F64  # (n, 3)


def pick_and_place(state: PickState, *, step_m: float = 0.03, half_height_m: float = 0.018) -> F32:
    """The next action (n, 7) for grasping an object from above and putting it on a target on the table."""
    tool, thing, commanded = state.tool, state.object_position, state.commanded
    misaligned = np.hypot(*(thing - tool)[:, :2].T)
    off_target = np.hypot(*(state.target - thing)[:, :2].T)
    grasp_z = thing[:, 2] - half_height_m + GRASP_HEIGHT_M
    above = np.abs(tool[:, 2] - grasp_z)

    placed = (off_target < 0.028) & (thing[:, 2] < half_height_m + 0.014)
    filled = (state.grasp_width > 0.018) & (state.grasp_width < 0.051)
    holding = state.closing & (misaligned < 0.02) & (above < 0.03) & filled
    missed = state.closing & ~((misaligned < 0.02) & (above < 0.018))
    aligned = (misaligned < 0.012) & (above < 0.013)

    rise = commanded + np.array([0, 0, 0.03])
    leave = np.where(state.closing[:, None], commanded, rise)
    reach_z = grasp_z + 0.04 * _ramp(misaligned, 0.008, 0.022) + 0.05 * _ramp(misaligned, 0.022, 0.06)
    reach = np.column_stack([thing[:, :2], reach_z])
    cases = [placed, holding, missed]
    goal = np.select([case[:, None] for case in cases], [leave, _carry(state, off_target), rise], reach)
    grip = np.select(cases, [OPEN, CLOSE, OPEN], np.where(aligned | state.closing, CLOSE, OPEN))

    action = np.zeros((len(tool), ACTION_DIM), np.float32)
    action[:, :3] = np.clip((goal - commanded) / step_m, -1, 1)
    action[:, GRIPPER_ACTION] = grip
    return action


def _carry(state: PickState, off_target: F64) -> F64:
    """Where to command the tool while it holds the object: sideways only when lifted, or close to the target."""
    free = np.maximum(_ramp(state.tool[:, 2], 0.02, 0.04), 1 - _ramp(off_target, 0.04, 0.06))
    over_target = state.target[:, :2] - (state.object_position - state.tool)[:, :2]
    sideways = state.commanded[:, :2] + free[:, None] * (over_target - state.commanded[:, :2])
    return np.column_stack([sideways, GRASP_HEIGHT_M + 0.003 + 0.073 * _ramp(off_target, 0.012, 0.05)])


def _ramp(x: F64, low: float, high: float) -> F64:
    """0 below `low`, 1 above `high`, straight in between."""
    return np.clip((x - low) / (high - low), 0, 1)
