"""This module holds the two insertion tasks: a block is grasped, turned and lowered into its socket.

insert_hexagon_block        a prism and a chamfered hole; looks the same after a turn of 60°
insert_triple_column_block  three columns and three holes; looks the same after a turn of 120°
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from protos.schema import F32, Bools
from protos.space import Box, ConfigurationSpace
from twin.randomize import Conditions
from twin.robots.mjcf import numbers
from twin.tasks import expert, shapes
from twin.tasks.base import TOOL, TOOL_START, WORK_BOX, Hold, Task, TaskState, mirrored

BLOCK, SOCKET, BOARD = "block", "socket", "board"
WALL_COLOUR, FLOOR_COLOUR = (0.10, 0.45, 0.35), (0.10, 0.10, 0.12)
FLOOR_M = 0.002
"""Thickness of the floor under every hole."""


def _space(target: str, *, z_m: float = 0.0) -> ConfigurationSpace:
    """Returns where the episodes of an insertion start, with the block's origin at `z_m`."""
    return ConfigurationSpace(
        manipulated=BLOCK,
        regions=mirrored(Box(x=(-0.62, -0.48), y=(0.06, 0.20), z=(z_m, z_m), yaw=(-0.3, 0.3))),
        others={target: Box(x=(-0.40, -0.37), y=(-0.02, 0.02), yaw=(-0.15, 0.15)), TOOL: TOOL_START},
    )


@dataclass(frozen=True, kw_only=True)
class Insertion(Task):
    """An insertion puts the one free body into the one fixed body."""

    action_scale: tuple[float, float] = (0.02, 0.1)
    max_steps: int = 80
    work_box: Box = WORK_BOX
    free_bodies: tuple[str, ...] = (BLOCK,)
    seat: expert.Seat
    seated: expert.Tolerance
    """The block counts as inserted when it is this near its seat and the gripper is told to let go."""
    inside: expert.Tolerance
    """The expert lets go when the block is this near its seat."""

    @property
    def socket(self) -> str:
        """The fixed body."""
        return self.fixed_bodies[0]

    def succeeded(self, state: TaskState) -> Bools:
        """Tells where the block is seated and the gripper is told to let go."""
        off, high, turn = expert.misfit(state, BLOCK, self.socket, self.seat)
        near = (off < self.seated.off_m) & (high < self.seated.high_m) & (np.abs(turn) < self.seated.turn_rad)
        return near & ~state.closing

    def expert(self, state: TaskState) -> F32:
        """Grasps the block, turns it while it carries it, and lets go when it is in the straight part of the hole."""
        off, high, _ = expert.misfit(state, BLOCK, self.socket, self.seat)
        inside = (off < self.inside.off_m) & (high < self.inside.high_m)
        carry = expert.carry_in(state, BLOCK, self.socket, self.seat, self.hold)
        return expert.act(state, expert.reach(state, BLOCK, self.hold), carry, inside, self.action_scale)


HEXAGON_APOTHEM_M, HEXAGON_HALF_M = 0.020, 0.025
"""Half the width across the flats, and half the height, of the hexagonal block."""
HEXAGON_CLEARANCE_M = 0.00125
"""Gap between block and socket on every side, below the chamfer."""
CHAMFER = (0.006, 0.007)
"""Widening outwards and upwards, above a straight hole of `HEXAGON_DEPTH_M`."""
HEXAGON_DEPTH_M, HEXAGON_WALL_M = 0.008, 0.012
HEXAGON_COLOUR, HEXAGON_SHIFT = (0.95, 0.62, 0.08), (-0.25, 0.2, 0.25)
HEXAGON_SPACE = _space(SOCKET, z_m=HEXAGON_HALF_M)
HEXAGON_HOLD = Hold(height_m=0.005, width_m=(0.026, 0.045), near_m=0.007, turn_rad=math.pi / 3)
HEXAGON_SEAT = expert.Seat(high_m=FLOOR_M + HEXAGON_HALF_M, turn_rad=math.pi / 3)
HEXAGON_SEATED = expert.Tolerance(off_m=0.003, high_m=0.004, turn_rad=math.radians(8))
HEXAGON_INSIDE = expert.Tolerance(off_m=0.003, high_m=0.007)


@dataclass(frozen=True, kw_only=True)
class InsertHexagonBlock(Insertion):
    """A hexagonal prism goes into a chamfered socket, 1.25 mm wider on every side."""

    name: str = "insert_hexagon_block"
    instruction: str = "Insert the hexagon block into the socket."
    space: ConfigurationSpace = HEXAGON_SPACE
    precision_m: float = HEXAGON_CLEARANCE_M
    fixed_bodies: tuple[str, ...] = (SOCKET,)
    hold: Hold = HEXAGON_HOLD
    symmetries: Mapping[str, int] = field(default_factory=lambda: {BLOCK: 6, SOCKET: 6})
    seat: expert.Seat = HEXAGON_SEAT
    seated: expert.Tolerance = HEXAGON_SEATED
    inside: expert.Tolerance = HEXAGON_INSIDE

    def mjcf(self, conditions: Conditions) -> str:
        """Writes a free prism; a socket of six walls and six slopes, smooth, on a dark floor."""
        colour = numbers(*conditions.shifted(HEXAGON_COLOUR, HEXAGON_SHIFT))
        block = f'mass="{conditions.object_mass_kg / 3}" {shapes.rough(conditions)} rgba="{colour} 1"'
        walls = shapes.socket(
            6,
            HEXAGON_APOTHEM_M + HEXAGON_CLEARANCE_M,
            straight_m=HEXAGON_DEPTH_M,
            chamfer=CHAMFER,
            wall_m=HEXAGON_WALL_M,
            floor_m=FLOOR_M,
            attributes=f'{shapes.SMOOTH} rgba="{numbers(*WALL_COLOUR)} 1"',
        )
        floor = numbers(HEXAGON_APOTHEM_M + CHAMFER[0], HEXAGON_APOTHEM_M + CHAMFER[0], FLOOR_M / 2)
        return (
            f'<body name="{SOCKET}" mocap="true">{walls}<geom type="box" size="{floor}" pos="0 0 {FLOOR_M / 2}" '
            f'{shapes.SMOOTH} rgba="{numbers(*FLOOR_COLOUR)} 1"/></body>'
            f'<body name="{BLOCK}"><freejoint name="{BLOCK}"/>'
            f"{shapes.hexagon(HEXAGON_APOTHEM_M, HEXAGON_HALF_M, block)}</body>"
        )

    def splat_spacing(self, body: str) -> float:
        """Returns spacings that are fine enough for the wrist camera."""
        return {BLOCK: 0.010, SOCKET: 0.009}[body]


