"""This module knows the geometry of UR e-Series arms: which joints put the tool where, and how fast they must turn.

    joints ─► flange (by the published DH parameters) ─► tool ─► position, rotation
    motion of the tool ─► motion of the joints, by the Jacobian; without bound near a singularity

An arm's calibration differs from the published numbers by millimetres. The joints of streamed targets are tracked from
measured ones, so what differs there is put down to the tool; `model_error` tells a wrong model or tool from it.

Source: Universal Robots, "DH parameters for calculations of kinematics and dynamics"; data sheets of the arms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from protos.schema import F64
from twin.rotations import matrix_from_vector, turn_between

ModelName = Literal["ur3e", "ur5e", "ur10e", "ur16e"]
JOINTS = 6
DAMPING = 1e-6
"""Added to J J^T: small enough that a singular pose shows as fast joints, large enough to solve."""
_COSINES = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
_SINES = np.array([1.0, 0.0, 0.0, 1.0, -1.0, 0.0])
"""Cosines and sines of the twists alpha: +90, 0, 0, +90, -90 and 0 degrees."""


@dataclass(frozen=True, kw_only=True)
class ArmModel:
    """Published geometry [m] and joint speeds of one arm."""

    upper_arm_m: float
    forearm_m: float
    offsets_m: tuple[float, float, float, float]
    """d1, d4, d5 and d6."""
    speeds_deg_s: tuple[float, float, float, float, float, float]

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
    ),
    "ur5e": ArmModel(
        upper_arm_m=0.425,
        forearm_m=0.3922,
        offsets_m=(0.1625, 0.1333, 0.0997, 0.0996),
        speeds_deg_s=(180, 180, 180, 180, 180, 180),
    ),
    "ur10e": ArmModel(
        upper_arm_m=0.6127,
        forearm_m=0.57155,
        offsets_m=(0.1807, 0.17415, 0.11985, 0.11655),
        speeds_deg_s=(120, 120, 180, 180, 180, 180),
    ),
    "ur16e": ArmModel(
        upper_arm_m=0.4784,
        forearm_m=0.36,
        offsets_m=(0.1807, 0.17415, 0.11985, 0.11655),
        speeds_deg_s=(120, 120, 180, 180, 180, 180),
    ),
}


class ArmKinematics:
    """Computes positions, rotations and joint motions of one arm, flange or tool, in the controller's base frame."""

    def __init__(self, model: ModelName) -> None:
        one = MODELS[model]
        d1, d4, d5, d6 = one.offsets_m
        self._along = np.array([0.0, -one.upper_arm_m, -one.forearm_m, 0.0, 0.0, 0.0])
        self._rows = np.zeros((JOINTS, 4, 4))
        self._rows[:, 2, 1], self._rows[:, 2, 2], self._rows[:, 2, 3] = _SINES, _COSINES, [d1, 0.0, 0.0, d4, d5, d6]
        self._rows[:, 3, 3] = 1.0
        self.tool_position, self.tool_rotation = np.zeros(3), np.eye(3)
        """Flange_from_tcp."""

    def fit_tool(self, joints: F64, position: F64, rotation: F64) -> None:
        """Takes for the tool what lies between the flange at `joints` (6,) and a measured TCP (3,), (3, 3)."""
        frames = self._frames(joints)
        back = frames[-1, :3, :3].T
        self.tool_position, self.tool_rotation = back @ (position - frames[-1, :3, 3]), back @ rotation

    def forward(self, joints: F64) -> tuple[F64, F64]:
        """Returns the TCP's position (3,) and rotation (3, 3)."""
        flange = self._frames(joints)[-1]
        return flange[:3, 3] + flange[:3, :3] @ self.tool_position, flange[:3, :3] @ self.tool_rotation

    def joint_motion(self, joints: F64, motion: F64) -> F64:
        """Returns the motion of the joints (6,) [rad] that moves the TCP by `motion` (6,) [m, rad] to first order."""
        jacobian = self._jacobian(self._frames(joints))
        return jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING * np.eye(6), motion)

    def corrected(self, joints: F64, position: F64, rotation: F64) -> F64:
        """Returns the joints (6,) after one step of Newton's method towards a TCP pose close by."""
        return joints + self.joint_motion(joints, self.missing(joints, position, rotation))

    def missing(self, joints: F64, position: F64, rotation: F64) -> F64:
        """Returns what the TCP lacks (6,) [m, rad] to a pose close by; of the rotation, to second order."""
        reached, turned = self.forward(joints)
        relative = rotation @ turned.T
        half = (relative - relative.T) / 2
        return np.concatenate([position - reached, [half[2, 1], half[0, 2], half[1, 0]]])

    def _frames(self, joints: F64) -> F64:
        """Returns base_from_link (7, 4, 4): the base, then every link by its DH row; the last is the flange."""
        c, s, rows = np.cos(joints), np.sin(joints), self._rows.copy()
        rows[:, 0, 0], rows[:, 0, 1], rows[:, 0, 2], rows[:, 0, 3] = c, -s * _COSINES, s * _SINES, self._along * c
        rows[:, 1, 0], rows[:, 1, 1], rows[:, 1, 2], rows[:, 1, 3] = s, c * _COSINES, -c * _SINES, self._along * s
        frames = np.empty((JOINTS + 1, 4, 4))
        frames[0] = np.eye(4)
        for index in range(JOINTS):
            np.matmul(frames[index], rows[index], out=frames[index + 1])
        return frames

    def _jacobian(self, frames: F64) -> F64:
        """Returns the geometric Jacobian (6, 6) of the TCP: linear rows axis x (tcp - origin), angular rows axis."""
        tcp = frames[-1, :3, 3] + frames[-1, :3, :3] @ self.tool_position
        axes, arms = frames[:-1, :3, 2], tcp - frames[:-1, :3, 3]
        (x, y, z), (p, q, r) = axes.T, arms.T
        return np.array([y * r - z * q, z * p - x * r, x * q - y * p, x, y, z])


def model_error(model: ModelName, joints: F64, pose: F64, tcp_offset: F64) -> tuple[float, float]:
    """Returns how far [m, rad] a reported TCP pose (6,) is from where the model puts it.

    `joints` (6,) and `tcp_offset` (6,; flange_from_tcp as a pose) are what the controller reports with it.
    """
    arm = ArmKinematics(model)
    arm.tool_position, arm.tool_rotation = tcp_offset[:3], matrix_from_vector(tcp_offset[3:])
    position, rotation = arm.forward(joints)
    turn = turn_between(rotation, matrix_from_vector(pose[3:]))
    return float(np.linalg.norm(pose[:3] - position)), float(np.linalg.norm(turn))
