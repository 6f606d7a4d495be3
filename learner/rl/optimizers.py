"""AdamW, its learning rates, clipping."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from learner.rl.batches import Phase
from learner.rl.schedules import late_decay, warmup_cosine
from learner.rl.update_settings import UpdateSettings

_FUSED = ("cpu", "cuda")
"""Devices for which torch has one kernel for the whole step."""


def adamw(
    groups: Iterable[tuple[Iterable[nn.Parameter], float]], weight_decay: float, device: str, *, fused: bool = True
) -> AdamW:
    """AdamW over groups of (parameters, learning rate); those that are not trained are left out, and empty groups."""
    trained = [([p for p in parameters if p.requires_grad], lr) for parameters, lr in groups]
    return AdamW(
        [{"params": parameters, "lr": lr, "initial_lr": lr} for parameters, lr in trained if parameters],
        weight_decay=weight_decay,
        fused=fused and device in _FUSED,
    )


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scales gradients down to a joint norm of `limit`, where there is one; returns the norm as it was."""
    trained = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    if limit is not None and trained:
        nn.utils.clip_grads_with_norm_(trained, limit, norm)
    return norm


def set_factor(optimizer: Optimizer, factor: float) -> None:
    """Sets every group's learning rate to `factor` times the one it began with."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def set_rates(actor: Optimizer, critic: Optimizer, settings: UpdateSettings, phase: Phase, update: int) -> None:
    """The learning rates of update number `update`."""
    actor_factor = critic_factor = 1.0
    if settings.schedule == "late":
        actor_factor = late_decay(phase.progress)
    elif settings.schedule == "cosine":
        actor_factor = critic_factor = warmup_cosine(update, warmup=settings.lr_warmup, decay=settings.lr_decay)
    set_factor(actor, actor_factor)
    set_factor(critic, critic_factor)
