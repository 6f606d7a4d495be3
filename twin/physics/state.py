"""The privileged state that a task looks at, read from physics; and the marks that a task lets vanish.

physics ─► state_of ─► TaskState ─► task.succeeded, task.expert
                           └──────► task.retired ─► retire ─► bodies parked below the table, out of every camera
"""

import numpy as np

from protos.schema import F64, Bools
from twin.physics import Physics
from twin.tasks.base import PARKED_Z_M, TaskState


def state_of(physics: Physics, *, commanded: F64, commanded_rotation: F64, closing: Bools, told: Bools) -> TaskState:
    """The state of every slot; measured quantities are live views."""
    bodies = physics.task.bodies
    return TaskState(
        tool=physics.tool_position,
        tool_rotation=physics.tool_rotation,
        tool_velocity=physics.tool_velocity[:, :3],
        commanded=commanded,
        commanded_rotation=commanded_rotation,
        opening=physics.opening,
        closing=closing,
        stroke_m=physics.robot.gripper.stroke_m,
        told_to_close=told,
        bodies={name: physics.body_position(name) for name in bodies},
        rotations={name: physics.body_rotation(name) for name in bodies},
    )


def retire(physics: Physics, state: TaskState) -> None:
    """Takes away what the task says has vanished in `state`."""
    for name, gone in physics.task.retired(state).items():
        slots = np.flatnonzero(gone & state.has(name))
        if len(slots):
            x, y, _ = state.bodies[name][slots].T
            physics.place(slots, {name: np.column_stack([x, y, np.full(len(slots), PARKED_Z_M), 0 * x])})
