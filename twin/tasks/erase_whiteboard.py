"""This module holds the task to wipe marks off a whiteboard.

A mark vanishes when the eraser's face slides over it: on the board, flat, moving. Pressing the eraser down on it is not
enough, and neither is passing above it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from protos.schema import F32, F64, Bools
from protos.space import Box, ConfigurationSpace
from twin.randomize import Conditions
from twin.robots.mjcf import numbers
from twin.tasks import expert, shapes
from twin.tasks.base import TOOL, TOOL_START, WORK_BOX, Hold, Task, TaskState, mirrored

ERASER, BOARD = "eraser", "board"
MARKS = tuple(f"mark_{k}" for k in range(6))
FACE_M, FELT_M, BACK_M = (0.040, 0.018), 0.008, 0.026
"""Half length and half width of the eraser's face; heights of its felt and of the back that the fingers hold."""
BOARD_HALF_M, BOARD_AT = (0.055, 0.085, 0.003), (-0.395, 0.0)
TOP_M = 2 * BOARD_HALF_M[2]
MARK_RADIUS_M, MARK_HALF_M, MARK_STEP_M = 0.010, 0.001, 0.017
TOUCH_M, FLAT, WIPE_M_S = 0.0015, math.cos(math.radians(8)), 0.01
"""The face wipes this close to the board, this upright (cosine of the tilt), and at this speed or faster."""
BOARD_COLOUR, MARK_COLOUR = (0.93, 0.94, 0.95), (0.12, 0.12, 0.60)
FELT_COLOUR, BACK_COLOUR, BACK_SHIFT = (0.20, 0.20, 0.22), (0.85, 0.35, 0.10), (-0.25, 0.2, 0.25)
_MARKS = {
    name: Box(
        x=(BOARD_AT[0] - 0.018, BOARD_AT[0] + 0.018),
        y=(MARK_STEP_M * (k - 2.5) - 0.003, MARK_STEP_M * (k - 2.5) + 0.003),
        z=(TOP_M + MARK_HALF_M, TOP_M + MARK_HALF_M),
    )
    for k, name in enumerate(MARKS)
}
_BOARD = Box(x=(BOARD_AT[0], BOARD_AT[0]), y=(BOARD_AT[1], BOARD_AT[1]), z=(BOARD_HALF_M[2], BOARD_HALF_M[2]))
SPACE = ConfigurationSpace(
    manipulated=ERASER,
    regions=mirrored(Box(x=(-0.62, -0.52), y=(0.06, 0.20), yaw=(-0.3, 0.3))),
    others={BOARD: _BOARD, TOOL: TOOL_START} | _MARKS,
)
HOLD = Hold(height_m=0.022, width_m=(0.020, 0.042), near_m=0.009, slip_m=0.013, turn_rad=math.pi)
PRESS_M, LIFT_M, WIPE_STEP_M, BESIDE_M, BEYOND_M = 0.0015, 0.05, 0.008, 0.03, 0.02


