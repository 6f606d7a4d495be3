"""This module holds the task to put a cube on a disc: the one to start with, without rotation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from protos.schema import F32, Bools
from protos.space import Box, ConfigurationSpace
from twin.randomize import Conditions
from twin.robots.mjcf import numbers
from twin.tasks import expert, shapes
from twin.tasks.base import TOOL, TOOL_START, WORK_BOX, Hold, Task, TaskState, mirrored

CUBE, TARGET = "cube", "target"
CUBE_HALF_M = 0.018
TARGET_RADIUS_M, TARGET_HALF_M = 0.045, 0.001
CUBE_COLOUR, TARGET_COLOUR = (0.85, 0.15, 0.15), (0.10, 0.20, 0.85)
CUBE_SHIFT = (-0.25, 0.2, 0.25)
"""Direction of the domain's colour shift for the cube."""
ON_TARGET_M, ON_TABLE_M = 0.035, 0.03
"""The cube's centre is this near the target's and this low."""
SPACE = ConfigurationSpace(
    manipulated=CUBE,
    regions=mirrored(Box(x=(-0.62, -0.48), y=(0.06, 0.20), z=(CUBE_HALF_M, CUBE_HALF_M))),
    others={
        TARGET: Box(x=(-0.41, -0.37), y=(-0.03, 0.03), z=(TARGET_HALF_M, TARGET_HALF_M)),
        TOOL: TOOL_START,
    },
)
GRASP_HEIGHT_M = 0.014
"""Height of the tool above the cube's underside while grasping."""
HOLD = Hold(height_m=GRASP_HEIGHT_M - CUBE_HALF_M, width_m=(0.018, 0.051))


@dataclass(frozen=True, kw_only=True)
class PickAndPlace(Task):
    """A red cube is put on a blue disc."""

    name: str = "pick_and_place"
    instruction: str = "Put the cube on the disc."
    space: ConfigurationSpace = SPACE
    action_scale: tuple[float, float] = (0.03, 0.0)
    max_steps: int = 60
    work_box: Box = WORK_BOX
    free_bodies: tuple[str, ...] = (CUBE,)
    fixed_bodies: tuple[str, ...] = (TARGET,)
    hold: Hold = HOLD
    symmetries: Mapping[str, int] = field(default_factory=lambda: {CUBE: 4})

    def mjcf(self, conditions: Conditions) -> str:
        """Writes a free box and a disc that nothing collides with."""
        cube = numbers(*conditions.shifted(CUBE_COLOUR, CUBE_SHIFT))
        return (
            f'<body name="{TARGET}" mocap="true"><geom type="cylinder" size="{TARGET_RADIUS_M} {TARGET_HALF_M}" '
            f'rgba="{numbers(*TARGET_COLOUR)} 1" contype="0" conaffinity="0"/></body>'
            f'<body name="{CUBE}"><freejoint name="{CUBE}"/><geom type="box" size="{numbers(*[CUBE_HALF_M] * 3)}" '
            f'mass="{conditions.object_mass_kg}" {shapes.rough(conditions)} rgba="{cube} 1"/></body>'
        )

    def splat_spacing(self, body: str) -> float:
        """Returns spacings that are fine enough for the wrist camera."""
        return {CUBE: 0.012, TARGET: 0.014}[body]

    def succeeded(self, state: TaskState) -> Bools:
        """Tells where the cube lies on the disc and the gripper is told to let go."""
        offset = state.bodies[CUBE] - state.bodies[TARGET]
        near = np.hypot(offset[:, 0], offset[:, 1]) < ON_TARGET_M
        return near & (state.bodies[CUBE][:, 2] < ON_TABLE_M) & ~state.closing

    def expert(self, state: TaskState) -> F32:
        """Moves sideways only when lifted, or close to the target; down as it comes near."""
        cube, target = state.bodies[CUBE], state.bodies[TARGET]
        table = target[:, 2] - TARGET_HALF_M  # where an arm believes it to be
        off = np.hypot(*(target - cube)[:, :2].T)
        free = np.maximum(expert.ramp(state.tool[:, 2] - table, 0.02, 0.04), 1 - expert.ramp(off, 0.04, 0.06))
        z = table + GRASP_HEIGHT_M + 0.003 + 0.073 * expert.ramp(off, 0.012, 0.05)
        carry = expert.Aim(
            position=np.column_stack([expert.over(state, CUBE, target[:, :2], free), z]),
            yaw=np.zeros(len(cube)),
        )
        placed = (off < 0.028) & (cube[:, 2] - table < CUBE_HALF_M + 0.014)
        return expert.act(state, expert.reach(state, CUBE, HOLD), carry, placed, self.action_scale)
