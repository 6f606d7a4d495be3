"""This module reads and writes the convex meshes that objects of a scan are touched by; it loads nothing but NumPy."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos.errors import SceneError
from protos.schema import F64

Faces = NDArray[np.int32]
FORMAT = 1
"""Version of the format of object.toml."""
LARGEST_M, MOST_CORNERS, MOST_PARTS = 2.0, 400, 64
"""Bounds on a file's meshes."""


class Part(NamedTuple):
    """A convex mesh with outward faces in the object's frame."""

    vertices: F64  # (V, 3) m
    faces: Faces  # (F, 3)


def part_text(part: Part) -> str:
    """Returns a part as an OBJ file."""
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in part.vertices]
    return "\n".join(lines + [f"f {a} {b} {c}" for a, b, c in part.faces + 1]) + "\n"


def read_part(path: Path) -> Part:
    """Reads vertices and triangles of an OBJ file as written here. Raises `SceneError`."""
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: cannot be read; cut the object again") from error
    vertices = np.array([row[1:4] for row in rows if row[:1] == ["v"]], float)
    faces = np.array([row[1:4] for row in rows if row[:1] == ["f"]], int) - 1
    if (
        not 4 <= len(vertices) <= MOST_CORNERS
        or not len(faces)
        or not (np.abs(vertices) <= LARGEST_M).all()
        or not ((faces >= 0) & (faces < len(vertices))).all()
    ):
        raise SceneError(
            f"{path}: {len(vertices)} vertices and {len(faces)} triangles; 4 to {MOST_CORNERS} vertices within "
            f"{LARGEST_M:g} m and triangles between them needed"
        )
    return Part(vertices, faces.astype(np.int32))
