"""This module computes what one RL update minimises, as a function of networks and batch.

                 ┌ cached readouts ┐
    batch ─► augment ─► backbone ─► features ──┬─► actor loss (β BC + η q)  ─► head, and the backbone where it trains
                 │                   detached  └─► critic loss (TD + α Cal-QL) ─► critics
                 └─► the critics' own encoder ─────┘

The actor sees the critics as they were before this update's critic step; apart from that one step of staleness this is
the usual critic-then-actor order. The critics are constants in the actor's loss, the features in the critics', and
everything in the target.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learner import losses
from learner.augment import augment
from learner.rl.batches import Phase, has_cal_ql
from learner.rl.settings import UpdateSettings
from policy.critics import CriticEnsemble, ImageCritic
from policy.model import Policy

Terms = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """These are the two losses of a batch and the scalars worth logging."""

    critic: Tensor
    actor: Tensor | None
    scalars: dict[str, Tensor]
    td_error: Tensor
    """(n,) |Q − target|, mean over critics."""

    @property
    def total(self) -> Tensor:
        """The sum of both: their gradients do not overlap, so one backward pass serves both."""
        return self.critic if self.actor is None else self.critic + self.actor


def batch_losses(
    policy: Policy,
    critic: CriticEnsemble,
    target: CriticEnsemble,
    batch: Mapping[str, Tensor],
    settings: UpdateSettings,
    phase: Phase,
) -> Losses:
    """Computes both losses of a batch that `learner.rl.batches.complete` made.

    A pure function: on a joined batch its value is the mean of its values on the equal parts.
    """
    compute = _compiled() if settings.compute.compile else loss_terms
    found = compute(policy, critic, target, dict(batch), settings, phase.actor, has_cal_ql(settings, phase))
    td_error = found.pop("td_error")
    critic_loss = found["td"]
    if "calql" in found:
        critic_loss = critic_loss + settings.calql.alpha * found["calql"]
    if not phase.actor:
        return Losses(critic=critic_loss, actor=None, scalars=found, td_error=td_error)
    beta, eta = stage_weights(settings, phase)
    actor_loss = losses.actor_loss(found["bc"], -found["actor_q"], beta=beta, eta=eta)
    return Losses(critic=critic_loss, actor=actor_loss, scalars=found, td_error=td_error)


def stage_weights(settings: UpdateSettings, phase: Phase) -> tuple[float, float]:
    """Returns β and η of this update."""
    if phase.offline:
        return settings.actor.weights_offline
    return losses.weights_at(phase.progress, settings.actor.weights_start, settings.actor.weights_end)


@functools.cache
def _compiled() -> Callable[..., Terms]:
    return torch.compile(loss_terms)


def loss_terms(
    policy: Policy,
    critic: CriticEnsemble,
    target: CriticEnsemble,
    batch: dict[str, Tensor],
    settings: UpdateSettings,
    actor: bool,
    cal_ql: bool,
) -> Terms:
    """Computes the means td, q, target_q, and where asked for calql, bc, actor_q; and td_error (n,)."""
    # Without the cache: a weight cast under no_grad would be found again, without its gradient, by the actor's loss.
    with torch.autocast(
        batch["reward"].device.type, torch.bfloat16, enabled=settings.compute.precision == "bf16", cache_enabled=False
    ):
        side, wrist = _images(batch, settings, "")
        with torch.set_grad_enabled(actor and torch.is_grad_enabled()):
            features = _features(policy, batch, settings, (side, wrist), "")
        action = policy.from_wire(batch["action"])
        with torch.no_grad():
            images = _images(batch, settings, "next_")
            next_features = _features(policy, batch, settings, images, "next_")
            next_seen = _seen(target, policy, next_features, images, batch["next_proprio"])
            next_q = target(next_seen, policy.sample(next_features, noise=batch["target_noise"])).float()
            wanted = losses.td_target(batch["reward"], batch["discount"], next_q, settings.critic.target_clip)
        seen = _seen(critic, policy, features.detach(), (side, wrist), batch["proprio"])
        q = critic(seen, action).float()
        found = {
            "td": losses.td_error(q, wanted, batch["weight"]),
            "q": q.mean(),
            "target_q": wanted.mean(),
            "td_error": (q.detach() - wanted).abs().mean(0),
        }
        if cal_ql:
            found["calql"] = _cal_ql(policy, critic, features.detach(), next_features, seen, q, batch, settings)
        if actor:
            found |= _actor_terms(policy, critic, features, seen.detach(), action, batch, settings)
        return found


def _actor_terms(
    policy: Policy,
    critic: CriticEnsemble,
    features: Tensor,
    seen: Tensor,
    action: Tensor,
    batch: Mapping[str, Tensor],
    settings: UpdateSettings,
) -> Terms:
    bc = losses.consistency_bc(
        policy.consistency,
        features,
        action,
        level=batch["level"],
        noise=batch["bc_noise"],
        imitate=batch["imitate"],
        sigma_weighted=settings.actor.sigma_weighted,
    )
    own = policy.sample(features, noise=batch["actor_noise"])
    return {"bc": bc, "actor_q": -losses.q_loss(critic.fixed(seen, own).float())}


def _cal_ql(
    policy: Policy,
    critic: CriticEnsemble,
    features: Tensor,
    next_features: Tensor,
    seen: Tensor,
    q_data: Tensor,
    batch: Mapping[str, Tensor],
    settings: UpdateSettings,
) -> Tensor:
    """Computes Cal-QL's gap at m uniform actions, m of the policy here and m of it at the next observation per row."""
    m, n = settings.calql.actions, len(seen)
    with torch.no_grad():
        here = _sample_each(policy, features, batch["calql_noise"])
        there = _sample_each(policy, next_features, batch["calql_next_noise"])
        actions = torch.cat([here, there, batch["calql_uniform"].transpose(0, 1).flatten(0, 1)])
    q = critic(seen.repeat(3 * m, 1), actions).float().unflatten(1, (3 * m, n))
    return losses.cal_ql_gap(
        q_data,
        q[:, : 2 * m],
        q[:, 2 * m :],
        batch["mc_return"],
        temperature=settings.calql.temperature,
        raise_uniform=settings.calql.raised == "all",
    )


