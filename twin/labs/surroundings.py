"""This module has what is seen of a lab beside the task: light, shadows, and what lies about."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from protos.errors import InputError
from protos.settings import bounded
from twin.rotations import matrix_from_vector
from twin.splats import Splats, concatenate
from twin.surfaces import LIGHT, Light, Surface, box, capsule, cylinder, surface_splats

Triple = tuple[float, float, float]
TABLE_TOP_M = 0.02
"""Splats below this height are the table, on which shadows fall."""
THING_SPACING_M = 0.01
MIDDLE = (-0.5, 0.0)
"""Middle of the workspace, x and y [m]."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A thing lies about on the table and is seen, not touched."""

    shape: Literal["box", "cylinder", "capsule"]
    half_m: Triple
    """Half sizes along its axes; a cylinder has a radius, its height twice the third; a capsule lies along y."""
    position: Triple
    yaw: float
    colour: Triple

    def __post_init__(self) -> None:
        if not (min(self.half_m) >= 0.001 and max(self.half_m) <= 0.5):
            raise InputError(f"thing half_m={self.half_m}: each number from 0.001 to 0.5")

    def splats(self, light: Light) -> Splats:
        """Returns what is seen of it, in the scene's base frame."""
        points, normals = self._surface()
        turn = matrix_from_vector(np.array([0.0, 0.0, self.yaw]))
        placed = points @ turn.T + np.array(self.position), normals @ turn.T
        return surface_splats(placed, THING_SPACING_M, self.colour, light=light)

    def _surface(self) -> Surface:
        if self.shape == "box":
            return box(self.half_m, THING_SPACING_M)
        if self.shape == "cylinder":
            return cylinder(self.half_m[0], self.half_m[2], THING_SPACING_M)
        points, normals = capsule(self.half_m[0], self.half_m[1], THING_SPACING_M)
        return points[:, [0, 2, 1]], normals[:, [0, 2, 1]]


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """A shadow with a soft edge lies on the table: darkest in its middle, a bell as it fades."""

    place: tuple[float, float]
    radius_m: float
    depth: float
    """Share of the light that its middle lacks."""

    def __post_init__(self) -> None:
        bounded(self, "shadow ", {"radius_m": (0.01, 2.0), "depth": (0.0, 0.9)})


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Surroundings are what is seen of a lab beside the task."""

    light: Light = LIGHT
    """Light on what moves and on the things about; a scan has its own baked in."""
    slope: tuple[float, float] = (0.0, 0.0)
    """Change of the light on the table along x and y, as a share per metre."""
    tint: Triple = (0.0, 0.0, 0.0)
    """Added to the colours of the scan."""
    blur: float = 0.0
    """Standard deviation of the images' blur, as a share of their width."""
    shadows: tuple[Shadow, ...] = ()
    things: tuple[Thing, ...] = ()

    def __post_init__(self) -> None:
        bounded(self, "surroundings ", {"blur": (0.0, 0.05)})

    def seen(self, static: Splats) -> Splats:
        """Returns a scan in this light, with what lies about."""
        x, y, z = np.asarray(static.means, float).T
        lit = np.ones(len(static))
        for shadow in self.shadows:
            far = ((x - shadow.place[0]) ** 2 + (y - shadow.place[1]) ** 2) / shadow.radius_m**2
            lit -= np.where(z < TABLE_TOP_M, shadow.depth * np.exp(-far / 2), 0.0)
        lit *= 1 + self.slope[0] * (x - MIDDLE[0]) + self.slope[1] * (y - MIDDLE[1])
        share = np.clip(lit, 0.1, 2.0)[:, None].astype(np.float32)
        shaded = static.coloured(static.colours * share + np.asarray(self.tint, np.float32))
        return concatenate([shaded, *(thing.splats(self.light) for thing in self.things)])
