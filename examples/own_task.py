"""This example is a task of one's own: put the cube on the pedestal. Run, it prints how often its expert succeeds.

`pip install -e examples` makes it known to every TwinRL process of the machine, by the entry point in pyproject.toml.
"""

from dataclasses import dataclass

import numpy as np

from protos.schema import F32, Bools
from protos.space import Box, ConfigurationSpace
from twin.randomize import DOMAINS, Conditions
from twin.tasks import TOOL, TOOL_START, WORK_BOX, Hold, Task, TaskState, expert, mirrored, shapes

CUBE, PEDESTAL, HALF_M, TOP_M = "cube", "pedestal", 0.018, 0.04  # half the cube's edge; height of the pedestal
HOLD = Hold(height_m=-0.004, width_m=(0.018, 0.051))
SEAT = expert.Seat(high_m=TOP_M + HALF_M, turn_rad=0.0)
SPACE = ConfigurationSpace(
    manipulated=CUBE,
    regions=mirrored(Box(x=(-0.62, -0.48), y=(0.08, 0.20), z=(HALF_M, HALF_M))),
    others={PEDESTAL: Box(x=(-0.40, -0.38), y=(-0.02, 0.02)), TOOL: TOOL_START},
)


@dataclass(frozen=True, kw_only=True)
class PlaceOnPedestal(Task):
    name: str = "place_on_pedestal"
    instruction: str = "Put the cube on the pedestal."
    space: ConfigurationSpace = SPACE
    action_scale: tuple[float, float] = (0.03, 0.0)  # metres and radians per step; the tool does not turn
    max_steps: int = 80
    work_box: Box = WORK_BOX
    free_bodies: tuple[str, ...] = (CUBE,)
    fixed_bodies: tuple[str, ...] = (PEDESTAL,)
    hold: Hold = HOLD

    def mjcf(self, conditions: Conditions) -> str:
        box = f'type="box" size="{HALF_M} {HALF_M} {HALF_M}" rgba=".85 .15 .15 1"'
        held = f'mass="{conditions.object_mass_kg}" {shapes.rough(conditions)}'
        stand = f'type="box" size=".03 .03 {TOP_M / 2}" pos="0 0 {TOP_M / 2}" rgba=".2 .5 .3 1"'
        return f"""<body name="{PEDESTAL}" mocap="true"><geom {stand}/></body>
            <body name="{CUBE}"><freejoint name="{CUBE}"/><geom {box} {held}/></body>"""

    def splat_spacing(self, body: str) -> float:
        return 0.012

    def succeeded(self, state: TaskState) -> Bools:
        off, high, _ = expert.misfit(state, CUBE, PEDESTAL, SEAT)
        return (off < 0.02) & (np.abs(high) < 0.005) & ~state.closing

    def expert(self, state: TaskState) -> F32:
        off, high, _ = expert.misfit(state, CUBE, PEDESTAL, SEAT)
        grasp, carry = expert.reach(state, CUBE, HOLD), expert.carry_in(state, CUBE, PEDESTAL, SEAT, HOLD)
        return expert.act(state, grasp, carry, (off < 0.015) & (np.abs(high) < 0.004), self.action_scale)


if __name__ == "__main__":
    from twin.env import trials

    print(f"{trials(PlaceOnPedestal(), DOMAINS['twin'], 'B', 20, seed=0).successes} of 20 episodes succeeded")
