"""This module knows the geometry of UR e-Series arms: which joints put the tool where, and how fast they must turn.

    joints ─► flange (by the published DH parameters) ─► tool ─► position, rotation
    motion of the tool ─► motion of the joints, by the Jacobian; without bound near a singularity

An arm's calibration differs from the published numbers by millimetres. The joints of streamed targets are tracked from
measured ones, so what differs there is put down to the tool; `model_error` tells a wrong model or tool from it.

Source: Universal Robots, "DH parameters for calculations of kinematics and dynamics"; data sheets of the arms;
Universal_Robots_ROS2_Description (offsets of the tubes).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from protos.schema import F64
from twin.rotations import matrix_from_vector, turn_between

ModelName = Literal["ur3e", "ur5e", "ur10e", "ur16e"]
Numbers = tuple[float, ...]
DAMPING = 1e-10 * np.eye(6)
"""Added to J J^T: small enough that a singular pose shows as fast joints, large enough to solve."""
EXACT = 1e-10
"""Joints that miss a pose by more [m, rad] do not reach it. Near a singularity joints err by the miss over the smallest
singular value of the Jacobian, so a coarse bound lets the joints that are tracked drift away from the arm's."""
NEWTON_STEPS = 6
_SINES = (1.0, 0.0, 0.0, 1.0, -1.0, 0.0)
"""Sines of the twists alpha: +90, 0, 0, +90, -90 and 0 degrees; a cosine is 0 where its sine is not."""


@dataclass(frozen=True, kw_only=True)
class ArmModel:
    """Published geometry [m] and joint speeds of one arm, and what is needed to know how much room it takes."""

    upper_arm_m: float
    forearm_m: float
    offsets_m: tuple[float, float, float, float]
    """d1, d4, d5 and d6."""
    speeds_deg_s: tuple[float, float, float, float, float, float]
    sides_m: tuple[float, float]
    """Distances at which the tubes of upper arm and forearm run beside the plane of their joints."""
    girth: float
    """Its footprint's diameter over a UR5e's."""

    @property
    def speeds_rad_s(self) -> F64:
        """Largest speeds of the joints (6,) by the data sheet."""
        return np.radians(self.speeds_deg_s)


MODELS: Mapping[ModelName, ArmModel] = {
    "ur3e": ArmModel(
        upper_arm_m=0.24355,
        forearm_m=0.2132,
        offsets_m=(0.15185, 0.13105, 0.08535, 0.0921),
        speeds_deg_s=(180, 180, 180, 360, 360, 360),
        sides_m=(0.12, 0.027),
        girth=128 / 149,
    ),
    "ur5e": ArmModel(
        upper_arm_m=0.425,
        forearm_m=0.3922,
        offsets_m=(0.1625, 0.1333, 0.0997, 0.0996),
        speeds_deg_s=(180, 180, 180, 180, 180, 180),
        sides_m=(0.136, 0.01),
        girth=1.0,
    ),
    "ur10e": ArmModel(
        upper_arm_m=0.6127,
        forearm_m=0.57155,
        offsets_m=(0.1807, 0.17415, 0.11985, 0.11655),
        speeds_deg_s=(120, 120, 180, 180, 180, 180),
        sides_m=(0.176, 0.039),
        girth=190 / 149,
    ),
    "ur16e": ArmModel(
        upper_arm_m=0.4784,
        forearm_m=0.36,
        offsets_m=(0.1807, 0.17415, 0.11985, 0.11655),
        speeds_deg_s=(120, 120, 180, 180, 180, 180),
        sides_m=(0.176, 0.039),
        girth=190 / 149,
    ),
}


@dataclass(frozen=True)
class Posture:
    """A posture is an arm at joint angles: the place of its tool, and the axes that it turns about."""

    joints: F64  # (6,) rad
    position: F64  # (3,) m, of the TCP
    rotation: F64  # (3, 3), base_from_tcp
    axes: tuple[Numbers, ...]
    """A point on the axis of every joint, and the axis's direction."""

    @cached_property
    def inverse(self) -> F64:
        """The motions of the joints for motions of the TCP [m, rad], to first order: (6 joints, 6)."""
        jacobian = self._jacobian()
        return np.asarray(jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + DAMPING))

    def missing(self, position: F64, rotation: F64) -> F64:
        """Returns what the TCP lacks (6,) [m, rad] to a pose close by; of the rotation, to second order."""
        (_, a, b), (c, _, d), (e, f, _) = (rotation @ self.rotation.T).tolist()
        x, y, z = (position - self.position).tolist()
        return np.array((x, y, z, (f - d) / 2, (b - e) / 2, (c - a) / 2))

    def _jacobian(self) -> F64:
        """Returns the geometric Jacobian (6, 6) of the TCP: linear rows axis x (tcp - origin), angular rows axis."""
        x, y, z = self.position.tolist()
        rows = []
        for a, b, c, u, v, w in self.axes:
            p, q, r = x - a, y - b, z - c
            rows.append((v * r - w * q, w * p - u * r, u * q - v * p, u, v, w))
        return np.array(rows).T


