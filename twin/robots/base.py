"""This module says what a robot is: numbers. Kinematics, physics and images are made from them.

    base ─base_from_mount─► links, one joint each ─flange─► flange ─flange_from_gripper─► gripper ─tcp_m─► TCP

A link's frame is its joint's: the joint turns about its z axis. The tool frame has its origin at the tool centre point
(TCP); z points out of the gripper and x across the fingers.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from protos.schema import F64
from twin.rotations import matrix_from_quaternion

Triple = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
LIGHT_GREY, GREY, BLUE, DARK, WHITE = (
    (0.78, 0.80, 0.83),
    (0.45, 0.48, 0.52),
    (0.30, 0.52, 0.80),
    (0.16, 0.16, 0.18),
    (0.90, 0.90, 0.88),
)


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A rigid transform a_from_b places frame b in frame a."""

    position: Triple = (0.0, 0.0, 0.0)
    """m"""
    quaternion: Quaternion = (1.0, 0.0, 0.0, 0.0)
    """wxyz, of unit length"""

    @property
    def matrix(self) -> F64:
        """Homogeneous matrix (4, 4)."""
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = matrix_from_quaternion(self.quaternion), self.position
        return out


def turned_about_z(angle: float, position: Triple = (0.0, 0.0, 0.0)) -> Transform:
    """Returns a frame at `position`, turned by `angle` [rad] about z."""
    return Transform(position=position, quaternion=(math.cos(angle / 2), 0.0, 0.0, math.sin(angle / 2)))


def standard_dh(a: float, d: float, alpha: float) -> Transform:
    """Returns the fixed part of a standard (distal) Denavit-Hartenberg row: from a joint's frame to the next one's."""
    return Transform(position=(a, 0.0, d), quaternion=_about_x(alpha))


def modified_dh(a: float, d: float, alpha: float) -> Transform:
    """Returns the fixed part of a modified (proximal, Craig's) row: from the joint before to this one."""
    return Transform(position=(a, -d * math.sin(alpha), d * math.cos(alpha)), quaternion=_about_x(alpha))


def _about_x(angle: float) -> Quaternion:
    return math.cos(angle / 2), math.sin(angle / 2), 0.0, 0.0


@dataclass(frozen=True, kw_only=True)
class Capsule:
    """A visible rounded bar, in its body's frame [m]."""

    start: Triple
    end: Triple
    radius: float
    colour: Triple


@dataclass(frozen=True, kw_only=True)
class Cylinder:
    """A visible cylinder along z, in its body's frame [m]."""

    centre: Triple
    radius: float
    half_height: float
    colour: Triple


@dataclass(frozen=True, kw_only=True)
class Block:
    """A visible box, in its body's frame [m]."""

    centre: Triple
    half: Triple
    colour: Triple


Part = Capsule | Cylinder | Block


@dataclass(frozen=True, kw_only=True)
class Inertial:
    """An inertial is mass and its distribution, in the body's frame."""

    mass: float
    """kg"""
    com: Triple
    """Centre of mass [m]"""
    inertia: tuple[float, float, float, float, float, float]
    """xx, yy, zz, xy, xz, yz about the centre of mass, along the body's axes [kg m^2]"""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link is one joint and the body that it turns."""

    name: str
    parent_from_joint: Transform
    inertial: Inertial
    range: tuple[float, float]
    """rad"""
    torque: float
    """Largest torque of the motor [Nm]"""
    velocity: float
    """Largest speed of the joint [rad/s]"""
    stiffness: float
    """Gain of the position servo [Nm/rad]"""
    servo_damping: float
    """Damping by the position servo [Nm s/rad]"""
    damping: float = 1.0
    """Damping by the bearing [Nm s/rad]"""
    armature: float
    """Rotor inertia as seen at the joint [kg m^2]; keeps the stiff servo stable at 5 ms."""
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Gripper:
    """A gripper is two flat fingers that slide apart along x, on a palm; z counts from the gripper's flange."""

    name: str
    stroke_m: float
    """Gap between the open fingers; closed they touch."""
    palm: Inertial
    palm_parts: tuple[Part, ...]
    finger_mass_kg: float
    finger_centre_m: float
    finger_half_m: Triple
    finger_colour: Triple = DARK
    tcp_m: float
    force_n: float
    """Largest force of one finger."""
    stiffness: float
    """Gain of a finger's position servo [N/m]"""
    servo_damping: float
    """Damping by a finger's position servo [N s/m]"""
    damping: float
    """Damping by a finger's guide [N s/m]"""

    @property
    def travel_m(self) -> float:
        """Travel of one finger."""
        return self.stroke_m / 2

    @property
    def mass_kg(self) -> float:
        """Mass of palm and fingers."""
        return self.palm.mass + 2 * self.finger_mass_kg

    @property
    def com_from_tcp_m(self) -> F64:
        """Centre of mass in the tool frame (3,); the weight of `mass_kg` is taken out of the measured wrench."""
        fingers = np.array([0.0, 0.0, self.finger_centre_m])
        moment = self.palm.mass * np.array(self.palm.com) + 2 * self.finger_mass_kg * fingers
        return moment / self.mass_kg - [0.0, 0.0, self.tcp_m]


FINGERS = ("finger_left", "finger_right")
"""Bodies, joints and servos of every gripper."""


@dataclass(frozen=True, kw_only=True)
class Robot:
    """A robot is an arm on its mount with a gripper at its flange."""

    name: str
    base_from_mount: Transform = Transform()
    """Place at which the arm is bolted down, in the scene's base frame: the table is z = 0, the workspace at -x."""
    base_mass_kg: float
    base_parts: tuple[Part, ...]
    links: tuple[Link, ...]
    flange: Transform
    """Pose of the flange in the last link's frame."""
    gripper: Gripper
    flange_from_gripper: Transform = Transform()
    """Pose in which the gripper is bolted on; a setting of the scene."""
    home: tuple[float, ...]
    """Tool down, over the middle of the workspace [rad]: searches begin here, and a redundant arm keeps near."""

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints, which are their links' too."""
        return tuple(link.name for link in self.links)

    @cached_property
    def flange_from_tcp(self) -> F64:
        """Pose of the TCP in the flange's frame (4, 4)."""
        return self.flange_from_gripper.matrix @ Transform(position=(0, 0, self.gripper.tcp_m)).matrix

    @cached_property
    def velocity_limits(self) -> F64:
        """Largest joint speeds (n,) [rad/s]."""
        return np.array([link.velocity for link in self.links])
