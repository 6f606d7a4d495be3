"""PlayCanvas' compressed PLY: 16 bytes a splat, quantised within the bounds of its chunk of 256.

    chunk   min and max of position, log scale and (newer files) colour; float
    vertex  packed_position 11-10-11 bits, packed_rotation 2-10-10-10, packed_scale 11-10-11, packed_color 8-8-8-8
    sh      f_rest_*: uchar, 256 equal bins of -4 .. 4 (optional)

A rotation is the index of its largest component in (w, x, y, z) and the three others within +-1/sqrt(2).
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protos.errors import SceneError
from protos.schema import F64
from twin.splats.cloud import Splats
from twin.splats.ply import by_coefficient, rest_names
from twin.splats.ply_header import Table
from twin.splats.stored import check_count, splats_of

CHUNK = 256
"""Splats that share their bounds."""
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_BINS_PER_UNIT = 32
_POSITION, _SCALE, _COLOUR = ("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b")


def from_tables(path: Path, tables: list[Table]) -> Splats:
    """Splats from the tables chunk, vertex and, where there is one, sh. Raises `SceneError`."""
    named = {table.name: table for table in tables}
    chunks, vertices = named["chunk"], named.get("vertex")
    _need(path, chunks, [f"{end}_{name}" for name in (*_POSITION, *_SCALE) for end in ("min", "max")])
    if vertices is None:
        raise SceneError(f"{path}: a compressed PLY without an element 'vertex'")
    _need(path, vertices, PACKED)
    count = len(vertices.rows)
    check_count(path, count)
    if len(chunks.rows) != -(-count // CHUNK):
        raise SceneError(f"{path}: {len(chunks.rows)} chunks for {count} splats; {-(-count // CHUNK)} needed")
    if any(vertices.rows.dtype[name] != np.uint32 for name in PACKED):
        raise SceneError(f"{path}: {', '.join(PACKED)} must be of type uint")
    position, rotation, scale, colour = (vertices.rows[name] for name in PACKED)
    rgba = _fractions(colour, (24, 8), (16, 8), (8, 8), (0, 8))
    rgb = rgba[:, :3]
    return splats_of(
        path,
        means=_within(chunks, _POSITION, _fractions(position, (21, 11), (11, 10), (0, 11))),
        quaternions=_quaternions(rotation),
        log_scales=_within(chunks, _SCALE, _fractions(scale, (21, 11), (11, 10), (0, 11))),
        opacities=rgba[:, 3],
        colours=_within(chunks, _COLOUR, rgb) if "min_r" in chunks.properties else rgb,
        sh=_harmonics(path, named.get("sh"), count),
    )


def _need(path: Path, table: Table, names: list[str] | tuple[str, ...]) -> None:
    missing = [name for name in names if name not in table.properties]
    if missing:
        raise SceneError(f"{path}: element {table.name!r} without {', '.join(missing)}")


def _fractions(words: NDArray[np.uint32], *fields: tuple[int, int]) -> F64:
    """Bit fields (shift, bits) as numbers 0..1, (N, len(fields))."""
    return np.stack([((words >> shift) & ((1 << bits) - 1)) / ((1 << bits) - 1) for shift, bits in fields], 1)


def _within(chunks: Table, names: tuple[str, ...], fractions: F64) -> F64:
    """Fractions (N, 3) of the range from min to max of each splat's chunk."""
    low, high = (
        np.stack([chunks.rows[f"{end}_{name}"].astype(float) for name in names], 1).repeat(CHUNK, 0)[: len(fractions)]
        for end in ("min", "max")
    )
    return low * (1 - fractions) + high * fractions


def _quaternions(words: NDArray[np.uint32]) -> F64:
    """(N, 4) wxyz"""
    others = (_fractions(words, (20, 10), (10, 10), (0, 10)) - 0.5) * np.sqrt(2)
    largest = (words >> 30).astype(int)
    quaternions = np.empty((len(words), 4))
    quaternions[np.arange(4) != largest[:, None]] = others.ravel()
    quaternions[np.arange(len(words)), largest] = np.sqrt(np.maximum(0, 1 - (others**2).sum(1)))
    return quaternions


def _harmonics(path: Path, table: Table | None, count: int) -> NDArray[np.floating]:
    """(N, K, 3)"""
    if table is None:
        return np.zeros((count, 0, 3))
    if len(table.rows) != count:
        raise SceneError(f"{path}: harmonics of {len(table.rows)} splats, positions of {count}")
    names = rest_names(path, table)
    if any(table.rows.dtype[name] != np.uint8 for name in names):
        raise SceneError(f"{path}: the harmonics must be of type uchar")
    levels = np.stack([table.rows[name] for name in names], 1)
    return by_coefficient((levels - 127.5) / _BINS_PER_UNIT)
