"""This module compares what a controller knows of its tool with the settings, so that nobody has to assume it.

    TCP offset, payload, centre of gravity ──┐
    where the arm says its TCP is (model) ───┤
    force at rest (the sensor's zero) ───────┼──► differences: both numbers, and the remedy at the pendant
    speed slider ────────────────────────────┘

A TCP that is 20 mm short presses the fingers into the table; a wrong payload or force zero shows up as a force that
nothing exerts, and as an arm that sinks. What the settings leave out comes from the model of the robot.
"""

import math
import re
from dataclasses import dataclass

import numpy as np

from protos.errors import InputError
from protos.schema import F64
from protos.settings import bounded
from twin.robots import UR5E, Robot
from twin.rotations import matrix_from_vector, turn_between, vector_from_matrix

Pose = tuple[float, float, float, float, float, float]
SLIDER_RESOLUTION = 0.005
OFF_MODEL_M, OFF_MODEL_RAD = 0.02, 0.05
"""Largest distance of a reported TCP from where the arm's model puts it; calibrations differ by millimetres."""


@dataclass(frozen=True, kw_only=True)
class PendantSettings:
    """Values that must be set at the pendant. The bounds of the tolerances keep them from switching a check off."""

    tcp_offset: Pose | None = None
    """Pose of the fingertips in the flange's frame [m, rotation vector]; None is that of the robot's model."""
    tcp_tolerance_m: float = 0.002
    tcp_tolerance_rad: float = 0.02
    payload_kg: float | None = None
    """Mass of all that hangs at the flange: gripper, coupling, camera; None is the gripper of the robot's model."""
    payload_tolerance_kg: float = 0.15
    payload_cog_m: tuple[float, float, float] | None = None
    """Centre of gravity in the flange's frame; None is that of the model's gripper."""
    cog_tolerance_m: float = 0.02
    rest_force_n: float = 20.0
    """Largest force that the sensor may show when nothing touches the tool."""
    speed_slider: float = 1.0
    """Smallest share at which the speed slider may stand; below it the arm lags behind what it is told."""
    oldest_software: str = "5.4"
    """Oldest PolyScope."""

    def __post_init__(self) -> None:
        ranges = {
            "tcp_tolerance_m": (0.0001, 0.01),
            "tcp_tolerance_rad": (0.001, 0.1),
            "payload_tolerance_kg": (0.01, 0.5),
            "cog_tolerance_m": (0.001, 0.05),
            "rest_force_n": (1.0, 40.0),
            "speed_slider": (0.01, 1.0),
        }
        bounded(self, "pendant ", ranges)
        if self.payload_kg is not None and not 0 <= self.payload_kg <= 20:
            raise InputError(f"pendant payload_kg={self.payload_kg}: must be 0 to 20 kg")
        for name in ("tcp_offset", "payload_cog_m"):
            numbers = getattr(self, name) or ()
            if not all(math.isfinite(number) for number in numbers) or any(abs(number) > 1 for number in numbers[:3]):
                raise InputError(f"pendant {name}={list(numbers)}: finite numbers, within 1 m of the flange")
        if not re.fullmatch(r"\d+(\.\d+)*", self.oldest_software):
            raise InputError(f"pendant oldest_software={self.oldest_software!r}: numbers, such as 5.11")

    @classmethod
    def of(cls, robot: Robot) -> "PendantSettings":
        """Returns the settings of a robot whose gripper is bolted on in its own way."""
        x, y, z, rx, ry, rz = _pose(robot.flange_from_tcp).tolist()
        cx, cy, cz = _centre(robot).tolist()
        mass = robot.gripper.mass_kg
        return cls(tcp_offset=(x, y, z, rx, ry, rz), payload_kg=mass, payload_cog_m=(cx, cy, cz))

    def differences(self, reading: "PendantReading", *, at_rest: bool) -> list[str]:
        """Returns what is set otherwise than here, with remedies. `at_rest` nothing touches the tool."""
        found = [
            self._tcp_difference(reading.tcp_offset),
            _model_difference(*reading.off_model),
            *self._payload_differences(reading),
        ]
        if at_rest and not reading.force_n <= self.rest_force_n:
            found.append(
                f"force at rest {reading.force_n:.0f} N (at most {self.rest_force_n:g}): free the tool, then zero the "
                "force sensor at the pendant"
            )
        return [text for text in (*found, self.slider_difference(reading.speed_slider)) if text]

    def slider_difference(self, share: float) -> str:
        """Returns why the speed slider's share does not do; empty when it does."""
        if share >= self.speed_slider - SLIDER_RESOLUTION:
            return ""
        return (
            f"speed slider at {share * 100:.0f} % (at least {self.speed_slider * 100:.0f} %): "
            "move it up at the pendant, or lower arm.pendant.speed_slider"
        )

    def _tcp_difference(self, offset: F64) -> str:
        expected = _pose(UR5E.flange_from_tcp) if self.tcp_offset is None else np.array(self.tcp_offset)
        apart_m = float(np.linalg.norm(offset[:3] - expected[:3]))
        turn = turn_between(matrix_from_vector(offset[3:]), matrix_from_vector(expected[3:]))
        turned_rad = float(np.linalg.norm(turn))
        if apart_m <= self.tcp_tolerance_m and turned_rad <= self.tcp_tolerance_rad:
            return ""
        return (
            f"TCP offset {_pose_text(offset)}, expected {_pose_text(expected)} ({apart_m * 1e3:.1f} mm and "
            f"{math.degrees(turned_rad):.1f} degrees apart, at most {self.tcp_tolerance_m * 1e3:g} mm and "
            f"{math.degrees(self.tcp_tolerance_rad):.1f}): set the TCP at the pendant, or "
            "correct arm.pendant.tcp_offset"
        )

    def _payload_differences(self, reading: "PendantReading") -> list[str]:
        if reading.payload_kg is None or reading.payload_cog_m is None:
            return []
        found = []
        mass = UR5E.gripper.mass_kg if self.payload_kg is None else self.payload_kg
        centre = _centre(UR5E) if self.payload_cog_m is None else np.array(self.payload_cog_m)
        if not abs(reading.payload_kg - mass) <= self.payload_tolerance_kg:
            found.append(
                f"payload {reading.payload_kg:.2f} kg, expected {mass:.2f} (within {self.payload_tolerance_kg:g}): set "
                "the payload at the pendant, or correct arm.pendant.payload_kg"
            )
        if not float(np.linalg.norm(reading.payload_cog_m - centre)) <= self.cog_tolerance_m:
            found.append(
                f"centre of gravity {_millimetres(reading.payload_cog_m)}, expected {_millimetres(centre)} (within "
                f"{self.cog_tolerance_m * 1e3:g} mm): set it at the pendant, or correct arm.pendant.payload_cog_m"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class PendantReading:
    """A reading is what a controller tells of its tool at one moment; None is what its software cannot tell."""

    tcp_offset: F64
    """(6,) m, rotation vector"""
    off_model: tuple[float, float]
    """Distance of the reported TCP from where the arm's model puts it [m, rad]"""
    payload_kg: float | None
    payload_cog_m: F64 | None
    force_n: float
    speed_slider: float


def _model_difference(metres: float, radians: float) -> str:
    if metres <= OFF_MODEL_M and radians <= OFF_MODEL_RAD:
        return ""
    return (
        f"the reported TCP is {metres * 1e3:.0f} mm and {math.degrees(radians):.1f} degrees from where the arm's model "
        f"puts it (at most {OFF_MODEL_M * 1e3:g} mm and {math.degrees(OFF_MODEL_RAD):.1f}): choose arm.model"
    )


def _pose(matrix: F64) -> F64:
    return np.concatenate([matrix[:3, 3], vector_from_matrix(matrix[:3, :3])])


def _centre(robot: Robot) -> F64:
    centre: F64 = robot.flange_from_tcp @ np.append(robot.gripper.com_from_tcp_m, 1.0)
    return centre[:3]


def _millimetres(position: F64) -> str:
    return f"({', '.join(f'{1e3 * number + 0.0:.0f}' for number in position)}) mm"


def _pose_text(pose: F64) -> str:
    turn = ", ".join(f"{math.degrees(number) + 0.0:.0f}" for number in pose[3:])
    return f"{_millimetres(pose[:3])}, ({turn}) degrees"
