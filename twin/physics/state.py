"""This module reads proprioception, a task's state and faults from physics, and parks what a task retires.

    physics ─► proprio_of ─► observations
       │
       ├─────► state_of ─► TaskState ─► task.succeeded, task.expert
       │                       └──────► task.retired ─► retire ─► bodies parked below the table, out of every camera
       └─────► broken, fault_of: worlds whose bodies are not finite, or were flung away by an exploding contact

MuJoCo goes on with a broken world, and its arm may look as if nothing had happened while an object is nowhere; so the
vector twin looks at every body after each step and shows NaN in the proprioception of a broken slot.
"""

import numpy as np

from protos.proprioception import proprioception, tool_vector
from protos.schema import F32, F64, Bools
from twin.physics.interface import Physics
from twin.rotations import turn_between, vector_from_matrix
from twin.tasks import PARKED_Z_M, TaskState

REACH_M = 10.0
"""A body farther from the robot than this was flung there."""
JOINT_SPEED_RAD_S = 50.0
"""The arm's own limit is 3.1 rad/s; only an explosion makes it this fast."""


def state_of(physics: Physics, *, commanded: F64, commanded_rotation: F64, closing: Bools, told: Bools) -> TaskState:
    """Returns the state of every slot; measured quantities are live views."""
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


def proprio_of(physics: Physics, position: F64, rotation: F64) -> F32:
    """Returns the proprioception (n, 25), laid out as in `protos.schema`.

    The arm is told to go to `position` (n, 3) and `rotation` (n, 3, 3).
    """
    turn = turn_between(physics.tool_rotation, rotation)
    return proprioception(
        position=physics.tool_position,
        rotation=vector_from_matrix(physics.tool_rotation),
        velocity=physics.tool_velocity,
        wrench=physics.wrench,
        opening=physics.opening,
        under_way=np.concatenate([position - physics.tool_position, turn], axis=1),
    )


def tool_poses(physics: Physics) -> F64:
    """Returns measured TCP positions [m] and rotations (n, 6), these as `tool_vector`."""
    vectors = tool_vector(vector_from_matrix(physics.tool_rotation))
    return np.concatenate([physics.tool_position, vectors], axis=1)


def retire(physics: Physics, state: TaskState) -> None:
    """Parks what the task says has vanished in `state`."""
    for name, gone in physics.task.retired(state).items():
        slots = np.flatnonzero(gone & state.has(name))
        if len(slots):
            x, y, _ = state.bodies[name][slots].T
            physics.place(slots, {name: np.column_stack([x, y, np.full(len(slots), PARKED_Z_M), 0 * x])})


def broken(physics: Physics) -> Bools:
    """Returns the slots (n,) whose bodies or joints are where no sound world puts them."""
    with np.errstate(invalid="ignore"):
        bodies = np.abs(physics.body_positions).max(axis=(1, 2)) < REACH_M
        joints = np.abs(physics.joint_velocities).max(axis=1) < JOINT_SPEED_RAD_S
        angles = np.isfinite(physics.joints).all(axis=1)
    return ~(bodies & joints & angles)


def fault_of(physics: Physics, slot: int) -> str:
    """Says in one line what is wrong with a slot's physics; empty when nothing is."""
    for body, position in enumerate(physics.body_positions[slot]):
        if not np.isfinite(position).all():
            return f"physics: body {physics.model.body(body).name!r} is not finite"
        if np.abs(position).max() >= REACH_M:
            where = ", ".join(f"{value:.3g}" for value in position)
            return f"physics: body {physics.model.body(body).name!r} at ({where}) m, limit {REACH_M:g} m"
    speeds = physics.joint_velocities[slot]
    if not np.isfinite(speeds).all() or not np.isfinite(physics.joints[slot]).all():
        return "physics: a joint is not finite"
    if np.abs(speeds).max() >= JOINT_SPEED_RAD_S:
        return f"physics: a joint at {np.abs(speeds).max():.3g} rad/s, limit {JOINT_SPEED_RAD_S:g}"
    return ""
