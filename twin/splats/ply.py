"""This module reads and writes the two PLY layouts of Gaussian splats.

3D Gaussian Splatting (Kerbl et al. 2023), read and written: one table `vertex` whose rows hold x y z, f_dc (constant
colour), f_rest (spherical harmonics, all of red first), a logit opacity, log scales and a quaternion wxyz.

PlayCanvas' compressed PLY, read: 16 bytes a splat, quantised within the bounds of its chunk of 256.

    chunk   min and max of position, log scale and (newer files) colour; float
    vertex  packed_position 11-10-11 bits, packed_rotation 2-10-10-10, packed_scale 11-10-11, packed_color 8-8-8-8
    sh      f_rest_*: uchar, 256 equal bins of -4 .. 4 (optional)

A packed rotation is the index of its largest component in (w, x, y, z) and the three others within +-1/sqrt(2).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protos.errors import SceneError
from protos.problems import first_line
from protos.schema import F64
from twin.splats.cloud import COUNTS, SH_DEGREE_0, Splats
from twin.splats.stored import check_count, read_bytes, splats_of

END = b"end_header\n"
LONGEST = 65536
"""Longest header, in bytes."""
REST = "f_rest_"
CENTRE, NORMAL, COLOUR = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE, ROTATION = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
CHUNK = 256
"""Number of splats that share their bounds in a compressed file."""
PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
CHUNK_SCALE, CHUNK_COLOUR = ("scale_x", "scale_y", "scale_z"), ("r", "g", "b")
BINS_PER_UNIT = 32
_COUNT = re.compile(rb"^(element \S+) (\d{1,18})$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table is one element of a PLY file."""

    name: str
    rows: NDArray[np.void]
    """A view of the file, one field per property."""

    @property
    def properties(self) -> tuple[str, ...]:
        """Returns the names of the columns."""
        return self.rows.dtype.names or ()

    def columns(self, names: Sequence[str]) -> F64:
        """Returns some columns as an array (N, len(names))."""
        columns = [self.rows[name].astype(float) for name in names]
        return np.stack(columns, 1) if columns else np.zeros((len(self.rows), 0))


def read_ply(path: Path | str) -> Splats:
    """Reads a 3DGS point cloud in the frame of its file. Raises `SceneError` in one line."""
    path = Path(path)
    tables = read_tables(path, read_bytes(path))
    if tables[0].name == "chunk":
        raise SceneError(f"{path}: a compressed PLY; `read_splats` reads compressed files")
    return from_table(path, tables[0])


def from_bytes(path: Path, data: bytes) -> Splats:
    """Decodes the content of a PLY file of either layout. Raises `SceneError`."""
    tables = read_tables(path, data)
    if tables[0].name == "chunk":
        return from_chunks(path, {table.name: table for table in tables})
    return from_table(path, tables[0])


def read_tables(path: Path, data: bytes) -> list[Table]:
    """Returns all tables of a binary PLY up to the first, after one at least, whose rows vary in length.

    plyfile parses the header, with the row counts set to 0 so that it reads no rows: those stay where they are in
    `data`. Raises `SceneError` for damaged, cut, text and big-endian files.
    """
    from plyfile import PlyData, PlyListProperty, PlyParseError  # not on the robot PC, which reads no splats

    end = data.find(END, 0, LONGEST)
    if not data.startswith(b"ply") or end < 0:
        raise SceneError(f"{path}: not a PLY file")
    header = data[: end + len(END)]
    try:
        ply = PlyData.read(BytesIO(_COUNT.sub(rb"\1 0", header)))
    except (PlyParseError, ValueError) as error:
        raise SceneError(f"{path}: cannot read its header ({first_line(error)})") from error
    if ply.text or ply.byte_order != "<":
        raise SceneError(f"{path}: only binary_little_endian PLY files are read")
    counts = [int(count) for _, count in _COUNT.findall(header)]
    if not counts or len(counts) != len(ply.elements):
        raise SceneError(f"{path}: a PLY file without elements, or with row counts that are no numbers")
    tables: list[Table] = []
    offset = len(header)
    for element, count in zip(ply.elements, counts, strict=True):
        lists = [item for item in element.properties if isinstance(item, PlyListProperty)]
        if lists and tables:
            break
        if lists or not element.properties:
            raise SceneError(f"{path}: cannot read element {element.name} ({lists[0] if lists else 'no properties'})")
        dtype = np.dtype([(item.name, item.dtype("<")) for item in element.properties])
        if len(data) - offset < count * dtype.itemsize:
            raise SceneError(
                f"{path}: ends early; {count} rows of {element.name} need {count * dtype.itemsize} bytes, "
                f"{len(data) - offset} follow"
            )
        tables.append(Table(name=element.name, rows=np.frombuffer(data, dtype, count, offset)))
        offset += tables[-1].rows.nbytes
    return tables


def write_ply(path: Path | str, splats: Splats) -> None:
    """Writes the standard 3DGS layout, which every splat viewer reads."""
    from plyfile import PlyData, PlyElement

    opacity = np.clip(splats.opacities.astype(float), 1e-6, 1 - 1e-6)
    rest = splats.sh.transpose(0, 2, 1).reshape(len(splats), 3 * splats.sh.shape[1])
    columns = {
        CENTRE: splats.means,
        NORMAL: np.zeros((len(splats), 3)),
        COLOUR: (splats.colours - 0.5) / SH_DEGREE_0,
        tuple(f"{REST}{k}" for k in range(rest.shape[1])): rest,
        ("opacity",): np.log(opacity / (1 - opacity))[:, None],
        SCALE: np.log(np.maximum(splats.scales, 1e-9)),
        ROTATION: splats.quaternions,
    }
    table = np.concatenate(list(columns.values()), 1).astype("<f4")
    rows = table.view([(name, "<f4") for names in columns for name in names])[:, 0]
    PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))


