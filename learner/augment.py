"""This module holds the random numbers of training, and the augmentation of images and numbers that they drive.

    (seed, purpose, index) ─► stream ─► draw: columns of random numbers, one row per sample ─► augment, blur

Every update draws from streams of its own, so that a learner that goes on from a checkpoint draws in update 500 what
the uninterrupted one drew in update 500, whatever was prefetched and thrown away meanwhile. The random numbers travel
as columns with the rows that they belong to, so that a row looks the same wherever it is computed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from protos.errors import InputError

CAMERAS = ("side", "wrist")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """These settings say what is done to the images of a row; 0 leaves a part out."""

    crop_pad: int = 0
    """Pixels that the border is repeated by before a crop of the old size is taken somewhere (DrQ, arXiv 2004.13649,
    takes 4). One crop for all images of a window, so that motion stays."""
    gain_jitter: float = 0.0
    """Deviation of each colour channel's factor, per window."""
    shift_jitter: float = 0.0
    """Deviation of each colour channel's offset, of 255."""
    wrist_dropout: float = 0.0
    """Share of rows whose wrist images are black, so that the side camera is not ignored; ConRFT takes 0.2 when Octo
    trains."""

    def __post_init__(self) -> None:
        if self.crop_pad < 0 or min(self.gain_jitter, self.shift_jitter) < 0 or not 0 <= self.wrist_dropout < 1:
            raise InputError(f"{self}: must not be negative, and wrist_dropout below 1")


def numpy_stream(seed: int, purpose: str, index: int) -> np.random.Generator:
    """Returns the random stream for the `index`-th use of `purpose`."""
    return np.random.default_rng(_key(seed, purpose, index))


def torch_stream(seed: int, purpose: str, index: int) -> Generator:
    """Returns the same for torch, on the CPU; what it draws is moved to where it is needed."""
    return Generator().manual_seed(_key(seed, purpose, index))


def _key(seed: int, purpose: str, index: int) -> int:
    """Returns 63 bits of the sha256 of all three."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw(n: int, settings: Augmentation, generator: Generator, prefix: str = "") -> dict[str, Tensor]:
    """Draws the random numbers of n rows as columns; `prefix` tells observations from next observations.

    `{camera}_crop` (n, 2) uniform in [0, 1), `{camera}_colour` (n, 2, 3) normal, `wrist_kept` (n,) 0 or 1.
    """
    columns: dict[str, Tensor] = {}
    for camera in CAMERAS:
        if settings.crop_pad:
            columns[f"{prefix}{camera}_crop"] = torch.rand(n, 2, generator=generator)
        if settings.gain_jitter or settings.shift_jitter:
            columns[f"{prefix}{camera}_colour"] = torch.randn(n, 2, 3, generator=generator)
    if settings.wrist_dropout:
        columns[f"{prefix}wrist_kept"] = (torch.rand(n, generator=generator) >= settings.wrist_dropout).float()
    return columns


def augment(images: Tensor, camera: str, columns: Mapping[str, Tensor], settings: Augmentation) -> Tensor:
    """Augments windows (n, W, P, P, 3) of bytes or floats 0..255 → floats of the same shape and range."""
    images = images.float()
    if settings.crop_pad:
        images = random_crop(images, columns[f"{camera}_crop"], settings.crop_pad)
    if settings.gain_jitter or settings.shift_jitter:
        images = jitter(images, columns[f"{camera}_colour"], settings.gain_jitter, settings.shift_jitter)
    if settings.wrist_dropout and camera.endswith("wrist"):
        images = images * columns[camera.replace("wrist", "wrist_kept")][:, None, None, None, None]
    return images


def random_crop(images: Tensor, position: Tensor, pad: int) -> Tensor:
    """Moves windows (n, W, P, P, 3) by -pad to pad pixels down and right, the border repeated.

    `position` (n, 2) in [0, 1) chooses among the 2 pad + 1 offsets on each axis.
    """
    n, window, height, width, _ = images.shape
    offset = (position * (2 * pad + 1)).long()  # rows, columns of the crop's corner in the padded image
    rows = (torch.arange(height, device=images.device) + offset[:, :1] - pad).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + offset[:, 1:] - pad).clamp(0, width - 1)
    row = torch.arange(n, device=images.device)[:, None, None, None]
    frame = torch.arange(window, device=images.device)[None, :, None, None]
    return images[row, frame, rows[:, None, :, None], columns[:, None, None, :]]


def jitter(images: Tensor, normal: Tensor, gain: float, shift: float) -> Tensor:
    """Gives every window and colour channel another gain and offset; `normal` (n, 2, 3) is standard normal.

    Computed line by line of pixels: what is done to 3 channels would be a loop of 3 numbers.
    """
    lines = normal.repeat(1, 1, images.shape[3])[:, :, None]  # (n, 2, 1, 3 P)
    jittered = images.flatten(3).flatten(1, 2).mul(1.0 + gain * lines[:, 0]).add_(shift * lines[:, 1])
    return jittered.clamp_(0.0, 255.0).view_as(images)


def blur(numbers: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """Adds noise (n, F) to normalised numbers (n, F), and sets the rows where `kept` (n,) is 0 to 0."""
    return (numbers + noise) * kept[:, None]
