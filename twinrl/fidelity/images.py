"""How alike two worlds look: the same joints and the same bodies, drawn in both (PSNR, SSIM per camera)."""

from dataclasses import dataclass

import numpy as np

from protos.errors import InputError
from protos.schema import U8


@dataclass(frozen=True, kw_only=True)
class ImageDistance:
    """Of one camera, over its pictures."""

    frames: int
    psnr_db: float
    """Of the mean squared error over all pictures; infinite when they are the same."""
    worst_psnr_db: float
    """Of the picture that differs most."""
    ssim: float
    """Mean over the pictures (Wang et al. 2004, 7 x 7 window, mean over the colours); 1 when they are the same."""


def image_distance(first: U8, second: U8) -> ImageDistance:
    """Compares pictures (n, P, P, 3) one by one."""
    from skimage.metrics import structural_similarity

    if first.shape != second.shape or not len(first):
        raise InputError(f"pictures of shapes {first.shape} and {second.shape}: one shape, and at least one of each")
    errors = ((first.astype(float) - second.astype(float)) ** 2).mean(axis=(1, 2, 3))
    alike = [structural_similarity(a, b, channel_axis=-1) for a, b in zip(first, second, strict=True)]
    return ImageDistance(
        frames=len(first),
        psnr_db=psnr_db(float(errors.mean())),
        worst_psnr_db=psnr_db(float(errors.max())),
        ssim=float(np.mean(alike)),
    )


def psnr_db(squared_error: float) -> float:
    """Peak signal-to-noise ratio of 8-bit pictures with this mean squared error."""
    return float("inf") if squared_error == 0 else float(10 * np.log10(255.0**2 / squared_error))
