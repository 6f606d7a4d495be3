"""This module checks what splat files hold, whatever their packing: files come from elsewhere."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protos.errors import SceneError
from protos.pointers import refuse_pointer
from twin.splats.cloud import Splats

LARGEST = 1e6
"""Largest magnitude of a position, size or colour."""
MAX_SPLATS = 10_000_000
MAX_BYTES = 4 << 30
"""Largest size of a file."""
Floats = NDArray[np.floating]


def read_bytes(path: Path) -> bytes:
    """Reads a whole file of at most `MAX_BYTES`. Raises `SceneError`, and InputError for a pointer."""
    refuse_pointer(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SceneError(f"{path}: {path.stat().st_size} bytes; splat files of at most {MAX_BYTES} bytes are read")
        return path.read_bytes()
    except OSError as error:
        raise SceneError(f"{path}: cannot be read ({error.strerror})") from error


def check_count(path: Path, count: int) -> None:
    """Raises `SceneError` for more splats than a scene can have."""
    if count > MAX_SPLATS:
        raise SceneError(f"{path}: {count} splats; files of at most {MAX_SPLATS} are read")


def splats_of(
    path: Path,
    *,
    means: Floats,  # (N, 3)
    quaternions: Floats,  # (N, 4) wxyz, any length; 0 is no rotation
    log_scales: Floats,  # (N, 3)
    opacities: Floats,  # (N,) 0..1
    colours: Floats,  # (N, 3)
    sh: Floats,  # (N, K, 3)
) -> Splats:
    """Makes splats of the values of a file. Raises `SceneError` if any value is not finite or beyond `LARGEST`."""
    length = np.linalg.norm(quaternions, axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        splats = Splats.of(
            means=means,
            quaternions=np.where(length < 1e-12, [1.0, 0, 0, 0], quaternions / np.maximum(length, 1e-12)),
            scales=np.exp(log_scales),
            opacities=opacities,
            colours=colours,
            sh=sh,
        )
    for array in (splats.means, splats.quaternions, splats.scales, splats.opacities, splats.colours, splats.sh):
        if not (np.abs(array) <= LARGEST).all():
            raise SceneError(f"{path}: holds NaN, infinite or huge splats; train the scan again or remove them")
    return splats
