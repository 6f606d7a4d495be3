"""The PLY files of 3D Gaussian Splatting (Kerbl et al. 2023).

A row stores log scales, a logit opacity, f_dc (constant colour) and f_rest (spherical harmonics, all of red first).
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protos.errors import SceneError
from twin.splats.cloud import SH_DEGREE_0, Splats
from twin.splats.harmonics import COUNTS
from twin.splats.ply_header import Table, read_tables
from twin.splats.stored import check_count, read_bytes, splats_of

_CENTRE, _NORMAL, _COLOUR = ("x", "y", "z"), ("nx", "ny", "nz"), ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALE, _ROTATION = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")
REST = "f_rest_"


def read_ply(path: Path | str) -> Splats:
    """A 3DGS point cloud in the frame of its file. Raises `SceneError` in one line."""
    path = Path(path)
    return from_table(path, read_tables(path, read_bytes(path))[0])


def from_table(path: Path, table: Table) -> Splats:
    """Splats from the rows of an uncompressed file."""
    if table.name != "vertex":
        raise SceneError(
            f"{path}: its first element is {table.name!r}, not 'vertex'; `read_splats` reads compressed files"
        )
    missing = [name for name in (*_CENTRE, *_COLOUR, "opacity", *_SCALE, *_ROTATION) if name not in table.properties]
    if missing:
        raise SceneError(f"{path}: no {', '.join(missing)}; this is not an uncompressed 3D Gaussian Splatting PLY")
    check_count(path, len(table.rows))
    with np.errstate(over="ignore"):
        opacities = 1 / (1 + np.exp(-table.rows["opacity"].astype(float)))
    return splats_of(
        path,
        means=_columns(table, _CENTRE),
        quaternions=_columns(table, _ROTATION),
        log_scales=_columns(table, _SCALE),
        opacities=opacities,
        colours=0.5 + SH_DEGREE_0 * _columns(table, _COLOUR),
        sh=by_coefficient(_columns(table, rest_names(path, table))),
    )


def rest_names(path: Path, table: Table) -> tuple[str, ...]:
    """The properties of the spherical harmonics in their order. Raises `SceneError` if some are missing."""
    found = {name for name in table.properties if name.startswith(REST)}
    names = tuple(f"{REST}{k}" for k in range(len(found)))
    counts = [3 * count for count in COUNTS]
    if len(names) not in counts or found != set(names):
        raise SceneError(f"{path}: {len(found)} properties {REST}*; one of {counts} needed, without gaps")
    return names


def by_coefficient(rest: NDArray[np.floating]) -> NDArray[np.floating]:
    """f_rest (N, 3 K), all of red first, to harmonics (N, K, 3)."""
    return rest.reshape(len(rest), 3, rest.shape[1] // 3).transpose(0, 2, 1)


def write_ply(path: Path | str, splats: Splats) -> None:
    """Writes the standard 3DGS layout, readable by every splat viewer."""
    opacity = np.clip(splats.opacities.astype(float), 1e-6, 1 - 1e-6)
    rest = splats.sh.transpose(0, 2, 1).reshape(len(splats), 3 * splats.sh.shape[1])
    table = np.concatenate(
        [
            splats.means,
            np.zeros((len(splats), 3)),
            (splats.colours - 0.5) / SH_DEGREE_0,
            rest,
            np.log(opacity / (1 - opacity))[:, None],
            np.log(np.maximum(splats.scales, 1e-9)),
            splats.quaternions,
        ],
        1,
    )
    names = (
        *_CENTRE,
        *_NORMAL,
        *_COLOUR,
        *(f"{REST}{k}" for k in range(rest.shape[1])),
        "opacity",
        *_SCALE,
        *_ROTATION,
    )
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(splats)}"]
    lines += [f"property float {name}" for name in names]
    Path(path).write_bytes("\n".join([*lines, "end_header\n"]).encode() + table.astype("<f4").tobytes())


def _columns(table: Table, names: tuple[str, ...]) -> NDArray[np.float64]:
    """(N, len(names))"""
    return np.stack([table.rows[name].astype(float) for name in names], 1) if names else np.zeros((len(table.rows), 0))
