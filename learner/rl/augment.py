"""Augmentation of pictures and of the numbers beside them.

Nothing here draws: `draw` gives the random numbers of every row first, and the functions apply them. So a row looks the
same wherever it is computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from protos.errors import InputError

CAMERAS = ("side", "wrist")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to a row's pictures; 0 leaves a part out."""

    crop_pad: int = 0
    """Pixels that the border is repeated by before a crop of the old size is taken somewhere (DrQ, arXiv 2004.13649,
    takes 4). One crop for all pictures of a window, so that motion stays."""
    gain_jitter: float = 0.0
    """Deviation of each colour channel's factor, per window."""
    shift_jitter: float = 0.0
    """Deviation of each colour channel's offset, of 255."""
    wrist_dropout: float = 0.0
    """Share of rows whose wrist pictures are black, so that the side camera is not ignored."""

    def __post_init__(self) -> None:
        if self.crop_pad < 0 or min(self.gain_jitter, self.shift_jitter) < 0 or not 0 <= self.wrist_dropout < 1:
            raise InputError(f"{self}: must not be negative, and wrist_dropout below 1")


def draw(n: int, settings: Augmentation, generator: Generator, prefix: str = "") -> dict[str, Tensor]:
    """The random numbers for n rows, as columns; `prefix` tells observations from next observations.

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


def augment(pictures: Tensor, camera: str, columns: Mapping[str, Tensor], settings: Augmentation) -> Tensor:
    """Windows (n, W, P, P, 3) of bytes or floats 0..255 → floats of the same shape and range."""
    pictures = pictures.float()
    if settings.crop_pad:
        pictures = random_crop(pictures, columns[f"{camera}_crop"], settings.crop_pad)
    if settings.gain_jitter or settings.shift_jitter:
        pictures = jitter(pictures, columns[f"{camera}_colour"], settings.gain_jitter, settings.shift_jitter)
    if settings.wrist_dropout and camera.endswith("wrist"):
        pictures = pictures * columns[camera.replace("wrist", "wrist_kept")][:, None, None, None, None]
    return pictures


def random_crop(pictures: Tensor, where: Tensor, pad: int) -> Tensor:
    """Moves windows (n, W, P, P, 3) by -pad to pad pixels down and right, the border repeated.

    `where` (n, 2) in [0, 1) chooses among the 2 pad + 1 places on each axis.
    """
    n, window, height, width, _ = pictures.shape
    offset = (where * (2 * pad + 1)).long()  # rows, columns of the crop's corner in the padded picture
    rows = (torch.arange(height, device=pictures.device) + offset[:, :1] - pad).clamp(0, height - 1)
    columns = (torch.arange(width, device=pictures.device) + offset[:, 1:] - pad).clamp(0, width - 1)
    row = torch.arange(n, device=pictures.device)[:, None, None, None]
    frame = torch.arange(window, device=pictures.device)[None, :, None, None]
    return pictures[row, frame, rows[:, None, :, None], columns[:, None, None, :]]


def jitter(pictures: Tensor, normal: Tensor, gain: float, shift: float) -> Tensor:
    """Another gain and offset for every window and colour channel; `normal` (n, 2, 3) is standard normal."""
    normal = normal[:, :, None, None, None, :]  # (n, 2, 1, 1, 1, 3)
    return pictures.mul(1.0 + gain * normal[:, 0]).add_(shift * normal[:, 1]).clamp_(0.0, 255.0)


def blur(numbers: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """Normalised numbers (n, F) with noise (n, F) added, and in the rows where `kept` (n,) is 0 gone."""
    return (numbers + noise) * kept[:, None]