COLUMN_RADIUS_M, COLUMN_M, RING_M = 0.007, 0.020, 0.020
"""Radius and length of a column, and its distance from the block's axis."""
HUB_RADIUS_M, HUB_M, KNOB_APOTHEM_M, KNOB_M = 0.029, 0.008, 0.015, 0.030
COLUMN_CLEARANCE_M = 0.0015
"""Gap between column and hole on every side."""
COLUMN_DEPTH_M, COLUMN_WALL_M = 0.014, 0.005
COLUMNS_COLOUR, COLUMNS_SHIFT = (0.60, 0.20, 0.70), (0.2, 0.2, -0.25)
COLUMN_COLOUR, BOARD_COLOUR = (0.92, 0.75, 0.20), (0.20, 0.55, 0.80)
COLUMNS_SPACE = _space(BOARD)
COLUMNS_HOLD = Hold(height_m=0.046, width_m=(0.018, 0.035), near_m=0.007, turn_rad=math.pi / 3)
COLUMNS_SEAT = expert.Seat(high_m=FLOOR_M, turn_rad=2 * math.pi / 3)
COLUMNS_SEATED = expert.Tolerance(off_m=0.004, high_m=0.004, turn_rad=math.radians(10))
COLUMNS_INSIDE = expert.Tolerance(off_m=0.004, high_m=0.007)


@dataclass(frozen=True, kw_only=True)
class InsertTripleColumnBlock(Insertion):
    """A block with a hexagonal knob on three columns goes into a board of three holes, 1.5 mm wider on every side.

    The columns are on the block: a rounded end finds its hole by itself, and a moving body of few convex parts is
    cheaper to collide, and steadier between the fingers, than a moving plate with holes.
    """

    name: str = "insert_triple_column_block"
    instruction: str = "Insert the block with three columns into the board."
    space: ConfigurationSpace = COLUMNS_SPACE
    precision_m: float = COLUMN_CLEARANCE_M
    fixed_bodies: tuple[str, ...] = (BOARD,)
    hold: Hold = COLUMNS_HOLD
    seat: expert.Seat = COLUMNS_SEAT
    seated: expert.Tolerance = COLUMNS_SEATED
    inside: expert.Tolerance = COLUMNS_INSIDE

    def mjcf(self, conditions: Conditions) -> str:
        """Writes the block, whose origin is at the end of its columns, and a board of holes with four smooth walls."""
        colour = numbers(*conditions.shifted(COLUMNS_COLOUR, COLUMNS_SHIFT))
        rough, sixth = shapes.rough(conditions), f'mass="{conditions.object_mass_kg / 6}"'
        hub = f'size="{HUB_RADIUS_M} {HUB_M / 2}" pos="0 0 {COLUMN_M + HUB_M / 2}" {sixth} {rough} rgba="{colour} 1"'
        knob = f'mass="{conditions.object_mass_kg / 9}" {rough} rgba="{colour} 1"'
        block = f'<geom type="cylinder" {hub}/>'
        block += shapes.hexagon(KNOB_APOTHEM_M, KNOB_M / 2, knob, z_m=COLUMN_M + HUB_M + KNOB_M / 2)
        board = f'<geom type="cylinder" size="{RING_M + COLUMN_RADIUS_M} {FLOOR_M / 2}" pos="0 0 {FLOOR_M / 2}" '
        board += f'{shapes.SMOOTH} rgba="{numbers(*FLOOR_COLOUR)} 1"/>'
        for angle in (0, 2 * math.pi / 3, 4 * math.pi / 3):
            x, y = RING_M * math.cos(angle), RING_M * math.sin(angle)
            ends = numbers(x, y, COLUMN_RADIUS_M, x, y, COLUMN_M)
            block += f'<geom type="capsule" fromto="{ends}" size="{COLUMN_RADIUS_M}" {sixth} {rough} '
            block += f'rgba="{numbers(*COLUMN_COLOUR)} 1"/>'
            board += shapes.socket(
                4,
                COLUMN_RADIUS_M + COLUMN_CLEARANCE_M,
                straight_m=COLUMN_DEPTH_M,
                wall_m=COLUMN_WALL_M,
                floor_m=FLOOR_M,
                centre=(x, y),
                turn_rad=angle,
                attributes=f'{shapes.SMOOTH} rgba="{numbers(*BOARD_COLOUR)} 1"',
            )
        return (
            f'<body name="{BOARD}" mocap="true">{board}</body>'
            f'<body name="{BLOCK}"><freejoint name="{BLOCK}"/>{block}</body>'
        )

    def splat_spacing(self, body: str) -> float:
        """Returns spacings that are fine enough for the wrist camera."""
        return {BLOCK: 0.009, BOARD: 0.006}[body]
