"""Random numbers that depend on where training is, not on how it got there.

Every update draws from streams of its own, seeded by (seed, purpose, index). A learner that goes on from a checkpoint
draws in update 500 what the uninterrupted one drew in update 500, whatever was drawn ahead and thrown away meanwhile.
"""

import hashlib

import numpy as np
import torch


def numpy_stream(seed: int, purpose: str, index: int) -> np.random.Generator:
    """The stream for the `index`-th use of `purpose`."""
    return np.random.default_rng(_key(seed, purpose, index))


def torch_stream(seed: int, purpose: str, index: int) -> torch.Generator:
    """The same for torch, on the CPU; what it draws is moved to where it is needed."""
    return torch.Generator().manual_seed(_key(seed, purpose, index))


def _key(seed: int, purpose: str, index: int) -> int:
    """63 bits of the sha256 of all three."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