class ArmKinematics:
    """Computes positions, rotations and joint motions of one arm, flange or tool, in the controller's base frame.

    It computes number by number: arrays of so few take longer, and a driver does this in every cycle.
    """

    def __init__(self, model: ModelName) -> None:
        one = MODELS[model]
        d1, d4, d5, d6 = one.offsets_m
        offsets, along = (d1, 0.0, 0.0, d4, d5, d6), (0.0, -one.upper_arm_m, -one.forearm_m, 0.0, 0.0, 0.0)
        self._rows = tuple(zip(offsets, along, _SINES, strict=True))
        self.tool_position, self.tool_rotation = np.zeros(3), np.eye(3)
        """Flange_from_tcp."""

    def steps(self) -> F64:
        """Returns the fixed part of every row (6, 4, 4): from a joint's frame, once turned, to the next one's."""
        steps = np.tile(np.eye(4), (len(self._rows), 1, 1))
        for step, (offset, along, sine) in zip(steps, self._rows, strict=True):
            step[:3, 3] = along, 0.0, offset
            if sine:
                step[1:3, 1:3] = (0.0, -sine), (sine, 0.0)
        return steps

    def fit_tool(self, joints: F64, position: F64, rotation: F64) -> None:
        """Takes for the tool what lies between the flange at `joints` (6,) and a measured TCP (3,), (3, 3)."""
        place, turn, _ = self._flange(joints)
        self.tool_position, self.tool_rotation = turn.T @ (position - place), turn.T @ rotation

    def at(self, joints: F64) -> Posture:
        """Returns the arm with its joints (6,) [rad] so."""
        place, turn, axes = self._flange(joints)
        return Posture(joints, place + turn @ self.tool_position, turn @ self.tool_rotation, axes)

    def follow(self, joints: F64, position: F64, rotation: F64) -> Posture | None:
        """Returns the arm with its TCP at a pose close by; `joints` (6,) are nearly those.

        None where Newton's method does not come to the pose: it is out of reach, or singular.
        """
        arm = self.at(joints)
        inverse = None
        for _ in range(NEWTON_STEPS):
            missing = arm.missing(position, rotation)
            if max(map(abs, missing.tolist())) < EXACT:
                return arm
            inverse = arm.inverse if inverse is None else inverse
            arm = self.at(arm.joints + inverse @ missing)
        return None

    def _flange(self, joints: F64) -> tuple[F64, F64, tuple[Numbers, ...]]:
        """Returns the flange's position (3,) and rotation (3, 3), and the axes, by one DH row after another."""
        axes = []
        a = b = c = 0.0  # the position
        xa, xb, xc, ya, yb, yc, za, zb, zc = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0  # the frame's axes
        for angle, (offset, along, sine) in zip(joints.tolist(), self._rows, strict=True):
            axes.append((a, b, c, za, zb, zc))
            cos, sin = (math.cos(angle), math.sin(angle)) if math.isfinite(angle) else (math.nan, math.nan)
            xa, ya = xa * cos + ya * sin, ya * cos - xa * sin
            xb, yb = xb * cos + yb * sin, yb * cos - xb * sin
            xc, yc = xc * cos + yc * sin, yc * cos - xc * sin
            a, b, c = a + za * offset + xa * along, b + zb * offset + xb * along, c + zc * offset + xc * along
            if sine:
                ya, yb, yc, za, zb, zc = sine * za, sine * zb, sine * zc, -sine * ya, -sine * yb, -sine * yc
        return np.array((a, b, c)), np.array(((xa, ya, za), (xb, yb, zb), (xc, yc, zc))), tuple(axes)


def model_error(model: ModelName, joints: F64, pose: F64, tcp_offset: F64) -> tuple[float, float]:
    """Returns how far [m, rad] a reported TCP pose (6,) is from where the model puts it.

    `joints` (6,) and `tcp_offset` (6,; flange_from_tcp as a pose) are what the controller reports with it.
    """
    arm = ArmKinematics(model)
    arm.tool_position, arm.tool_rotation = tcp_offset[:3], matrix_from_vector(tcp_offset[3:])
    found = arm.at(joints)
    turn = turn_between(found.rotation, matrix_from_vector(pose[3:]))
    return float(np.linalg.norm(pose[:3] - found.position)), float(np.linalg.norm(turn))