def _sample_each(policy: Policy, features: Tensor, noise: Tensor) -> Tensor:
    """Samples actions (m n, A) for noise (n, m, A): all rows with their first noise, then all with their second, …"""
    return policy.sample(features.repeat(noise.shape[1], 1), noise=noise.transpose(0, 1).flatten(0, 1))


def _features(
    policy: Policy,
    batch: Mapping[str, Tensor],
    settings: UpdateSettings,
    images: tuple[Tensor | None, Tensor | None],
    prefix: str,
) -> Tensor:
    """Returns features (n, F) from cached readouts, or from the images where the backbone trains."""
    if settings.actor.backbone == "frozen":
        embedding = batch[f"{prefix}embedding"]
    else:
        side, wrist = images
        assert side is not None and wrist is not None
        padded = side.shape[1] > 1 and not prefix
        embedding = policy.embed(side, wrist, batch["language"], ~batch["pad"] if padded else None)
    return policy.features(embedding.float(), batch[f"{prefix}proprio"])


def _images(batch: Mapping[str, Tensor], settings: UpdateSettings, prefix: str) -> tuple[Tensor | None, Tensor | None]:
    """Returns the augmented windows of both cameras, where the update needs them."""
    if not settings.needs_images:
        return None, None
    side, wrist = (
        augment(batch[f"{prefix}{name}"], f"{prefix}{name}", batch, settings.augment) for name in ("side", "wrist")
    )
    return side, wrist


def _seen(
    critic: CriticEnsemble,
    policy: Policy,
    features: Tensor,
    images: tuple[Tensor | None, Tensor | None],
    proprio: Tensor,
) -> Tensor:
    """Returns the input of the critics: the policy's features, or those of their own encoder."""
    if not isinstance(critic, ImageCritic):
        return features
    side, wrist = images
    assert side is not None and wrist is not None
    newest = proprio if proprio.dim() == 2 else proprio[:, -1]
    return critic.see(side, wrist, policy.normalization(newest)[:, list(policy.settings.proprio_indices)])
