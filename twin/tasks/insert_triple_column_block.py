"""Put the block with three columns into a board with three holes. Region A lies at y > 0, B mirrors it at y < 0.

The columns are on the block: a rounded end finds its hole by itself, and a moving body of few convex parts is cheaper
to collide, and steadier between the fingers, than a moving plate with holes.
"""

import math
from dataclasses import dataclass

import numpy as np

from protos.schema import F32, Bools
from protos.space import Box, ConfigurationSpace
from twin.randomize import Domain
from twin.robots.mjcf import numbers
from twin.tasks import expert, shapes
from twin.tasks.base import TOOL, Hold, Task, TaskState

BLOCK, BOARD = "block", "board"
COLUMN_RADIUS_M, COLUMN_M, RING_M = 0.007, 0.020, 0.020
"""Radius and length of a column, and its distance from the block's axis."""
HUB_RADIUS_M, HUB_M, KNOB_APOTHEM_M, KNOB_M = 0.029, 0.008, 0.015, 0.030
CLEARANCE_M = 0.0015
"""Between column and hole on every side."""
DEPTH_M, WALL_M, FLOOR_M = 0.014, 0.005, 0.002
INSIDE_M = (0.004, 0.007)
"""The expert lets go this near the axis and this little above the seat."""
SEATED_OFF_M, SEATED_HIGH_M, SEATED_RAD = 0.004, 0.004, math.radians(10)
"""The block's axis is this near the board's, its columns end this low over the floor, and it is turned this little."""
BLOCK_COLOUR, COLUMN_COLOUR = (0.60, 0.20, 0.70), (0.92, 0.75, 0.20)
BOARD_COLOUR, FLOOR_COLOUR = (0.20, 0.55, 0.80), (0.10, 0.10, 0.12)
BLOCK_SHIFT = (0.2, 0.2, -0.25)
_X, _YAW = (-0.62, -0.48), (-0.3, 0.3)
SPACE = ConfigurationSpace(
    manipulated=BLOCK,
    regions={"A": Box(x=_X, y=(0.06, 0.20), yaw=_YAW), "B": Box(x=_X, y=(-0.20, -0.06), yaw=_YAW)},
    others={
        BOARD: Box(x=(-0.40, -0.37), y=(-0.02, 0.02), yaw=(-0.15, 0.15)),
        TOOL: Box(x=(-0.56, -0.52), y=(-0.02, 0.02), z=(0.15, 0.17)),
    },
)
WORK_BOX = Box(x=(-0.70, -0.30), y=(-0.28, 0.28), z=(0.012, 0.24))
SEAT = expert.Seat(high_m=FLOOR_M, turn_rad=2 * math.pi / 3)
HOLD = Hold(height_m=0.046, width_m=(0.018, 0.035), near_m=0.007, turn_rad=math.pi / 3)


@dataclass(frozen=True, kw_only=True)
class InsertTripleColumnBlock(Task):
    """A block with a hexagonal knob on three columns; a board of three holes, 1.5 mm wider on every side."""

    name: str = "insert_triple_column_block"
    instruction: str = "Insert the block with three columns into the board."
    space: ConfigurationSpace = SPACE
    action_scale: tuple[float, float] = (0.02, 0.1)
    max_steps: int = 80
    precision_m: float = CLEARANCE_M
    work_box: Box = WORK_BOX
    free_bodies: tuple[str, ...] = (BLOCK,)
    fixed_bodies: tuple[str, ...] = (BOARD,)
    hold: Hold = HOLD

    def mjcf(self, domain: Domain) -> str:
        """The block's origin is at the end of its columns; each hole has four smooth walls."""
        colour = numbers(*domain.shifted(BLOCK_COLOUR, BLOCK_SHIFT))
        rub = f'friction="{domain.friction} .01 .001" condim="4"'
        part = f'mass="{domain.object_mass_kg / 6}" {rub} rgba="{colour} 1"'
        hub_z = COLUMN_M + HUB_M / 2
        block = f'<geom type="cylinder" size="{HUB_RADIUS_M} {HUB_M / 2}" pos="0 0 {hub_z}" {part}/>'
        knob = f'mass="{domain.object_mass_kg / 9}" {rub} rgba="{colour} 1"'
        block += shapes.hexagon(KNOB_APOTHEM_M, KNOB_M / 2, knob, z_m=COLUMN_M + HUB_M + KNOB_M / 2)
        board = f'<geom type="cylinder" size="{RING_M + COLUMN_RADIUS_M} {FLOOR_M / 2}" pos="0 0 {FLOOR_M / 2}" '
        board += f'friction=".2 .005 .0001" priority="1" rgba="{numbers(*FLOOR_COLOUR)} 1"/>'
        for angle in (0, 2 * math.pi / 3, 4 * math.pi / 3):
            x, y = RING_M * math.cos(angle), RING_M * math.sin(angle)
            ends = numbers(x, y, COLUMN_RADIUS_M, x, y, COLUMN_M)
            block += (
                f'<geom type="capsule" fromto="{ends}" size="{COLUMN_RADIUS_M}" mass="{domain.object_mass_kg / 6}" '
            )
            block += f'{rub} rgba="{numbers(*COLUMN_COLOUR)} 1"/>'
            board += shapes.socket(
                4,
                COLUMN_RADIUS_M + CLEARANCE_M,
                straight_m=DEPTH_M,
                wall_m=WALL_M,
                floor_m=FLOOR_M,
                centre=(x, y),
                turn_rad=angle,
                attributes=f'friction=".2 .005 .0001" priority="1" rgba="{numbers(*BOARD_COLOUR)} 1"',
            )
        return (
            f'<body name="{BOARD}" mocap="true">{board}</body>'
            f'<body name="{BLOCK}"><freejoint name="{BLOCK}"/>{block}</body>'
        )

    def splat_spacing(self, body: str) -> float:
        """Fine enough for the wrist camera."""
        return {BLOCK: 0.009, BOARD: 0.006}[body]

    def succeeded(self, state: TaskState) -> Bools:
        """All three columns stand in their holes and the gripper is told to let go."""
        off, high, turn = expert.misfit(state, BLOCK, BOARD, SEAT)
        return (off < SEATED_OFF_M) & (high < SEATED_HIGH_M) & (np.abs(turn) < SEATED_RAD) & ~state.closing

    def expert(self, state: TaskState) -> F32:
        """Grasps the knob, turns the block while it carries it, lets go when the columns are in their holes."""
        return expert.insert(state, BLOCK, BOARD, SEAT, HOLD, INSIDE_M, self.action_scale)