@dataclass(frozen=True, kw_only=True)
class EraseWhiteboard(Task):
    """An eraser is grasped and wiped over six marks on a board."""

    name: str = "erase_whiteboard"
    instruction: str = "Wipe the marks off the whiteboard."
    space: ConfigurationSpace = SPACE
    action_scale: tuple[float, float] = (0.02, 0.1)
    max_steps: int = 100
    work_box: Box = WORK_BOX
    free_bodies: tuple[str, ...] = (ERASER,)
    fixed_bodies: tuple[str, ...] = (BOARD, *MARKS)
    hold: Hold = HOLD
    success_steps: int = 1

    def mjcf(self, conditions: Conditions) -> str:
        """Writes eraser, board and marks; the eraser's origin is the middle of its face; marks collide with nothing."""
        back = numbers(*conditions.shifted(BACK_COLOUR, BACK_SHIFT))
        held = f'{shapes.rough(conditions)} mass="{conditions.object_mass_kg / 2}"'
        eraser = "".join(
            f'<geom type="box" size="{numbers(*FACE_M, height / 2)}" pos="0 0 {z}" rgba="{colour} 1" {held}/>'
            for height, z, colour in (
                (FELT_M, FELT_M / 2, numbers(*FELT_COLOUR)),
                (BACK_M, FELT_M + BACK_M / 2, back),
            )
        )
        marks = "".join(
            f'<body name="{name}" mocap="true"><geom type="cylinder" size="{MARK_RADIUS_M} {MARK_HALF_M}" '
            f'rgba="{numbers(*MARK_COLOUR)} 1" contype="0" conaffinity="0"/></body>'
            for name in MARKS
        )
        return (
            f'<body name="{BOARD}" mocap="true"><geom type="box" size="{numbers(*BOARD_HALF_M)}" '
            f'friction=".15 .005 .0001" priority="1" rgba="{numbers(*BOARD_COLOUR)} 1"/></body>{marks}'
            f'<body name="{ERASER}"><freejoint name="{ERASER}"/>{eraser}</body>'
        )

    def splat_spacing(self, body: str) -> float:
        """Returns spacings that are fine enough for the wrist camera."""
        return {ERASER: 0.011, BOARD: 0.012}.get(body, 0.007)

    def retired(self, state: TaskState) -> Mapping[str, Bools]:
        """Names the marks under the eraser's face while it slides over the board."""
        offset = _marks(state) - state.bodies[ERASER][:, None]
        inside = np.abs(np.einsum("nmi,nij->nmj", offset, state.rotations[ERASER])[:, :, :2]) < FACE_M
        touches = state.bodies[ERASER][:, 2] - TOP_M < TOUCH_M
        flat = state.rotations[ERASER][:, 2, 2] > FLAT
        slides = touches & flat & (np.hypot(*state.tool_velocity[:, :2].T) > WIPE_M_S)
        return {name: slides & inside[:, k].all(1) for k, name in enumerate(MARKS)}

    def succeeded(self, state: TaskState) -> Bools:
        """Tells where every mark is gone."""
        return ~np.any([state.has(name) for name in MARKS], axis=0)

    def expert(self, state: TaskState) -> F32:
        """Grasps the eraser, comes down beside the marks that are left and wipes along them, to the far end."""
        gone = self.succeeded(state)
        return expert.act(state, expert.reach(state, ERASER, HOLD), _wipe(state), gone, self.action_scale)


def _marks(state: TaskState) -> F64:
    """Returns the marks' positions (n, 6, 3)."""
    return np.stack([state.bodies[name] for name in MARKS], 1)


def _wipe(state: TaskState) -> expert.Aim:
    """Aims beside the nearest mark that is left; once down, over it and a little beyond."""
    eraser, marks, board = state.bodies[ERASER], _marks(state), state.bodies[BOARD]
    x, y = eraser[:, 0] - board[:, 0], eraser[:, 1]
    top = board[:, 2] + BOARD_HALF_M[2]  # where an arm believes it to be
    left = np.stack([state.has(name) for name in MARKS], 1)
    away = np.where(left, np.abs(y[:, None] - marks[:, :, 1]), np.inf)
    mark = np.take_along_axis(marks[:, :, 1], away.argmin(1)[:, None], 1)[:, 0]
    off = np.hypot(np.maximum(np.abs(x) - 0.01, 0), np.maximum(np.abs(y - mark) - BESIDE_M - 0.01, 0))
    down = 1 - expert.ramp(eraser[:, 2] - top, 0.001, 0.006)
    side = np.clip((y - mark) / 0.005, -1, 1)
    goal = mark + side * (BESIDE_M * (1 - down) - BEYOND_M * down)
    step = WIPE_STEP_M + 0.1 * (1 - down)
    told = y + (state.commanded - state.tool)[:, 1]  # wiping goes on as fast on an arm that follows late
    target = np.column_stack([board[:, 0], told + np.clip(goal - told, -step, step)])
    free = np.maximum(expert.ramp(eraser[:, 2] - top, 0.004, 0.024), 1 - expert.ramp(off, 0.005, 0.02))
    face_z = top - PRESS_M + LIFT_M * expert.ramp(off, 0.003, 0.03)
    z = state.tool[:, 2] + face_z - eraser[:, 2]
    z = np.maximum(z, state.commanded[:, 2] - 0.004 - 0.5 * np.maximum(eraser[:, 2] - top, 0))
    position = np.column_stack([expert.over(state, ERASER, target, free), z])
    return expert.Aim(position=position, yaw=np.zeros(len(eraser)))
