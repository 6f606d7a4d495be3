"""This module covers an arm and its gripper with bars: line segments with a radius, each fixed to one frame.

    frame 0            1 … 6                                             7
    base ─► joints' frames (the joint turns about z, x lies along the link) ─► TCP

For the UR5e and the 2F-85 the bars are, or cover, the shapes of the twin (`twin.robots`). Those of the other e-Series
arms have their own lengths, and radii in the ratio of the arms' footprints.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from actors.real.kinematics import ArmModel
from twin.robots import Gripper
from twin.robots.base import Block, Capsule, Part, Triple

TCP = 7
"""Frame of the tool."""
CAP_SHARE = 0.5
"""Depth of the ends of a block's bar inside its faces, as a share of the block's half diagonal across the bar."""


class Bar(NamedTuple):
    """A bar is part of a body; ends and radius in metres, in the coordinates of its frame."""

    body: str
    frame: int
    start: Triple
    end: Triple
    radius: float


def bars(model: ArmModel, gripper: Gripper) -> tuple[Bar, ...]:
    """Returns the bars of an arm with a gripper whose fingers are open."""
    return (*_arm(model), *_gripper(gripper))


def _arm(model: ArmModel) -> Iterator[Bar]:
    d1, d4, d5, d6 = model.offsets_m
    upper, fore = model.sides_m
    wide = model.girth
    yield _along_z("base", 0, 0.0, d1, 0.075 * wide)  # the first link turns in place
    yield _along_z("upper arm", 2, 0.0, upper, 0.058 * wide)
    yield Bar("upper arm", 2, (0.0, 0.0, upper), (-model.upper_arm_m, 0.0, upper), 0.05 * wide)
    yield _along_z("forearm", 3, upper, fore, 0.048 * wide)
    yield Bar("forearm", 3, (0.0, 0.0, fore), (-model.forearm_m, 0.0, fore), 0.042 * wide)
    yield _along_z("wrist 1", 4, fore, d4, 0.04 * wide)
    yield _along_z("wrist 2", 5, 0.0, d5, 0.04 * wide)
    yield _along_z("wrist 3", 6, 0.02 * wide, 0.7 * d6, 0.038 * wide)


def _along_z(body: str, frame: int, low: float, high: float, radius: float) -> Bar:
    return Bar(body, frame, (0.0, 0.0, low), (0.0, 0.0, high), radius)


def _gripper(gripper: Gripper) -> Iterator[Bar]:
    for part in gripper.palm_parts:
        yield _covering("gripper", part, -gripper.tcp_m)
    half = gripper.finger_half_m
    for side in (-1, 1):
        centre = (side * (gripper.travel_m + half[0]), 0.0, gripper.finger_centre_m)
        yield _covering("fingers", Block(centre=centre, half=half, colour=gripper.finger_colour), -gripper.tcp_m)


def _covering(body: str, part: Part, raised_m: float) -> Bar:
    """Returns the bar around a part of the gripper, whose frame is `raised_m` along z from the TCP's."""
    if isinstance(part, Capsule):
        start, end, radius = part.start, part.end, part.radius
    elif isinstance(part, Block):
        start, end, radius = _around(part)
    else:
        x, y, z = part.centre
        start, end, radius = (x, y, z - part.half_height), (x, y, z + part.half_height), part.radius
    return Bar(body, TCP, (*start[:2], start[2] + raised_m), (*end[:2], end[2] + raised_m), radius)


def _around(block: Block) -> tuple[Triple, Triple, float]:
    """Returns the ends and the radius of a bar along a block's longest side that holds its corners."""
    axis = max(range(3), key=lambda k: block.half[k])
    across = math.hypot(*(half for k, half in enumerate(block.half) if k != axis))
    inside = min(CAP_SHARE * across, 0.9 * block.half[axis])
    ends = []
    for sign in (-1, 1):
        end = list(block.centre)
        end[axis] += sign * (block.half[axis] - inside)
        ends.append((end[0], end[1], end[2]))
    return ends[0], ends[1], math.hypot(across, inside)
