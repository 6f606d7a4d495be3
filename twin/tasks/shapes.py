"""This module writes shapes made of boxes as MJCF: exact, cheap to collide, and drawn by the renderer as they are."""

import math

from twin.randomize import Conditions
from twin.robots.mjcf import numbers

_SLOPE_HALF_M = 0.002
"""Half the thickness of the plates that make a chamfer."""
SMOOTH = 'friction=".2 .005 .0001" priority="1"'
"""Attributes of what objects slide into: its low friction counts, not the object's."""


def rough(conditions: Conditions) -> str:
    """Returns the attributes of what the fingers hold: its friction."""
    return f'friction="{conditions.friction} .01 .001" condim="4"'


def hexagon(apothem_m: float, half_height_m: float, attributes: str, *, z_m: float = 0.0) -> str:
    """Writes an upright hexagonal prism, two of its flats across y: three boxes, each across one pair of flats."""
    half_side = apothem_m * math.tan(math.pi / 6)
    size = numbers(half_side, apothem_m, half_height_m)
    return "".join(
        f'<geom type="box" size="{size}" pos="{numbers(0, 0, z_m)}" euler="{numbers(0, 0, turn)}" {attributes}/>'
        for turn in (0, math.pi / 3, 2 * math.pi / 3)
    )


def socket(
    sides: int,
    apothem_m: float,
    *,
    straight_m: float,
    wall_m: float,
    attributes: str,
    chamfer: tuple[float, float] | None = None,
    floor_m: float = 0.0,
    centre: tuple[float, float] = (0.0, 0.0),
    turn_rad: float = 0.0,
) -> str:
    """Writes a hole with a regular outline: walls `straight_m` high, then widened by `chamfer` (outwards, upwards).

    It stands `floor_m` above the body's origin around `centre`, with one wall at -y, turned by `turn_rad`.
    """
    half = (apothem_m + wall_m, wall_m / 2, straight_m / 2)
    radius, height = apothem_m + wall_m / 2, floor_m + straight_m / 2
    place = (centre, turn_rad, attributes)
    boxes = _ring(sides, half, radius, height, 0.0, *place)
    if chamfer is not None:
        out, up = chamfer
        lean = math.atan2(out, up)
        half = (apothem_m + out, _SLOPE_HALF_M, math.hypot(out, up) / 2)
        radius = apothem_m + out / 2 + _SLOPE_HALF_M * math.cos(lean)
        height = floor_m + straight_m + up / 2 - _SLOPE_HALF_M * math.sin(lean)
        boxes += _ring(sides, half, radius, height, lean, *place)
    return boxes


def _ring(
    sides: int,
    half: tuple[float, float, float],
    radius: float,
    height: float,
    lean: float,
    centre: tuple[float, float],
    turn_rad: float,
    attributes: str,
) -> str:
    """Writes boxes around a vertical axis that lean outwards; `half`: outermost radius, half depth, half height."""
    size = numbers(half[0] * math.tan(math.pi / sides), half[1], half[2])
    boxes = ""
    for k in range(sides):
        angle = turn_rad + 2 * math.pi * k / sides
        position = numbers(centre[0] + radius * math.sin(angle), centre[1] - radius * math.cos(angle), height)
        c, s = math.cos(angle / 2), math.sin(angle / 2)
        quaternion = numbers(
            c * math.cos(lean / 2), c * math.sin(lean / 2), s * math.sin(lean / 2), s * math.cos(lean / 2)
        )
        boxes += f'<geom type="box" size="{size}" pos="{position}" quat="{quaternion}" {attributes}/>'
    return boxes
