"""Worlds whose physics broke: not finite, or flung away by an exploding contact.

MuJoCo goes on with such a world, and its arm may look as if nothing had happened while an object is nowhere; so the
vector twin looks at every body after each step and shows NaN in the proprioception of a broken slot.
"""

import numpy as np

from protos.schema import Bools
from twin.physics import Physics

REACH_M = 10.0
"""A body farther from the robot than this was flung there."""
JOINT_SPEED_RAD_S = 50.0
"""The arm's own limit is 3.1 rad/s; only an explosion makes it this fast."""


def broken(physics: Physics) -> Bools:
    """(n,) slots whose bodies or joints are where no world puts them."""
    with np.errstate(invalid="ignore"):
        bodies = np.abs(physics.body_positions).max(axis=(1, 2)) < REACH_M
        joints = np.abs(physics.joint_velocities).max(axis=1) < JOINT_SPEED_RAD_S
        angles = np.isfinite(physics.joints).all(axis=1)
    return ~(bodies & joints & angles)


def describe(physics: Physics, slot: int) -> str:
    """What is wrong with a slot's physics, in one line; empty when nothing is."""
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
