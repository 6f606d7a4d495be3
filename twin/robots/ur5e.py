"""The UR5e arm: published kinematics and masses, drawn as capsules.

Kinematics, masses and centres of mass: Universal Robots, "DH parameters for calculations of kinematics and dynamics".
Inertias: Universal_Robots_ROS2_Description, config/ur5e. Torque limits: UR5e data sheet. The base frame is the
controller's; each MuJoCo body stands at the DH frame of the link before it, so joint angles equal the controller's.
"""

import math
from dataclasses import dataclass

import numpy as np

from twin.robots.mjcf import numbers

Triple = tuple[float, float, float]
JOINT_RANGE_RAD = 2 * math.pi
BASE_MASS_KG = 4.0
ARMATURE = 0.3
"""Reflected rotor inertia of every joint [kg m^2]; keeps the stiff joint servos stable at 5 ms."""
DAMPING = 1.0
LIGHT_GREY, BLUE, DARK = (0.78, 0.80, 0.83), (0.30, 0.52, 0.80), (0.16, 0.16, 0.18)
BASE_RADIUS_M, BASE_HALF_HEIGHT_M = 0.075, 0.04


@dataclass(frozen=True, kw_only=True)
class Capsule:
    """A visible part of a link, in the link's body frame [m]."""

    start: Triple
    end: Triple
    radius: float
    colour: Triple


@dataclass(frozen=True, kw_only=True)
class Link:
    """One joint and the link that it turns."""

    name: str
    a: float  # m
    d: float  # m
    alpha: float  # rad
    mass: float  # kg
    com: Triple  # m, in the link's DH frame
    inertia: Triple  # kg m^2, about the centre of mass, axes of the link's DH frame
    torque: float  # Nm
    stiffness: float  # Nm/rad of the position servo
    damping: float  # Nm s/rad of the position servo
    capsules: tuple[Capsule, ...]


_BIG = {"torque": 150.0, "stiffness": 4000.0, "damping": 200.0}
_SMALL = {"torque": 28.0, "stiffness": 800.0, "damping": 20.0}
LINKS = (
    Link(
        name="shoulder",
        a=0.0,
        d=0.1625,
        alpha=math.pi / 2,
        mass=3.761,
        com=(0.0, -0.02561, 0.00193),
        inertia=(0.00700, 0.00648, 0.00657),
        capsules=(Capsule(start=(0, 0, 0.06), end=(0, 0, 0.1625), radius=0.06, colour=BLUE),),
        **_BIG,
    ),
    Link(
        name="upper_arm",
        a=-0.425,
        d=0.0,
        alpha=0.0,
        mass=8.058,
        com=(0.2125, 0.0, 0.11336),
        inertia=(0.01506, 0.33388, 0.33247),
        capsules=(
            Capsule(start=(0, 0, 0), end=(0, 0, 0.13), radius=0.058, colour=BLUE),
            Capsule(start=(0, 0, 0.136), end=(-0.425, 0, 0.136), radius=0.05, colour=LIGHT_GREY),
        ),
        **_BIG,
    ),
    Link(
        name="forearm",
        a=-0.3922,
        d=0.0,
        alpha=0.0,
        mass=2.846,
        com=(0.15, 0.0, 0.0265),
        inertia=(0.00400, 0.07879, 0.07849),
        capsules=(
            Capsule(start=(0, 0, 0.136), end=(0, 0, 0.02), radius=0.048, colour=BLUE),
            Capsule(start=(0, 0, 0.01), end=(-0.3922, 0, 0.01), radius=0.042, colour=LIGHT_GREY),
        ),
        **_BIG,
    ),
    Link(
        name="wrist_1",
        a=0.0,
        d=0.1333,
        alpha=math.pi / 2,
        mass=1.37,
        com=(0.0, -0.0018, 0.01634),
        inertia=(0.00165, 0.00136, 0.00126),
        capsules=(Capsule(start=(0, 0, 0.01), end=(0, 0, 0.1333), radius=0.040, colour=BLUE),),
        **_SMALL,
    ),
    Link(
        name="wrist_2",
        a=0.0,
        d=0.0997,
        alpha=-math.pi / 2,
        mass=1.3,
        com=(0.0, 0.0018, 0.01634),
        inertia=(0.00136, 0.00128, 0.00097),
        capsules=(Capsule(start=(0, 0, 0), end=(0, 0, 0.0997), radius=0.040, colour=LIGHT_GREY),),
        **_SMALL,
    ),
    Link(
        name="wrist_3",
        a=0.0,
        d=0.0996,
        alpha=0.0,
        mass=0.365,
        com=(0.0, 0.0, -0.001159),
        inertia=(0.000187, 0.000189, 0.000258),
        capsules=(Capsule(start=(0, 0, 0.02), end=(0, 0, 0.07), radius=0.038, colour=BLUE),),
        **_SMALL,
    ),
)
JOINTS = tuple(link.name for link in LINKS)
DH_A = np.array([link.a for link in LINKS])
DH_D = np.array([link.d for link in LINKS])
DH_ALPHA = np.array([link.alpha for link in LINKS])


def arm_mjcf(flange: str) -> str:
    """The base body with the six nested links; `flange` is put into the last one's DH frame."""
    bodies, place = "", ""
    for link in LINKS:
        bodies += _link_mjcf(link, place)
        place = f'pos="{numbers(link.a, 0, link.d)}" quat="{_about_x(link.alpha)}"'
    base = f'<geom type="cylinder" size="{numbers(BASE_RADIUS_M, BASE_HALF_HEIGHT_M)}"'
    base += f' pos="{numbers(0, 0, BASE_HALF_HEIGHT_M)}" rgba="{numbers(*DARK)} 1" mass="{BASE_MASS_KG}" {VISUAL}/>'
    closing = "</body>" * len(LINKS)
    return f'<body name="base">{base}{bodies}<body name="flange" {place}>{flange}</body>{closing}</body>'


def servos_mjcf(stiffness: float) -> str:
    """One position servo per joint; `stiffness` scales them, with the damping ratio kept."""
    return "".join(
        f'<position name="{link.name}" joint="{link.name}" kp="{link.stiffness * stiffness:.9g}" '
        f'kv="{link.damping * stiffness**0.5:.9g}" forcerange="{-link.torque} {link.torque}"/>'
        for link in LINKS
    )


VISUAL = 'contype="0" conaffinity="0"'


def _link_mjcf(link: Link, place: str) -> str:
    turn = np.array(
        [
            [1, 0, 0],
            [0, math.cos(link.alpha), -math.sin(link.alpha)],
            [0, math.sin(link.alpha), math.cos(link.alpha)],
        ]
    )
    com = np.array([link.a, 0, link.d]) + turn @ link.com
    limit = numbers(-JOINT_RANGE_RAD, JOINT_RANGE_RAD)
    joint = f'<joint name="{link.name}" axis="0 0 1" range="{limit}" armature="{ARMATURE}" damping="{DAMPING}"/>'
    inertial = f'<inertial pos="{numbers(*com)}" quat="{_about_x(link.alpha)}" mass="{link.mass}" '
    inertial += f'diaginertia="{numbers(*link.inertia)}"/>'
    geoms = "".join(
        f'<geom type="capsule" fromto="{numbers(*part.start, *part.end)}" size="{part.radius}" '
        f'rgba="{numbers(*part.colour)} 1" {VISUAL}/>'
        for part in link.capsules
    )
    return f'<body name="{link.name}" {place} gravcomp="1">{joint}{inertial}{geoms}'


def _about_x(angle: float) -> str:
    return f"{math.cos(angle / 2):.15g} {math.sin(angle / 2):.15g} 0 0"
