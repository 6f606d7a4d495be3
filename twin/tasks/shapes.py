"""Shapes made of boxes: exact, cheap to collide, and drawn by the renderer as they are."""

import math

from twin.robots.mjcf import numbers


def hexagon(apothem_m: float, half_height_m: float, attributes: str, *, z_m: float = 0.0) -> str:
    """An upright hexagonal prism, two of its flats across y: three boxes, each across one pair of flats."""
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
    chamfer: tuple[float, float],
    wall_m: float,
    attributes: str,
    floor_m: float = 0.0,
    centre: tuple[float, float] = (0.0, 0.0),
    turn_rad: float = 0.0,
) -> str:
    """A hole with a regular outline, widened above `straight_m` by `chamfer` (outwards, upwards); one wall faces y.

    It stands `floor_m` above the body's origin, turned by `turn_rad` about `centre`.
    """
    out, up = chamfer
    lean = math.atan2(out, up)
    half_depth = 0.002
    walls = _ring(
        sides,
        (apothem_m + wall_m / 2, floor_m + straight_m / 2),
        (apothem_m + wall_m, wall_m / 2, straight_m / 2),
        0.0,
    )
    middle = (
        apothem_m + out / 2 + half_depth * math.cos(lean),
        floor_m + straight_m + up / 2 - half_depth * math.sin(lean),
    )
    slopes = _ring(sides, middle, (apothem_m + out, half_depth, math.hypot(out, up) / 2), lean)
    boxes = ""
    for size, (radius, height), turn, leaning in (*walls, *slopes):
        angle = turn + turn_rad
        x, y = centre[0] + radius * math.sin(angle), centre[1] - radius * math.cos(angle)
        quaternion = numbers(
            math.cos(angle / 2) * math.cos(leaning / 2),
            math.cos(angle / 2) * math.sin(leaning / 2),
            math.sin(angle / 2) * math.sin(leaning / 2),
            math.sin(angle / 2) * math.cos(leaning / 2),
        )
        boxes += f'<geom type="box" size="{size}" pos="{numbers(x, y, height)}" quat="{quaternion}" {attributes}/>'
    return boxes


_Part = tuple[str, tuple[float, float], float, float]


def _ring(sides: int, middle: tuple[float, float], half: tuple[float, float, float], lean: float) -> list[_Part]:
    """Boxes around a vertical axis: size, (radius, height) of the centre, turn, lean outwards."""
    size = numbers(half[0] * math.tan(math.pi / sides), half[1], half[2])
    return [(size, middle, 2 * math.pi * k / sides, lean) for k in range(sides)]
