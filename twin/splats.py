"""Gaussian splats as arrays, and the PLY files of 3D Gaussian Splatting (Kerbl et al. 2023).

A PLY stores log scales, logit opacities and spherical-harmonic colours; here they are metres, 0..1 and 0..1. Only
degree 0 of the colour is kept: colour = 0.5 + 0.2820948 f_dc. Files with higher degrees load, but lose their sheen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protos.errors import SceneError
from protos.schema import F32
from twin.rotations import matrix_from_quaternion, multiply, quaternion_from_matrix

SH_DEGREE_0 = 0.28209479177387814
"""Value of the constant spherical harmonic, 1 / (2 sqrt(pi))."""
DENSEST = 0.95
"""Highest opacity of a merged splat: one that hid everything behind it at once would show its outline."""
SPREAD = 0.62
"""Standard deviation of surface splats over their spacing; neighbours then add up to an even, closed surface."""
_PROPERTIES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
_ARRAYS = ("means", "quaternions", "scales", "opacities", "colours")
_PLY_TYPES = {"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8", "uchar": "u1", "uint8": "u1"}
_PLY_TYPES |= {"char": "i1", "int8": "i1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4"}


@dataclass(frozen=True, kw_only=True)
class Splats:
    """N Gaussians in one frame."""

    means: F32  # (N, 3) m
    quaternions: F32  # (N, 4) wxyz, unit length
    scales: F32  # (N, 3) m, standard deviations along the rotated axes
    opacities: F32  # (N,) 0..1
    colours: F32  # (N, 3) 0..1, as stored in the file (display-referred)

    def __post_init__(self) -> None:
        for name, width in zip(_ARRAYS, ((3,), (4,), (3,), (), (3,)), strict=True):
            array = getattr(self, name)
            assert array.dtype == np.float32, f"Splats.{name} is {array.dtype}; Splats.of() converts"
            assert array.shape == (len(self.means), *width), f"Splats.{name} has shape {array.shape}"

    @staticmethod
    def of(
        *, means: ArrayLike, quaternions: ArrayLike, scales: ArrayLike, opacities: ArrayLike, colours: ArrayLike
    ) -> "Splats":
        """Splats from arrays of any number type."""
        given = (means, quaternions, scales, opacities, colours)
        return Splats(**dict(zip(_ARRAYS, (np.ascontiguousarray(array, np.float32) for array in given), strict=True)))

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.intp]) -> "Splats":
        """The chosen splats."""
        return Splats.of(
            means=self.means[index],
            quaternions=self.quaternions[index],
            scales=self.scales[index],
            opacities=self.opacities[index],
            colours=self.colours[index],
        )

    def covariances(self) -> F32:
        """(N, 6) upper triangles xx, xy, xz, yy, yz, zz [m^2]: R diag(s^2) R^T."""
        axes = matrix_from_quaternion(self.quaternions) * self.scales[:, None, :]
        full = axes @ axes.transpose(0, 2, 1)
        return full[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]].astype(np.float32)

    def transformed(self, base_from_x: ArrayLike, scale: float = 1.0) -> "Splats":
        """Scaled about the origin, then moved by the rigid transform (4, 4)."""
        pose = np.asarray(base_from_x, float)
        rotation = pose[:3, :3]
        return Splats.of(
            means=(self.means * scale) @ rotation.T + pose[:3, 3],
            quaternions=multiply(quaternion_from_matrix(rotation), self.quaternions),
            scales=self.scales * scale,
            opacities=self.opacities,
            colours=self.colours,
        )

    def coloured(self, colours: ArrayLike) -> "Splats":
        """With other colours (N, 3), clipped to 0..1."""
        return replace(self, colours=np.clip(colours, 0, 1).astype(np.float32))


def concatenate(parts: Sequence[Splats]) -> Splats:
    """All splats of all parts, in order."""
    return Splats(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS})


def merge_voxels(splats: Splats, size_m: float) -> Splats:
    """One splat per occupied voxel, for layers that must be cheap.

    Position, covariance and colour are the moments of the voxel's splats weighted by their opacity. The merged splat
    keeps their total of opacity times area: opacity first, up to `DENSEST`, then a larger footprint, up to `SPREAD`
    voxels, so that a closed surface stays closed. Voxel centres lie at multiples of the size: the table top z = 0 falls
    into one layer.
    """
    if not len(splats):
        return splats
    _, group = np.unique(np.floor(splats.means / size_m + 0.5).astype(np.int64), axis=0, return_inverse=True)
    group = group.ravel()
    count = int(group.max()) + 1
    weight = np.maximum(splats.opacities.astype(float), 1e-6)
    total = np.bincount(group, weight, count)

    def mean_of(values: NDArray[np.floating]) -> NDArray[np.float64]:
        columns = values.reshape(len(values), -1).T
        sums = [np.bincount(group, weight * column, count) for column in columns]
        return (np.stack(sums, 1) / total[:, None]).reshape(count, *values.shape[1:])

    means = mean_of(splats.means)
    offset = splats.means - means[group]
    axes = matrix_from_quaternion(splats.quaternions) * splats.scales[:, None, :]
    covariance = mean_of(axes @ axes.transpose(0, 2, 1) + offset[:, :, None] * offset[:, None, :])
    variance, rotation = np.linalg.eigh(covariance)  # ascending: the first axis is the surface's normal
    rotation[:, :, 0] *= np.linalg.det(rotation)[:, None]
    scales = np.sqrt(np.maximum(variance, 1e-12))
    tangent = np.sort(splats.scales.astype(float), 1)[:, 1:].prod(1)
    density = np.bincount(group, weight * tangent, count) / scales[:, 1:].prod(1)
    grown = scales[:, 1:] * np.sqrt(np.maximum(density / DENSEST, 1))[:, None]
    scales[:, 1:] = np.minimum(grown, np.maximum(scales[:, 1:], SPREAD * size_m))
    return Splats.of(
        means=means,
        quaternions=quaternion_from_matrix(rotation),
        scales=scales,
        opacities=np.minimum(density, DENSEST),
        colours=mean_of(splats.colours),
    )


def read_ply(path: Path | str) -> Splats:
    """A 3DGS point cloud; colours above degree 0 are left out. Raises `SceneError` in one line."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from error
    names, dtype, count, start = _header(path, data)
    missing = [name for name in _PROPERTIES if name not in names and not name.startswith("n")]
    if missing:
        raise SceneError(f"{path}: no {', '.join(missing)}; this is not an uncompressed 3D Gaussian Splatting PLY")
    if len(data) - start < count * dtype.itemsize:
        raise SceneError(
            f"{path}: ends early; {count} splats need {count * dtype.itemsize} bytes, {len(data) - start} follow"
        )
    rows = np.frombuffer(data, dtype, count, start)

    def columns(*wanted: str) -> NDArray[np.float64]:
        return np.stack([rows[name].astype(float) for name in wanted], 1)

    rotation = columns("rot_0", "rot_1", "rot_2", "rot_3")
    splats = Splats.of(
        means=columns("x", "y", "z"),
        quaternions=rotation / np.maximum(np.linalg.norm(rotation, axis=1, keepdims=True), 1e-12),
        scales=np.exp(columns("scale_0", "scale_1", "scale_2")),
        opacities=1 / (1 + np.exp(-rows["opacity"].astype(float))),
        colours=np.clip(0.5 + SH_DEGREE_0 * columns("f_dc_0", "f_dc_1", "f_dc_2"), 0, 1),
    )
    if not all(np.isfinite(array).all() for array in (splats.means, splats.quaternions, splats.scales)):
        raise SceneError(f"{path}: holds NaN or infinite splats; train the scan again or remove them")
    return splats


