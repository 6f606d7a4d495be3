"""Proprioception to zero mean and unit deviation; the statistics travel with the weights.

Deviations have floors per unit, so that a number that hardly moves in the demonstrations (a locked rotation, a quiet
force) does not blow up when it moves a little at run time. Normalised values are clipped to ±5.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from protos.errors import InputError
from protos.schema import F32, GRIPPER, PROPRIO_DIM

LIMIT = 5.0
_FLOORS = (
    (slice(0, 3), 0.02),  # TCP position [m]
    (slice(3, 6), 0.05),  # TCP rotation vector [rad]
    (slice(6, 9), 0.05),  # TCP linear velocity [m/s]
    (slice(9, 12), 0.1),  # TCP angular velocity [rad/s]
    (slice(12, 15), 1.0),  # force [N]
    (slice(15, 18), 0.1),  # torque [Nm]
    (slice(GRIPPER, GRIPPER + 1), 0.1),  # gripper opening
)


class Normalization(nn.Module):
    """Mean and deviation of the 19 numbers of a proprioception."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: F32 | None = None, std: F32 | None = None) -> None:
        super().__init__()
        mean = np.zeros(PROPRIO_DIM, np.float32) if mean is None else mean
        std = np.ones(PROPRIO_DIM, np.float32) if std is None else std
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    @classmethod
    def fit(cls, proprio: Sequence[F32]) -> "Normalization":
        """The statistics of arrays (n, 19)."""
        rows = np.concatenate(list(proprio)) if len(proprio) else np.empty((0, PROPRIO_DIM), np.float32)
        if not len(rows) or not np.isfinite(rows).all():
            raise InputError(
                f"normalisation needs finite proprioception; got {len(rows)} rows, NaN or infinity in some"
            )
        floors = np.empty(PROPRIO_DIM, np.float32)
        for where, floor in _FLOORS:
            floors[where] = floor
        return cls(rows.mean(0), np.maximum(rows.std(0), floors))

    def forward(self, proprio: Tensor) -> Tensor:
        """(n, 19) in units of the wire → normalised (n, 19)."""
        return ((proprio - self.mean) / self.std).clamp(-LIMIT, LIMIT)
