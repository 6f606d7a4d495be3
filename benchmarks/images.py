"""Steps that look like a camera's, made once and stored by every system of the replay benchmark.

A image is a background with the spectrum of photographs (amplitude falling with frequency), a patch that moves from
step to step, and sensor noise. What that costs each codec is in the tables: a JPEG of 256 × 256 takes about 30 kB.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.schema import ACTION_DIM, F32, PROPRIO_DIM, SEGMENT_STEPS, U8

SPECTRUM = 1.5
"""Amplitude ~ 1 / frequency ** SPECTRUM; photographs: 1 to 1.5, sharp to soft."""
CONTRAST = 45.0
"""Standard deviation of the background [grey levels]."""
NOISE = 1.5
"""Standard deviation of the sensor noise [grey levels]."""


def make_steps(folder: Path, *, segments: int, side_px: int, wrist_px: int) -> Path:
    """Writes side, wrist, proprio (segments, 17, …) and action (segments, 16, 7) as .npy; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = SEGMENT_STEPS + 1
    proprio = rng.normal(size=(segments, rows, PROPRIO_DIM)).astype(np.float32)
    proprio[..., 0] = np.arange(segments)[:, None]
    proprio[..., 1] = np.arange(rows)
    arrays: dict[str, NDArray[Any]] = {
        "side": np.stack([film(rng, rows, side_px) for _ in range(segments)]),
        "wrist": np.stack([film(rng, rows, wrist_px) for _ in range(segments)]),
        "proprio": proprio,
        "action": rng.uniform(-1, 1, (segments, SEGMENT_STEPS, ACTION_DIM)).astype(np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def film(rng: np.random.Generator, frames: int, px: int) -> U8:
    """(frames, px, px, 3): a patch moves over one background."""
    size = px // 6
    background, patch = _photograph(rng, px), _photograph(rng, size)
    begin, end = rng.integers(0, px - size, (2, 2))
    images = np.repeat(background[None], frames, axis=0)
    for image, share in zip(images, np.linspace(0, 1, frames), strict=True):
        top, left = (begin + share * (end - begin)).astype(int)
        image[top : top + size, left : left + size] = patch
    noisy = images + rng.normal(0, NOISE, images.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _photograph(rng: np.random.Generator, px: int) -> F32:
    """(px, px, 3): brightness with a photograph's spectrum, and a weaker field of the same kind per colour."""
    bright, *colours = (_field(rng, px) for _ in range(4))
    return 128 + CONTRAST * (bright[..., None] + 0.3 * np.stack(colours, axis=-1)).astype(np.float32)


def _field(rng: np.random.Generator, px: int) -> NDArray[np.float64]:
    frequency = np.hypot(np.fft.fftfreq(px)[:, None], np.fft.rfftfreq(px)[None])
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(px, px))) / frequency**SPECTRUM, s=(px, px))
    return field / field.std()
