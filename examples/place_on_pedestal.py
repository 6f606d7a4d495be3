"""A task of one's own: put the cube on the pedestal. `TWINRL_TASKS=examples.place_on_pedestal` makes it known."""

from dataclasses import dataclass

import numpy as np

from protos.schema import F32, Bools
from protos.space import Box, ConfigurationSpace
from twin import tasks
from twin.randomize import Domain
from twin.tasks import TOOL, Hold, Task, TaskState, expert

CUBE, PEDESTAL = "cube", "pedestal"
HALF_M, TOP_M = 0.018, 0.04
"""Half the cube's edge; height of the pedestal."""
SEAT = expert.Seat(high_m=TOP_M + HALF_M, turn_rad=0.0)
"""Where the cube's centre comes to lie above the pedestal's origin; how it is turned does not matter."""
_X, _Z = (-0.62, -0.48), (HALF_M, HALF_M)
SPACE = ConfigurationSpace(
    manipulated=CUBE,
    regions={"A": Box(x=_X, y=(0.08, 0.20), z=_Z), "B": Box(x=_X, y=(-0.20, -0.08), z=_Z)},
    others={
        PEDESTAL: Box(x=(-0.40, -0.38), y=(-0.02, 0.02)),
        TOOL: Box(x=(-0.56, -0.52), y=(-0.02, 0.02), z=(0.15, 0.17)),
    },
)
WORK_BOX = Box(x=(-0.70, -0.30), y=(-0.28, 0.28), z=(0.012, 0.24))
HOLD = Hold(height_m=-0.004, width_m=(0.018, 0.051))


@dataclass(frozen=True, kw_only=True)
class PlaceOnPedestal(Task):
    """A free cube and a block that stays where it is."""

    name: str = "place_on_pedestal"
    instruction: str = "Put the cube on the pedestal."
    space: ConfigurationSpace = SPACE
    action_scale: tuple[float, float] = (0.03, 0.0)
    max_steps: int = 80
    work_box: Box = WORK_BOX
    free_bodies: tuple[str, ...] = (CUBE,)
    fixed_bodies: tuple[str, ...] = (PEDESTAL,)
    hold: Hold = HOLD

    def mjcf(self, domain: Domain) -> str:
        """MuJoCo's language; what the domain randomises comes from it."""
        rub = f'friction="{domain.friction} .01 .001" condim="4"'
        return f"""
            <body name="{PEDESTAL}" mocap="true">
              <geom type="box" size=".03 .03 {TOP_M / 2}" pos="0 0 {TOP_M / 2}" rgba=".2 .5 .3 1"/></body>
            <body name="{CUBE}"><freejoint name="{CUBE}"/>
              <geom type="box" size="{HALF_M} {HALF_M} {HALF_M}" mass="{domain.object_mass_kg}" {rub}
                    rgba=".85 .15 .15 1"/></body>"""

    def splat_spacing(self, body: str) -> float:
        """Both are drawn equally finely."""
        return 0.012

    def succeeded(self, state: TaskState) -> Bools:
        """It lies on the pedestal, and the gripper has let go of it."""
        off, high, _ = expert.misfit(state, CUBE, PEDESTAL, SEAT)
        return (off < 0.02) & (np.abs(high) < 0.005) & ~state.closing

    def expert(self, state: TaskState) -> F32:
        """Reach, grasp, carry over the pedestal and down; let go when it lies there."""
        off, high, _ = expert.misfit(state, CUBE, PEDESTAL, SEAT)
        grasp = expert.reach(state, CUBE, self.hold)
        carry = expert.carry_in(state, CUBE, PEDESTAL, SEAT, self.hold)
        return expert.act(state, grasp, carry, (off < 0.015) & (np.abs(high) < 0.004), self.action_scale)


tasks.register(PlaceOnPedestal)
