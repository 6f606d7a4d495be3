"""bfloat16: the upper half of a float32, as much of it as weights need.

    float32 ── write_bf16 (round to nearest, ties to even) ──► uint16 bits ── from_bf16 (exact) ──► float32

Both work in blocks that stay in the processor's cache, and write into memory that the caller has ready.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.schema import F32

U16 = NDArray[np.uint16]
_BLOCK = 1 << 17
_OVERFLOW = np.float32(3.3961775e38)
"""The smallest float32 that rounds to infinity in bfloat16."""
_EXPONENT = np.uint16(0x7F80)


@dataclass(frozen=True, eq=False)
class Bf16:
    """A tensor as bfloat16 bits, so that a publisher may round on its accelerator.

    `bits` (any shape, uint16) is given away, not copied: it must not change after it was published. From torch:
    `Bf16(tensor.detach().to(torch.bfloat16).view(torch.uint16).cpu().numpy())`.
    """

    bits: U16

    def __post_init__(self) -> None:
        if getattr(self.bits, "dtype", None) != np.uint16:
            raise InputError(f"Bf16 takes an array of uint16 bits, got {getattr(self.bits, 'dtype', type(self.bits))}")


def write_bf16(values: F32, out: U16) -> bool:
    """Rounds `values` (n,) into `out` (n,). False for NaN and for what bfloat16 cannot hold; `out` is void then."""
    bits, scratch = values.view(np.uint32), np.empty(min(_BLOCK, len(values)), np.uint32)
    for start in range(0, len(values), _BLOCK):
        block, piece = values[start : start + _BLOCK], bits[start : start + _BLOCK]
        if not (block.min() > -_OVERFLOW and block.max() < _OVERFLOW):  # min and max of NaN are NaN
            return False
        rounded = scratch[: len(piece)]
        np.right_shift(piece, 16, out=rounded)
        np.bitwise_and(rounded, 1, out=rounded)
        np.add(rounded, 0x7FFF, out=rounded)
        np.add(rounded, piece, out=rounded)
        np.right_shift(rounded, 16, out=rounded)
        out[start : start + _BLOCK] = rounded
    return True


def finite_bf16(bits: U16) -> bool:
    """Whether no bfloat16 of `bits` (n,) is NaN or infinite."""
    blocks = (bits[start : start + _BLOCK] for start in range(0, len(bits), _BLOCK))
    return all((block & _EXPONENT).max() < _EXPONENT for block in blocks)


def read_bf16(bits: U16, out: NDArray[np.uint32]) -> None:
    """Writes the exact float32 bits of `bits` (n,) into `out` (n,)."""
    for start in range(0, len(bits), _BLOCK):
        block = out[start : start + _BLOCK]
        np.copyto(block, bits[start : start + _BLOCK])
        np.left_shift(block, 16, out=block)


def finite(values: NDArray[Any]) -> bool:
    """Whether no float of `values` (n,) is NaN or infinite."""
    blocks = (values[start : start + _BLOCK] for start in range(0, len(values), _BLOCK))
    return all(bool(np.isfinite(block).all()) for block in blocks)
