"""How alike a photo and a render are, over the pixels that the photo shows.

PSNR = -10 log10 MSE [dB]; SSIM as in Wang et al., "Image Quality Assessment", IEEE TIP 2004: Gaussian window of
σ = 1.5 px, K = (0.01, 0.03), mean over the picture's pixels and channels.
"""

import math

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from twin.scan.frames import U8


def psnr(photo: U8, shown: U8, valid: NDArray[np.bool_]) -> float:
    """Peak signal-to-noise ratio [dB] of two pictures (H, W, 3) over the `valid` pixels (H, W); 100 when equal."""
    error = ((photo[valid].astype(float) - shown[valid]) ** 2).mean() / 255**2
    return -10 * math.log10(max(float(error), 1e-10))


def ssim(photo: U8, shown: U8, valid: NDArray[np.bool_]) -> float:
    """Structural similarity, 1 when equal. Windows near invalid pixels see the photo on both sides of the border."""
    filled = np.where(valid[..., None], shown, photo)
    _, similarity = structural_similarity(
        photo, filled, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    return float(similarity[valid].mean())
