"""Weights to send: arrays shaped like a transformer's, and the small steps that training makes."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from protos.schema import F32

WIDTH = 384
"""Width of octo-small; its feed-forward layers are four times as wide."""
INITIAL_SCALE = 0.02


def transformer(parameters: int, rng: np.random.Generator) -> dict[str, F32]:
    """Arrays of `parameters` numbers in all: as many layers as fit, the rest an embedding table and a bias."""
    shapes: dict[str, tuple[int, ...]] = {}
    left, layer = parameters, 0
    while left >= (size := sum(int(np.prod(shape)) for _, shape in _layer(layer))):
        shapes |= dict(_layer(layer))
        left, layer = left - size, layer + 1
    shapes["embedding.weight"], shapes["embedding.bias"] = (left // WIDTH, WIDTH), (left % WIDTH,)
    return {
        name: rng.standard_normal(shape, np.float32) * np.float32(INITIAL_SCALE)
        for name, shape in shapes.items()
        if 0 not in shape
    }


def _layer(number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name in ("query", "key", "value", "out"):
        yield f"layer{number}.{name}.weight", (WIDTH, WIDTH)
        yield f"layer{number}.{name}.bias", (WIDTH,)
    yield f"layer{number}.up.weight", (4 * WIDTH, WIDTH)
    yield f"layer{number}.up.bias", (4 * WIDTH,)
    yield f"layer{number}.down.weight", (WIDTH, 4 * WIDTH)
    yield f"layer{number}.down.bias", (WIDTH,)
    for norm in ("norm1", "norm2"):
        yield f"layer{number}.{norm}.scale", (WIDTH,)
        yield f"layer{number}.{norm}.bias", (WIDTH,)


def train(tensors: Mapping[str, F32], step: float, rng: np.random.Generator) -> None:
    """Moves every weight by up to `step`, in place, evenly spread."""
    for array in tensors.values():
        moves = (rng.random(array.shape, np.float32) - np.float32(0.5)) * np.float32(2 * step)
        np.add(array, moves, out=array)


def mark(tensors: Mapping[str, F32], number: int) -> str:
    """Makes the weights differ from those before at next to no cost; the name of the one tensor that changed.

    Writes `number`, exact in bfloat16 below 256.
    """
    name = next(iter(tensors))
    tensors[name].flat[0] = number % 256
    return name


def checksums(tensors: Mapping[str, F32]) -> dict[str, str]:
    """sha256 of each tensor's values."""
    return {name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for name, array in tensors.items()}


def digest(checksums: Mapping[str, str]) -> str:
    """One text for all, for comparing what was published with what arrived."""
    return hashlib.sha256(repr(sorted(checksums.items())).encode()).hexdigest()[:16]
