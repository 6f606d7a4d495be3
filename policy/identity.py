"""What weights are called: hashes that two processes compute alike.

A part's digest is over the names and bytes of its tensors as they arrive: float32, or, of a part that travels as
bfloat16, with every tensor but vectors and scalars rounded to it. The id of weights is over the digests of their parts,
so parts that did not change need no hashing again.
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

WireDtype = Literal["f32", "bf16"]
EXACT = ("backbone",)
"""Parts that travel as float32 whatever the others do."""
_DIGITS = 16
_ROUNDED_DIMENSIONS = 2
"""What has fewer (biases, norms) travels as float32: it is small and matters."""


def part_digest(arrays: Mapping[str, NDArray[Any]], dtype: WireDtype = "f32") -> str:
    """The sha256 of a part's tensors by name, with the values that arrive when they are sent as `dtype`."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        values = np.ascontiguousarray(array, np.float32)
        if dtype == "bf16" and values.ndim >= _ROUNDED_DIMENSIONS:
            values = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def joined_id(digests: Mapping[str, str]) -> str:
    """The id (16 hex digits) of weights whose parts have these digests."""
    lines = "".join(f"{part}:{digest}\n" for part, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:_DIGITS]


def wire_id(
    parts: Mapping[str, Mapping[str, NDArray[Any]]], dtype: WireDtype = "f32", *, exact: Collection[str] = EXACT
) -> str:
    """The id of complete weights as they arrive: parts named in `exact` as float32, the others as `dtype`."""
    return joined_id({part: part_digest(arrays, "f32" if part in exact else dtype) for part, arrays in parts.items()})
