"""What one step of fine-tuning minimises, as a function of policy and batch.

pictures ─► augment ─► backbone ─► readout ─┬─► auxiliary head ─► L_aux
proprioception ─► noise, dropout ───────────┴─► action head ────► L_BC, the loss of that head
"""

import functools
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from learner.rl import augment, losses
from learner.sft.train_settings import TrainSettings
from policy.heads import ConsistencyHead, DiffusionHead
from policy.model import Policy
from policy.settings import PolicySettings

Columns = dict[str, Tensor]


def draw_columns(n: int, policy: PolicySettings, settings: TrainSettings, generator: Generator) -> Columns:
    """Every random number of a step on n rows, as columns that travel with the rows.

    `proprio_noise` (n, F), `proprio_kept` (n,), the columns of `learner.rl.augment`, and those of the action
    head: `level` (n,) and `noise` (n, A), or for diffusion `time` (n, 1) and `noise` (n, h·A).
    """
    columns = augment.draw(n, settings.augmentation, generator)
    columns["proprio_noise"] = settings.proprio_noise * torch.randn(n, policy.proprio_features, generator=generator)
    columns["proprio_kept"] = (torch.rand(n, generator=generator) >= settings.proprio_dropout).float()
    if policy.action_head == "consistency":
        columns["level"] = torch.randint(0, policy.head.levels - 1, (n,), generator=generator)
        columns["noise"] = torch.randn(n, policy.action_dim, generator=generator)
    elif policy.action_head == "diffusion":
        columns["time"] = torch.randint(0, policy.diffusion.steps, (n, 1), generator=generator)
        columns["noise"] = torch.randn(n, policy.action_horizon * policy.action_dim, generator=generator)
    return columns


def imitation_terms(policy: Policy, batch: Columns, settings: TrainSettings, *, auxiliary: bool) -> dict[str, Tensor]:
    """bc, and where asked for auxiliary and the mean squared error `position` of the position labels."""
    compute = _compiled() if settings.compile else _terms
    return compute(policy, batch, settings, auxiliary)


@functools.cache
def _compiled() -> Callable[..., dict[str, Tensor]]:
    return torch.compile(_terms)


def _terms(policy: Policy, batch: Columns, settings: TrainSettings, auxiliary: bool) -> dict[str, Tensor]:
    with torch.autocast(batch["action"].device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        side, wrist = (augment.augment(batch[name], name, batch, settings.augmentation) for name in augment.CAMERAS)
        mask = ~batch["pad"] if side.shape[1] > 1 else None
        embedding = policy.embed(side, wrist, batch["language"], mask).float()
        features = policy.features(embedding, batch["proprio"])
        proprio = augment.blur(features[:, embedding.shape[1] :], batch["proprio_noise"], batch["proprio_kept"])
        features = torch.cat([embedding, proprio], dim=1)
        found = {"bc": head_loss(policy, features, batch, sigma_weighted=settings.sigma_weighted)}
        if auxiliary:
            error = (policy.auxiliary(embedding).float() - batch["labels"]).square() * batch["labelled"][:, None]
            found |= {"auxiliary": error.sum(1).mean() / 4.0, "position": error[:, :4].detach().mean()}
        return found


def head_loss(policy: Policy, features: Tensor, batch: Columns, *, sigma_weighted: bool) -> Tensor:
    """The action head's own loss on chunks `action` (n, h, A), where `action_mask` (n, h) holds."""
    action, mask, head = batch["action"], batch["action_mask"], policy.head
    if isinstance(head, ConsistencyHead):
        return losses.consistency_bc(
            head, features, action[:, 0], level=batch["level"], noise=batch["noise"], sigma_weighted=sigma_weighted
        )
    if isinstance(head, DiffusionHead):
        return head.loss(features, action, mask, time=batch["time"], noise=batch["noise"])
    return head.loss(features, action, mask)
