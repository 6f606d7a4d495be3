"""This module normalizes proprioception to zero mean and unit deviation; the statistics travel with the weights.

Deviations have floors per unit, so that a number that hardly moves in the demonstrations (a locked rotation, a quiet
force) does not blow up when it moves a little at run time. Normalised values are clipped to ±5.

Actions are on the wire as the policy predicts them, but for imported checkpoints: those predict normalized actions of
their dataset, and `action_units` says how to undo that.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from policy.settings import ActionUnits
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
    (slice(19, 22), 0.01),  # motion under way [m]
    (slice(22, 25), 0.05),  # rotation under way [rad]
)


class Normalization(nn.Module):
    """Normalizes the 25 numbers of a proprioception by their mean and deviation."""

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
        """Returns the statistics of arrays (n, 25)."""
        rows = np.concatenate(list(proprio)) if len(proprio) else np.empty((0, PROPRIO_DIM), np.float32)
        if not len(rows) or not np.isfinite(rows).all():
            raise InputError(
                f"normalization needs finite proprioception; got {len(rows)} rows, NaN or infinity in some"
            )
        floors = np.empty(PROPRIO_DIM, np.float32)
        for where, floor in _FLOORS:
            floors[where] = floor
        return cls(rows.mean(0), np.maximum(rows.std(0), floors))

    def forward(self, proprio: Tensor) -> Tensor:
        """Returns (..., 25), normalized, of (..., 25) in units of the wire."""
        return ((proprio - self.mean) / self.std).clamp(-LIMIT, LIMIT)


def action_units(statistics: Mapping[str, Any], kind: Literal["normal", "bounds"]) -> ActionUnits:
    """Returns the units of a dataset, from the entry "action" of Octo's `dataset_statistics.json`.

    normal   action = std · predicted + mean
    bounds   action = (predicted + 1) / 2 · (p99 - p01) + p01

    Numbers that the entry's mask leaves out (a gripper, as a rule) stay as they are predicted.
    """
    low, high = ("mean", "std") if kind == "normal" else ("p01", "p99")
    missing = [name for name in (low, high) if name not in statistics]
    if missing:
        raise InputError(f"action statistics have no {missing[0]!r}, which {kind!r} normalization needs")
    first, second = (np.asarray(statistics[name], np.float64) for name in (low, high))
    scale, offset = (second, first) if kind == "normal" else ((second - first) / 2, (second + first) / 2)
    mask = np.asarray(statistics.get("mask", np.ones(len(scale), bool)), bool)
    return ActionUnits(
        scale=tuple(float(x) for x in np.where(mask, scale, 1.0)),
        offset=tuple(float(x) for x in np.where(mask, offset, 0.0)),
    )
