"""What a camera's sensor makes of a canvas: exposure, white balance and noise (numba)."""

import numba
import numpy as np

from protos.schema import F32, U8
from twin.render.kernels import JIT, f32

_MEAN, _DEVIATION = f32(510.0), f32(147.802)
"""Of the sum of four uniform bytes, which is close to normal."""
_MASK = 0xFFFFFFFF


@numba.njit(**JIT)
def expose(canvas: F32, background: F32, gains: F32, noise: float, seed: int, image: U8) -> None:
    """The canvas over `background` (H, W, 3) times `gains` (3,), with normal noise of `noise` of full scale, as bytes.

    Every pixel and channel has a number of its own, a hash of the seed and its place, so equal seeds give equal noise.
    """
    strength = f32(noise) / _DEVIATION
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            through = canvas[y, 3, x]
            for k in range(3):
                value = (canvas[y, k, x] + through * background[y, x, k]) * gains[k]
                word = _hash(seed + 0x9E3779B9 * ((y * image.shape[1] + x) * 3 + k))
                total = (word & 255) + (word >> 8 & 255) + (word >> 16 & 255) + (word >> 24)
                value = (value + strength * (f32(total) - _MEAN)) * f32(255) + f32(0.5)
                image[y, x, k] = np.uint8(min(max(value, f32(0)), f32(255)))


@numba.njit(**JIT)
def _hash(number: int) -> int:
    """32 well-mixed bits (lowbias32 of C. Wellons' hash prospector)."""
    word = number & _MASK
    word = (word ^ word >> 16) * 0x7FEB352D & _MASK
    word = (word ^ word >> 15) * 0x846CA68B & _MASK
    return word ^ word >> 16
