"""Put the hexagonal block into its socket. Region A lies at y > 0, region B mirrors it at y < 0."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from protos.schema import F32, Bools
from protos.space import Box, ConfigurationSpace
from twin.randomize import Domain
from twin.robots.mjcf import numbers
from twin.tasks import expert, shapes
from twin.tasks.base import TOOL, Hold, Task, TaskState

BLOCK, SOCKET = "block", "socket"
APOTHEM_M, HALF_HEIGHT_M = 0.020, 0.025
"""Half across the flats, and half the height, of the block."""
CLEARANCE_M = 0.00125
"""Between block and socket on every side, below the chamfer."""
CHAMFER = (0.006, 0.007)
"""Outwards and upwards, above a straight hole of `DEPTH_M`."""
DEPTH_M, FLOOR_M, WALL_M = 0.008, 0.002, 0.012
SYMMETRY_RAD = math.pi / 3
INSIDE_M = (0.003, 0.007)
"""The expert lets go this near the axis and this little above the seat."""
SEATED_OFF_M, SEATED_HIGH_M, SEATED_RAD = 0.003, 0.004, math.radians(8)
"""The block's centre is this near the socket's axis, this little above its seat, and turned this little."""
BLOCK_COLOUR, SOCKET_COLOUR, FLOOR_COLOUR = (0.95, 0.62, 0.08), (0.10, 0.45, 0.35), (0.10, 0.10, 0.12)
BLOCK_SHIFT = (-0.25, 0.2, 0.25)
_X, _YAW = (-0.62, -0.48), (-0.3, 0.3)
SPACE = ConfigurationSpace(
    manipulated=BLOCK,
    regions={
        "A": Box(x=_X, y=(0.06, 0.20), z=(HALF_HEIGHT_M, HALF_HEIGHT_M), yaw=_YAW),
        "B": Box(x=_X, y=(-0.20, -0.06), z=(HALF_HEIGHT_M, HALF_HEIGHT_M), yaw=_YAW),
    },
    others={
        SOCKET: Box(x=(-0.40, -0.37), y=(-0.02, 0.02), yaw=(-0.15, 0.15)),
        TOOL: Box(x=(-0.56, -0.52), y=(-0.02, 0.02), z=(0.15, 0.17)),
    },
)
WORK_BOX = Box(x=(-0.70, -0.30), y=(-0.28, 0.28), z=(0.012, 0.24))
SEAT = expert.Seat(high_m=FLOOR_M + HALF_HEIGHT_M, turn_rad=SYMMETRY_RAD)
HOLD = Hold(height_m=0.005, width_m=(0.026, 0.045), near_m=0.007, turn_rad=SYMMETRY_RAD)


@dataclass(frozen=True, kw_only=True)
class InsertHexagonBlock(Task):
    """A hexagonal prism and a chamfered socket, 1.25 mm wider on every side."""

    name: str = "insert_hexagon_block"
    instruction: str = "Insert the hexagon block into the socket."
    space: ConfigurationSpace = SPACE
    action_scale: tuple[float, float] = (0.02, 0.1)
    max_steps: int = 80
    precision_m: float = CLEARANCE_M
    work_box: Box = WORK_BOX
    free_bodies: tuple[str, ...] = (BLOCK,)
    fixed_bodies: tuple[str, ...] = (SOCKET,)
    hold: Hold = HOLD
    symmetries: Mapping[str, int] = field(default_factory=lambda: {BLOCK: 6, SOCKET: 6})

    def mjcf(self, domain: Domain) -> str:
        """A free prism; a socket of six walls and six slopes, smooth, on a dark floor."""
        colour = numbers(*domain.shifted(BLOCK_COLOUR, BLOCK_SHIFT))
        block = f'mass="{domain.object_mass_kg / 3}" friction="{domain.friction} .01 .001" condim="4" rgba="{colour} 1"'
        smooth = 'friction=".2 .005 .0001" priority="1"'
        walls = shapes.socket(
            6,
            APOTHEM_M + CLEARANCE_M,
            straight_m=DEPTH_M,
            chamfer=CHAMFER,
            wall_m=WALL_M,
            floor_m=FLOOR_M,
            attributes=f'{smooth} rgba="{numbers(*SOCKET_COLOUR)} 1"',
        )
        floor = numbers(APOTHEM_M + CHAMFER[0], APOTHEM_M + CHAMFER[0], FLOOR_M / 2)
        return (
            f'<body name="{SOCKET}" mocap="true">{walls}<geom type="box" size="{floor}" pos="0 0 {FLOOR_M / 2}" '
            f'{smooth} rgba="{numbers(*FLOOR_COLOUR)} 1"/></body>'
            f'<body name="{BLOCK}"><freejoint name="{BLOCK}"/>{shapes.hexagon(APOTHEM_M, HALF_HEIGHT_M, block)}</body>'
        )

    def splat_spacing(self, body: str) -> float:
        """Fine enough for the wrist camera."""
        return {BLOCK: 0.010, SOCKET: 0.009}[body]

    def succeeded(self, state: TaskState) -> Bools:
        """The block sits in the socket and the gripper is told to let go."""
        off, high, turn = expert.misfit(state, BLOCK, SOCKET, SEAT)
        return (off < SEATED_OFF_M) & (high < SEATED_HIGH_M) & (np.abs(turn) < SEATED_RAD) & ~state.closing

    def expert(self, state: TaskState) -> F32:
        """Grasps across two flats, turns the block while it carries it, lets go when it is in the straight hole."""
        return expert.insert(state, BLOCK, SOCKET, SEAT, HOLD, INSIDE_M, self.action_scale)
