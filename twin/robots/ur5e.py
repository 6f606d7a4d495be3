"""This module describes the UR5e arm: published kinematics and masses, drawn as capsules.

Kinematics, masses and centres of mass: Universal Robots, "DH parameters for calculations of kinematics and dynamics".
Inertias: Universal_Robots_ROS2_Description, config/ur5e. Torque and speed limits: UR5e data sheet. The base frame is
the controller's. Universal Robots states a link's inertial in its DH frame, at the far end of the link; a link's frame
here is its joint's, at the near end, so joint angles equal the controller's.
"""

import math

import numpy as np

from twin.robots.base import (
    BLUE,
    DARK,
    LIGHT_GREY,
    Capsule,
    Cylinder,
    Inertial,
    Link,
    Part,
    Robot,
    Transform,
    Triple,
    standard_dh,
)
from twin.robots.grippers import ROBOTIQ_2F85

_BIG = {"torque": 150.0, "stiffness": 4000.0, "servo_damping": 200.0}
_SMALL = {"torque": 28.0, "stiffness": 800.0, "servo_damping": 20.0}
_ROWS = (
    standard_dh(0.0, 0.1625, math.pi / 2),
    standard_dh(-0.425, 0.0, 0.0),
    standard_dh(-0.3922, 0.0, 0.0),
    standard_dh(0.0, 0.1333, math.pi / 2),
    standard_dh(0.0, 0.0997, -math.pi / 2),
    standard_dh(0.0, 0.0996, 0.0),
)


def _inertial(row: Transform, mass: float, com: Triple, inertia: Triple) -> Inertial:
    """Moves what is published in a link's DH frame (inertia along its axes) into the frame of its joint."""
    placed = row.matrix
    turned = placed[:3, :3] @ np.diag(inertia) @ placed[:3, :3].T
    x, y, z = (float(value) for value in placed[:3, :3] @ com + placed[:3, 3])
    xx, yy, zz, xy, xz, yz = (float(turned[i, j]) for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)))
    return Inertial(mass=mass, com=(x, y, z), inertia=(xx, yy, zz, xy, xz, yz))


def _link(index: int, name: str, inertial: tuple[float, Triple, Triple], motor: dict[str, float], *parts: Part) -> Link:
    return Link(
        name=name,
        parent_from_joint=_ROWS[index - 1] if index else Transform(),
        inertial=_inertial(_ROWS[index], *inertial),
        range=(-2 * math.pi, 2 * math.pi),
        velocity=math.pi,
        armature=0.3,
        parts=parts,
        **motor,
    )


UR5E = Robot(
    name="ur5e",
    base_mass_kg=4.0,
    base_parts=(Cylinder(centre=(0, 0, 0.04), radius=0.075, half_height=0.04, colour=DARK),),
    links=(
        _link(
            0,
            "shoulder",
            (3.761, (0.0, -0.02561, 0.00193), (0.00700, 0.00648, 0.00657)),
            _BIG,
            Capsule(start=(0, 0, 0.06), end=(0, 0, 0.1625), radius=0.06, colour=BLUE),
        ),
        _link(
            1,
            "upper_arm",
            (8.058, (0.2125, 0.0, 0.11336), (0.01506, 0.33388, 0.33247)),
            _BIG,
            Capsule(start=(0, 0, 0), end=(0, 0, 0.13), radius=0.058, colour=BLUE),
            Capsule(start=(0, 0, 0.136), end=(-0.425, 0, 0.136), radius=0.05, colour=LIGHT_GREY),
        ),
        _link(
            2,
            "forearm",
            (2.846, (0.15, 0.0, 0.0265), (0.00400, 0.07879, 0.07849)),
            _BIG,
            Capsule(start=(0, 0, 0.136), end=(0, 0, 0.02), radius=0.048, colour=BLUE),
            Capsule(start=(0, 0, 0.01), end=(-0.3922, 0, 0.01), radius=0.042, colour=LIGHT_GREY),
        ),
        _link(
            3,
            "wrist_1",
            (1.37, (0.0, -0.0018, 0.01634), (0.00165, 0.00136, 0.00126)),
            _SMALL,
            Capsule(start=(0, 0, 0.01), end=(0, 0, 0.1333), radius=0.040, colour=BLUE),
        ),
        _link(
            4,
            "wrist_2",
            (1.3, (0.0, 0.0018, 0.01634), (0.00136, 0.00128, 0.00097)),
            _SMALL,
            Capsule(start=(0, 0, 0), end=(0, 0, 0.0997), radius=0.040, colour=LIGHT_GREY),
        ),
        _link(
            5,
            "wrist_3",
            (0.365, (0.0, 0.0, -0.001159), (0.000187, 0.000189, 0.000258)),
            _SMALL,
            Capsule(start=(0, 0, 0.02), end=(0, 0, 0.07), radius=0.038, colour=BLUE),
        ),
    ),
    flange=_ROWS[-1],
    gripper=ROBOTIQ_2F85,
    home=(0.0, -1.2, 1.6, -1.97, -1.571, math.pi),
)
