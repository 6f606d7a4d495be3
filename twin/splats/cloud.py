"""Splats as arrays.

The colour of a splat seen along the unit direction d (from the camera to its centre) is that of gsplat and of 3D
Gaussian Splatting (Kerbl et al. 2023): max(0, colours + sum_k sh_k Y_k(d)), with `colours` = 0.5 + 0.2820948 f_dc.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protos.schema import F32
from twin.rotations import matrix_from_quaternion, multiply, quaternion_from_matrix
from twin.splats.harmonics import COUNTS, rotate

SH_DEGREE_0 = 0.28209479177387814
"""Value of the constant spherical harmonic, 1 / (2 sqrt(pi))."""
SPREAD = 0.62
"""Standard deviation of surface splats over their spacing; neighbours then add up to an even, closed surface."""
_ARRAYS = ("means", "quaternions", "scales", "opacities", "colours")
_NO_SH = np.zeros((0, 0, 3), np.float32)


@dataclass(frozen=True, kw_only=True)
class Splats:
    """N Gaussians in one frame."""

    means: F32  # (N, 3) m
    quaternions: F32  # (N, 4) wxyz, unit length
    scales: F32  # (N, 3) m, standard deviations along the rotated axes
    opacities: F32  # (N,) 0..1
    colours: (
        F32  # (N, 3) 0..1 as stored in the file (display-referred); with harmonics their mean, which may lie outside
    )
    sh: F32 = field(default_factory=lambda: _NO_SH)
    """(N, K, 3) spherical harmonics above degree 0; K = 0, 3, 8 or 15 for degree 0 to 3."""

    def __post_init__(self) -> None:
        if not self.sh.size:
            object.__setattr__(self, "sh", np.zeros((len(self.means), 0, 3), np.float32))
        assert self.sh.shape[1] in COUNTS, f"Splats.sh has {self.sh.shape[1]} coefficients, not one of {COUNTS}"
        widths = ((3,), (4,), (3,), (), (3,), self.sh.shape[1:])
        for name, width in zip((*_ARRAYS, "sh"), widths, strict=True):
            array = getattr(self, name)
            assert array.dtype == np.float32, f"Splats.{name} is {array.dtype}; Splats.of() converts"
            assert array.shape == (len(self.means), *width), f"Splats.{name} has shape {array.shape}"

    @staticmethod
    def of(
        *,
        means: ArrayLike,
        quaternions: ArrayLike,
        scales: ArrayLike,
        opacities: ArrayLike,
        colours: ArrayLike,
        sh: ArrayLike = _NO_SH,
    ) -> "Splats":
        """Splats from arrays of any number type."""
        given = (means, quaternions, scales, opacities, colours)
        arrays = dict(zip(_ARRAYS, (np.ascontiguousarray(array, np.float32) for array in given), strict=True))
        return Splats(**arrays, sh=np.ascontiguousarray(sh, np.float32))

    def __len__(self) -> int:
        return len(self.means)

    @property
    def degree(self) -> int:
        """Of the spherical harmonics: 0 (the same colour from everywhere) to 3."""
        return COUNTS.index(self.sh.shape[1])

    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.intp]) -> "Splats":
        """The chosen splats."""
        return Splats(**{name: np.ascontiguousarray(getattr(self, name)[index]) for name in (*_ARRAYS, "sh")})

    def covariances(self) -> F32:
        """(N, 6) upper triangles xx, xy, xz, yy, yz, zz [m^2]: R diag(s^2) R^T."""
        axes = matrix_from_quaternion(self.quaternions) * self.scales[:, None, :]
        full = axes @ axes.transpose(0, 2, 1)
        return full[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]].astype(np.float32)

    def transformed(self, base_from_x: ArrayLike, scale: float = 1.0) -> "Splats":
        """Scaled about the origin, then moved by the rigid transform (4, 4); their sheen turns with them."""
        pose = np.asarray(base_from_x, float)
        rotation = pose[:3, :3]
        return Splats.of(
            means=(self.means * scale) @ rotation.T + pose[:3, 3],
            quaternions=multiply(quaternion_from_matrix(rotation), self.quaternions),
            scales=self.scales * scale,
            opacities=self.opacities,
            colours=self.colours,
            sh=rotate(self.sh, rotation),
        )

    def coloured(self, colours: ArrayLike) -> "Splats":
        """With other colours (N, 3), clipped to 0..1 unless harmonics are added to them."""
        clipped = np.clip(colours, 0, 1) if self.degree == 0 else colours
        return replace(self, colours=np.asarray(clipped, np.float32))


def concatenate(parts: Sequence[Splats]) -> Splats:
    """All splats of all parts, in order; their degree is the highest among them."""
    count = max(part.sh.shape[1] for part in parts)
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    padded = [np.pad(part.sh, ((0, 0), (0, count - part.sh.shape[1]), (0, 0))) for part in parts]
    return Splats(**arrays, sh=np.concatenate(padded))
