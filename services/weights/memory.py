"""Memory that is used again: fresh pages cost more than all that is done with them.

A version of 27 million parameters passes through 100 to 200 MB on each side. Taken anew for each version that is tens
of thousands of page faults, most of the time of a snapshot and a good part of a swap.
"""

import sys

import numpy as np
from numpy.typing import NDArray

_SPARE = 2


def _references(arrays: list[NDArray[np.uint8]], i: int) -> int:
    return sys.getrefcount(arrays[i])


_ONLY_IN_POOL = _references([np.empty(0, np.uint8)], 0)
"""What is counted for an array that a list holds and nobody else."""


class MemoryPool:
    """Arrays of bytes by name. One is free again when nothing but the pool refers to it: no array, view or snapshot.

    Not safe between threads; what it gives out may go anywhere. Holds what is in use, and two free arrays per name.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, list[NDArray[np.uint8]]] = {}

    def take(self, name: str, size: int) -> NDArray[np.uint8]:
        """An array of `size` bytes that nobody uses; what is in it is arbitrary."""
        arrays = self._arrays.setdefault(name, [])
        free = [i for i in range(len(arrays)) if _references(arrays, i) == _ONLY_IN_POOL]
        fitting = [i for i in free if len(arrays[i]) == size]
        taken = arrays[fitting[0]] if fitting else np.empty(size, np.uint8)
        drop = set(free) - set(fitting[: _SPARE + 1])
        self._arrays[name] = [array for i, array in enumerate(arrays) if i not in drop]
        if not fitting:
            self._arrays[name].append(taken)
        return taken
