"""What losses over chunks of actions share."""

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` (n, h, A) where `mask` (n, h, A) or (n, h) is true; 0 where it is nowhere."""
    if mask.dim() < values.dim():
        mask = mask[..., None]
    counted = mask.expand_as(values).to(values.dtype)
    return (values * counted).mean() / counted.mean().clamp_min(1e-5)
