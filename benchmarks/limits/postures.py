"""This module draws postures of the arm to start from, and finds the joints that servo targets ask for.

Its kinematics are the twin's, not the driver's.
"""

import numpy as np

from protos.schema import F64
from twin.kinematics import Kinematics
from twin.robots import UR5E
from twin.rotations import matrix_from_vector

EXACT, REACHED = 1e-10, 1e-3
"""Joints that miss a target by more [m, of a matrix's entries] are improved; by much more, they do not reach it. Near a
singularity a small miss of the tool is a large one of the joints, and shows as a speed that the joints do not have."""
ITERATIONS = 30
FARTHEST_RAD = 6.1
"""Any posture has its joints this far from 0 at most: a little nearer than the end at which an arm is held."""
KINEMATICS = Kinematics(UR5E)


def joints_at(position: F64, yaw: float) -> F64:
    """Returns joints (6,) with the tool pointing down at a position (3,) [m], turned by `yaw` [rad]."""
    return KINEMATICS.start_joints(position, yaw)[0]


def any_posture(low: F64, high: F64, rng: np.random.Generator) -> F64:
    """Returns joints (6,) drawn from all of their range with the tool between two corners (3,) [m] of a box.

    Every second arm has its wrist or elbow almost straight.
    """
    while True:
        joints = rng.uniform(-FARTHEST_RAD, FARTHEST_RAD, (4096, 6))
        straight = rng.choice([2, 4])
        joints[::2, straight] = rng.normal(0, 0.15, 2048)
        position, _ = KINEMATICS.forward(joints)
        inside = np.flatnonzero(((position > low) & (position < high)).all(1))
        if len(inside):
            return np.asarray(joints[rng.choice(inside)])


def reach(pose: F64, near: F64) -> F64 | None:
    """Returns the joints (6,) near others that put the TCP at a pose (6,); None where there are none."""
    position, rotation, joints = pose[None, :3], matrix_from_vector(pose[3:]), near[None]
    for _ in range(ITERATIONS):
        reached, turned = KINEMATICS.forward(joints)
        miss = max(np.abs(reached - position).max(), np.abs(turned - rotation).max())
        if miss < EXACT:
            break
        joints = KINEMATICS.inverse(joints, position, rotation, iterations=1, damping=1e-10)
    return np.asarray(joints[0]) if miss < REACHED else None
