"""This module reads splat files of every format; it tells them apart by their content."""

from pathlib import Path
from typing import Literal, get_args

from protos.errors import InputError, SceneError
from protos.schema import F64
from twin.camera import pose_of
from twin.splats import ply, spz
from twin.splats.cloud import Splats
from twin.splats.stored import read_bytes

UpAxis = Literal["x", "-x", "y", "-y", "z", "-z"]
UP_AXES: tuple[UpAxis, ...] = get_args(UpAxis)


def read_splats(path: Path | str, *, up: UpAxis | None = None) -> Splats:
    """Reads a 3DGS PLY, a compressed PLY or an SPZ file and turns its splats so that z is up.

    `up` is the axis of the file that points up. None takes the format's habit: -y for PLY (its cameras look along z
    with y down), y for SPZ. Lengths stay as in the file. Raises `SceneError` in one line for any other or damaged file.
    """
    if up is not None and up not in UP_AXES:
        raise InputError(f"up={up!r}: choose one of {', '.join(UP_AXES)}")
    path = Path(path)
    data = read_bytes(path)
    if data.startswith(spz.GZIP_MAGIC):
        return _turned_up(spz.from_bytes(path, data), up or "y")
    if data.startswith(spz.MAGIC):
        raise SceneError(f"{path}: an SPZ file without gzip, version 4 or later; versions 2 and 3 are read")
    if not data.startswith(b"ply"):
        raise SceneError(f"{path}: neither PLY nor SPZ; 3D Gaussian Splatting files of these two kinds are read")
    return _turned_up(ply.from_bytes(path, data), up or "-y")


def _turned_up(splats: Splats, up: UpAxis) -> Splats:
    """Turns `up` to z, by the smallest turn about another axis."""
    return splats if up == "z" else splats.transformed(z_up_from(up))


def z_up_from(up: UpAxis) -> F64:
    """Returns the turn (4, 4) that takes an axis to z: about x, but about y for the x axes."""
    axis, sign = "xyz".index(up[-1]), -1.0 if up.startswith("-") else 1.0
    rotations: tuple[list[list[float]], ...] = (
        [[0, 0, -sign], [0, 1, 0], [sign, 0, 0]],
        [[1, 0, 0], [0, 0, -sign], [0, sign, 0]],
        [[1, 0, 0], [0, sign, 0], [0, 0, sign]],
    )
    return pose_of((0, 0, 0), rotations[axis])
