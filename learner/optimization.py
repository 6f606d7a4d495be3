"""This module holds what every optimizer step needs: AdamW, learning rates, clipping, the NaN guard, state as tensors.

gradients ─► clip ─► NanGuard.accepts ─► AdamW at set_factor(warmup_cosine(step), …)
"""

import inspect
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from policy.model import Policy
from protos.errors import TwinRLError
from protos.settings import positive

log = logging.getLogger(__name__)
Backbone = Literal["frozen", "last", "full"]
"""Parts of Octo that train: nothing, the last blocks and the final norm, everything."""
_FUSED = ("cpu", "cuda")
"""Devices for which torch has one kernel for the whole step."""


@dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """These settings say how the gradients of a batch are computed, and when too many of them are useless."""

    accumulate: int = 1
    """Equal parts of a batch whose gradients are computed one after the other and averaged."""
    precision: Literal["f32", "bf16"] = "f32"
    """bf16: networks run under autocast; losses, weights and optimizer stay f32."""
    compile: bool = False
    """Compile the losses with torch.compile; the first update of each kind then takes long."""
    nan_limit: int = 20
    """Updates in a row that may be skipped for NaN before the run stops."""

    def __post_init__(self) -> None:
        positive(self, "accumulate", "nan_limit")


class UncompiledAdamW(AdamW):
    """AdamW that torch's compiler is not asked to leave alone: for that torch imports it, over a second of CPU time.

    Losses may be compiled (`ComputeSettings.compile`); steps never are.
    """

    add_param_group = inspect.unwrap(AdamW.add_param_group)
    load_state_dict = inspect.unwrap(AdamW.load_state_dict)
    state_dict = inspect.unwrap(AdamW.state_dict)
    zero_grad = inspect.unwrap(AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(AdamW.step))


def train_backbone(policy: Policy, backbone: Backbone, blocks: int) -> None:
    """Marks the parameters of the backbone that train; `blocks` transformer blocks where these are the last."""
    if backbone == "frozen":
        policy.freeze_backbone()
    else:
        policy.train_backbone(blocks if backbone == "last" else None)


def adamw(
    groups: Iterable[tuple[Iterable[nn.Parameter], float]], weight_decay: float, device: str, *, fused: bool = True
) -> AdamW:
    """Makes AdamW over groups of (parameters, learning rate), without parameters that do not train and empty groups."""
    trained = [([p for p in parameters if p.requires_grad], lr) for parameters, lr in groups]
    return UncompiledAdamW(
        [{"params": parameters, "lr": lr, "initial_lr": lr} for parameters, lr in trained if parameters],
        weight_decay=weight_decay,
        fused=fused and device in _FUSED,
    )


def clip(optimizer: Optimizer, limit: float | None) -> Tensor:
    """Scales an optimizer's gradients down to a joint norm of `limit`, unless that is None; returns the norm before."""
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in trained])
    if limit is not None and trained:
        nn.utils.clip_grads_with_norm_(trained, limit, norm)
    return norm


def set_factor(optimizer: Optimizer, factor: float) -> None:
    """Sets every group's learning rate to `factor` times the one it began with."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def late_decay(progress: float, *, floor: float = 0.1) -> float:
    """Returns 1 in the first half of a stage; from there the factor falls linearly to `floor` at its end."""
    return min(1.0, max(floor, 2.0 * (1.0 - progress)))


def warmup_cosine(step: int, *, warmup: int, decay: int, floor: float = 0.0) -> float:
    """Returns a factor that rises linearly over `warmup` steps and falls to `floor` over `decay` more by a cosine."""
    if step < warmup:
        return (step + 1) / warmup
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, decay))))
    return floor + (1.0 - floor) * cosine


class NanGuard:
    """A guard refuses updates whose losses or gradients are not finite; it stops the run when they keep coming."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.skipped = 0
        """Updates refused so far."""
        self.in_a_row = 0
        """Refused ones since the last accepted one."""

    def accepts(self, loss: Tensor, *norms: Tensor) -> bool:
        """Tells whether all are finite. Raises TwinRLError after `limit` refusals in a row."""
        scalars = torch.stack([scalar.detach().to(loss.device) for scalar in (loss, *norms)])  # one transfer
        if bool(torch.isfinite(scalars).all()):
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        log.warning("update skipped: a loss or gradient is not finite (%d in all)", self.skipped)
        if self.in_a_row >= self.limit:
            raise TwinRLError(
                f"training diverged: {self.in_a_row} updates in a row had a loss or gradient that is not finite "
                f"(nan_limit={self.limit}); resume from the last checkpoint with lower learning rates"
            )
        return False


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Returns Adam's moments and step counts as `<parameter index>.<what>`; nothing before the first step."""
    return {
        f"{index}.{what}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for what, value in entries.items()
    }


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts moments and step counts back; learning rates and other settings stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, what = key.split(".", 1)
        state.setdefault(int(index), {})[what] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def under(tensors: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
    """Returns the tensors `<owner>.<name>` of one owner, by their own names."""
    prefix = f"{owner}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
