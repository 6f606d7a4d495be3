"""Colours that depend on the viewpoint: spherical harmonics along each splat's direction from the camera (numba).

A splat that moves keeps its coefficients; the camera is moved into the frame of its body instead, which costs one
subtraction per splat where turning the coefficients would cost 83 multiplications per channel.
"""

import math

import numba
import numpy as np

from protos.schema import F32
from twin.render.kernels import I32, JIT, Layer, View, Workspace, f32


def eye_of(view: View) -> F32:
    """The camera centre (3,) in the base frame."""
    return -view.camera_from_base[:, :3].T @ view.camera_from_base[:, 3]


def eyes_of(view: View, positions: F32, rotations: F32) -> F32:
    """The camera centre in the frame of each body: (bodies, 3) from (bodies, 3) and (bodies, 3, 3)."""
    return np.einsum("bji,bj->bi", rotations, eye_of(view) - positions).astype(np.float32)


@numba.njit(**JIT)
def shade(local: Layer, body: I32, eyes: F32, work: Workspace, first: int, count: int) -> None:
    """Adds the harmonics to the colours of footprints `first` to `count`, which are splats of `local`.

    `local` holds the splats in the frames of their bodies, `body` (N,) whose each is, `eyes` (bodies, 3) the camera
    centre in each body's frame.
    """
    coefficients = local.sh.shape[1]
    values = np.empty(15, np.float32)
    for place in range(first, count):
        i = work.source[place]
        eye = eyes[body[i]]
        x, y, z = local.means[i, 0] - eye[0], local.means[i, 1] - eye[1], local.means[i, 2] - eye[2]
        inverse = f32(1) / math.sqrt(x * x + y * y + z * z)
        _basis(x * inverse, y * inverse, z * inverse, coefficients, values)
        red, green, blue = local.colours[i, 0], local.colours[i, 1], local.colours[i, 2]
        for k in range(coefficients):
            red += values[k] * local.sh[i, k, 0]
            green += values[k] * local.sh[i, k, 1]
            blue += values[k] * local.sh[i, k, 2]
        row = work.footprints[place]
        row[6], row[7], row[8] = max(red, f32(0)), max(green, f32(0)), max(blue, f32(0))


@numba.njit(**JIT)
def _basis(x: float, y: float, z: float, coefficients: int, values: F32) -> None:
    """`twin.splats.harmonics.basis` of a unit vector, as many as there are coefficients."""
    values[0], values[1], values[2] = f32(-0.48860251) * y, f32(0.48860251) * z, f32(-0.48860251) * x
    if coefficients == 3:
        return
    zz, cosine, sine = z * z, x * x - y * y, f32(2) * x * y
    values[3], values[7] = f32(0.54627422) * sine, f32(0.54627422) * cosine
    values[4], values[6] = f32(-1.09254843) * y * z, f32(-1.09254843) * x * z
    values[5] = f32(0.94617470) * zz - f32(0.31539157)
    if coefficients == 8:
        return
    values[8], values[14] = f32(-0.59004359) * (x * sine + y * cosine), f32(-0.59004359) * (x * cosine - y * sine)
    values[9], values[13] = f32(1.44530572) * z * sine, f32(1.44530572) * z * cosine
    mixed = f32(0.45704579) - f32(2.28522900) * zz
    values[10], values[12] = mixed * y, mixed * x
    values[11] = z * (f32(1.86588166) * zz - f32(1.11952900))