def write_ply(path: Path | str, splats: Splats) -> None:
    """Writes the standard 3DGS layout at degree 0, readable by every splat viewer."""
    opacity = np.clip(splats.opacities.astype(float), 1e-6, 1 - 1e-6)
    table = np.concatenate(
        [
            splats.means,
            np.zeros((len(splats), 3)),
            (splats.colours - 0.5) / SH_DEGREE_0,
            np.log(opacity / (1 - opacity))[:, None],
            np.log(np.maximum(splats.scales, 1e-9)),
            splats.quaternions,
        ],
        1,
    )
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(splats)}"]
    lines += [f"property float {name}" for name in _PROPERTIES]
    Path(path).write_bytes("\n".join([*lines, "end_header\n"]).encode() + table.astype("<f4").tobytes())


def _header(path: Path, data: bytes) -> tuple[list[str], np.dtype[np.void], int, int]:
    """Property names, row layout, number of rows, offset of the first row."""
    end = data.find(b"end_header\n", 0, 65536)
    if not data.startswith(b"ply") or end < 0:
        raise SceneError(f"{path}: not a PLY file")
    words = [line.split() for line in data[:end].decode("ascii", "replace").splitlines()]
    if ["format", "binary_little_endian", "1.0"] not in words:
        raise SceneError(f"{path}: only binary_little_endian PLY files are read")
    elements = [line for line in words if line[:1] == ["element"]]
    if not elements or elements[0][1] != "vertex":
        raise SceneError(f"{path}: the first element must be 'vertex'; compressed splat files are not read")
    first = words.index(elements[0])
    last = words.index(elements[1]) if len(elements) > 1 else len(words)
    properties = [line for line in words[first:last] if line[:1] == ["property"]]
    unknown = [" ".join(line) for line in properties if len(line) != 3 or line[1] not in _PLY_TYPES]
    if unknown or not elements[0][2].isdigit():
        raise SceneError(f"{path}: cannot read {unknown[0] if unknown else ' '.join(elements[0])!r}")
    names = [line[2] for line in properties]
    dtype = np.dtype([(line[2], _PLY_TYPES[line[1]]) for line in properties])
    return names, dtype, int(elements[0][2]), end + len(b"end_header\n")