def from_table(path: Path, table: Table) -> Splats:
    """Decodes the rows of an uncompressed file. Raises `SceneError`."""
    if table.name != "vertex":
        raise SceneError(f"{path}: its first element is {table.name!r}, not 'vertex'")
    missing = [name for name in (*CENTRE, *COLOUR, "opacity", *SCALE, *ROTATION) if name not in table.properties]
    if missing:
        raise SceneError(f"{path}: no {', '.join(missing)}; this is not an uncompressed 3D Gaussian Splatting PLY")
    check_count(path, len(table.rows))
    with np.errstate(over="ignore"):
        opacities = 1 / (1 + np.exp(-table.rows["opacity"].astype(float)))
    return splats_of(
        path,
        means=table.columns(CENTRE),
        quaternions=table.columns(ROTATION),
        log_scales=table.columns(SCALE),
        opacities=opacities,
        colours=0.5 + SH_DEGREE_0 * table.columns(COLOUR),
        sh=_by_coefficient(table.columns(_rest_names(path, table))),
    )


def from_chunks(path: Path, tables: dict[str, Table]) -> Splats:
    """Decodes the tables chunk, vertex and, where there is one, sh of a compressed file. Raises `SceneError`."""
    chunks, vertices = tables["chunk"], tables.get("vertex")
    coloured = any(f"{end}_{name}" in chunks.properties for name in CHUNK_COLOUR for end in ("min", "max"))
    bounded = (*CENTRE, *CHUNK_SCALE, *(CHUNK_COLOUR if coloured else ()))
    _need(path, chunks, [f"{end}_{name}" for name in bounded for end in ("min", "max")])
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
        means=_within(chunks, CENTRE, _fractions(position, (21, 11), (11, 10), (0, 11))),
        quaternions=_quaternions(rotation),
        log_scales=_within(chunks, CHUNK_SCALE, _fractions(scale, (21, 11), (11, 10), (0, 11))),
        opacities=rgba[:, 3],
        colours=_within(chunks, CHUNK_COLOUR, rgb) if coloured else rgb,
        sh=_packed_harmonics(path, tables.get("sh"), count),
    )


def _rest_names(path: Path, table: Table) -> tuple[str, ...]:
    """Returns the columns of the spherical harmonics in their order. Raises `SceneError` if some are missing."""
    found = {name for name in table.properties if name.startswith(REST)}
    names = tuple(f"{REST}{k}" for k in range(len(found)))
    counts = [3 * count for count in COUNTS]
    if len(names) not in counts or found != set(names):
        raise SceneError(f"{path}: {len(found)} properties {REST}*; one of {counts} needed, without gaps")
    return names


def _by_coefficient(rest: F64) -> F64:
    """Reorders f_rest (N, 3 K), all of red first, to harmonics (N, K, 3)."""
    return rest.reshape(len(rest), 3, rest.shape[1] // 3).transpose(0, 2, 1)


def _need(path: Path, table: Table, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.properties]
    if missing:
        raise SceneError(f"{path}: element {table.name!r} without {', '.join(missing)}")


def _fractions(words: NDArray[np.uint32], *fields: tuple[int, int]) -> F64:
    """Returns bit fields (shift, bits) as numbers 0..1, (N, len(fields))."""
    return np.stack([((words >> shift) & ((1 << bits) - 1)) / ((1 << bits) - 1) for shift, bits in fields], 1)


def _within(chunks: Table, names: tuple[str, ...], fractions: F64) -> F64:
    """Scales fractions (N, 3) to the range from min to max of each splat's chunk."""
    low, high = (
        chunks.columns([f"{end}_{name}" for name in names]).repeat(CHUNK, 0)[: len(fractions)] for end in ("min", "max")
    )
    return low * (1 - fractions) + high * fractions


def _quaternions(words: NDArray[np.uint32]) -> F64:
    """Decodes packed rotations to quaternions wxyz (N, 4)."""
    others = (_fractions(words, (20, 10), (10, 10), (0, 10)) - 0.5) * np.sqrt(2)
    largest = (words >> 30).astype(int)
    quaternions = np.empty((len(words), 4))
    quaternions[np.arange(4) != largest[:, None]] = others.ravel()
    quaternions[np.arange(len(words)), largest] = np.sqrt(np.maximum(0, 1 - (others**2).sum(1)))
    return quaternions


def _packed_harmonics(path: Path, table: Table | None, count: int) -> F64:
    """Decodes harmonics of one byte each to (N, K, 3); K is 0 without a table."""
    if table is None:
        return np.zeros((count, 0, 3))
    if len(table.rows) != count:
        raise SceneError(f"{path}: harmonics of {len(table.rows)} splats, positions of {count}")
    names = _rest_names(path, table)
    if any(table.rows.dtype[name] != np.uint8 for name in names):
        raise SceneError(f"{path}: the harmonics must be of type uchar")
    return _by_coefficient((table.columns(names) - 127.5) / BINS_PER_UNIT)
