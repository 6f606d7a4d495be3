"""This module reads the obstacles of a workplace as convex hulls, each a set of planes in the base frame.

A plane (nx, ny, nz, d) keeps the hull on its inner side: n · p ≤ d. The largest n · p - d of a point outside is no more
than its distance, and less beyond edges and corners: the arm keeps a little farther from those than it must.
"""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protos.errors import InputError, SceneError
from protos.schema import F64
from protos.space import Box
from twin.parts import FORMAT, MOST_PARTS, Part, read_part
from twin.rotations import about_z

SAME = 1e-6
"""Planes that differ by less are one."""
NOT_CONVEX_M = 0.002
"""A corner this far outside one of the faces shows that a mesh is not convex."""


@dataclass(frozen=True)
class Hull:
    """A convex obstacle."""

    name: str
    planes: F64  # (K, 4)


def load_hulls(obstacles: Sequence[Path | Box]) -> tuple[Hull, ...]:
    """Returns the hulls of boxes, and of objects in the folders that `twinrl cut` makes, where they stood in the scan.

    Raises InputError that names what is wrong with one.
    """
    return tuple(
        hull
        for number, obstacle in enumerate(obstacles)
        for hull in ([_of_box(obstacle, number)] if isinstance(obstacle, Box) else _of_object(obstacle))
    )


def _of_box(box: Box, number: int) -> Hull:
    """Returns a box of the base frame; turned by its `yaw`, about its own middle, when that is one angle."""
    ranges = np.array([box.x, box.y, box.z], float)
    if not np.isfinite([*ranges.ravel(), *box.yaw]).all() or box.yaw[0] != box.yaw[1]:
        raise InputError(
            f"arm obstacles[{number}]: finite ranges of x, y and z [m] and one yaw [rad] needed, got {box}"
        )
    middle, half = ranges.mean(1), np.ptp(ranges, axis=1) / 2
    normals = np.concatenate([np.eye(3), -np.eye(3)]) @ about_z(box.yaw[0]).T
    return Hull(f"obstacle {number}", np.column_stack([normals, np.tile(half, 2) + normals @ middle]))


def _of_object(folder: Path) -> list[Hull]:
    try:
        table = tomllib.loads((folder / "object.toml").read_text(encoding="utf-8"))
        count, (x, y, z, yaw) = int(table["parts"]), map(float, table["stood_at"])
        if table["format"] != FORMAT or not 1 <= count <= MOST_PARTS or not all(map(math.isfinite, (x, y, z, yaw))):
            raise ValueError(f"format {FORMAT}, 1 to {MOST_PARTS} parts and a finite stood_at needed")
        parts = [read_part(folder / f"part_{k}.obj") for k in range(count)]
        return [Hull(folder.name, _planes(part, np.array([x, y, z]), about_z(yaw))) for part in parts]
    except (OSError, KeyError, TypeError, ValueError, SceneError) as error:
        raise InputError(f"arm obstacles: {folder} is no object as `twinrl cut` makes: {error}") from error


def _planes(part: Part, position: F64, rotation: F64) -> F64:
    """Returns the different planes (K, 4) of a mesh that stands at a pose. Raises ValueError for one not convex."""
    a, b, c = (part.vertices[part.faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    has_area = lengths > 1e-12
    normals, a = normals[has_area] / lengths[has_area, None], a[has_area]
    planes = np.column_stack([normals, (normals * a).sum(1)])
    if not len(planes) or (part.vertices @ normals.T - planes[:, 3]).max() > NOT_CONVEX_M:
        raise ValueError("a part that is not convex, or whose faces do not point out")
    planes = np.unique(np.round(planes / SAME), axis=0) * SAME
    turned = planes[:, :3] @ rotation.T
    return np.column_stack([turned, planes[:, 3] + turned @ position])
