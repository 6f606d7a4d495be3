"""The head of a binary PLY file: which tables follow, and how their rows are laid out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protos.errors import SceneError

END = b"end_header\n"
LONGEST = 65536
"""Bytes of a head."""
_TYPES = {"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8", "uchar": "u1", "uint8": "u1"}
_TYPES |= {"char": "i1", "int8": "i1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4"}
_TYPES |= {"int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """One element of a PLY file."""

    name: str
    rows: NDArray[np.void]
    """A view of the file, one field per property."""

    @property
    def properties(self) -> tuple[str, ...]:
        return self.rows.dtype.names or ()


def read_tables(path: Path, data: bytes) -> list[Table]:
    """All tables up to the first with rows of varying length. Raises `SceneError` for what is no whole binary PLY."""
    end = data.find(END, 0, LONGEST)
    if not data.startswith(b"ply") or end < 0:
        raise SceneError(f"{path}: not a PLY file")
    lines = [line.split() for line in data[:end].decode("ascii", "replace").splitlines()]
    if ["format", "binary_little_endian", "1.0"] not in lines:
        raise SceneError(f"{path}: only binary_little_endian PLY files are read")
    starts = [number for number, line in enumerate(lines) if line[:1] == ["element"]]
    tables: list[Table] = []
    offset = end + len(END)
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
        properties = [line for line in lines[start:stop] if line[:1] == ["property"]]
        if tables and any(line[1:2] == ["list"] for line in properties):
            break
        tables.append(_table(path, data, offset, lines[start], properties))
        offset += tables[-1].rows.nbytes
    if not tables:
        raise SceneError(f"{path}: a PLY file without elements")
    return tables


def _table(path: Path, data: bytes, offset: int, element: list[str], properties: list[list[str]]) -> Table:
    if len(element) != 3 or not element[2].isdecimal() or len(element[2]) > 18:
        raise SceneError(f"{path}: cannot read {' '.join(element)!r}")
    unknown = [" ".join(line) for line in properties if len(line) != 3 or line[1] not in _TYPES]
    names = [line[-1] for line in properties]
    if unknown or len(set(names)) < len(names) or not names:
        raise SceneError(f"{path}: cannot read {unknown[0] if unknown else f'the properties of {element[1]}'!r}")
    dtype = np.dtype([(line[2], _TYPES[line[1]]) for line in properties])
    count = int(element[2])
    if len(data) - offset < count * dtype.itemsize:
        raise SceneError(
            f"{path}: ends early; {count} rows of {element[1]} need {count * dtype.itemsize} bytes, "
            f"{max(0, len(data) - offset)} follow"
        )
    return Table(name=element[1], rows=np.frombuffer(data, dtype, count, offset))
