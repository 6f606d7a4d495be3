"""One RL update in plain torch: everything that it changes, and how.

    batch ─► complete (noise per row) ─► losses ─► gradients ─► clip ─► guard ─► both optimizers ─► target ← critics

What is drawn depends on the seed and the number of the update alone, so a run that goes on from a checkpoint repeats
the uninterrupted one.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.rl.batches import COLUMNS, WARMUP, Phase, columns, complete, draw_noise, split, turn
from learner.rl.guard import NanGuard
from learner.rl.optimizers import adamw, clip, set_rates
from learner.rl.terms import Losses, batch_losses
from learner.settings import UpdateSettings
from learner.stage.streams import torch_stream
from policy.critics import CriticEnsemble, ImageCritic
from policy.model import Policy
from policy.settings import PolicySettings
from protos.schema import F32

__all__ = [
    "COLUMNS",
    "WARMUP",
    "Losses",
    "Metrics",
    "NanGuard",
    "Phase",
    "RlAgent",
    "Updated",
    "batch_losses",
    "clip_gradients",
    "columns",
    "complete",
    "draw_noise",
    "follow",
    "split",
    "turn",
]
Metrics = dict[str, float]
_EMBED_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Updated:
    """What came of one update."""

    metrics: Metrics
    """Scalars for the log."""
    td_error: F32  # (n,) |Q − target| of each row, mean over critics, as before the update


class RlAgent:
    """Everything that an RL update changes: policy, critics, targets, optimizers, counters."""

    def __init__(self, policy: Policy, settings: UpdateSettings, *, seed: int) -> None:
        choose_trained(policy, settings)
        self.policy, self.settings, self.seed = policy, settings, seed
        self.updates = 0
        """Updates so far, skipped ones too; the index of the noise of the next one."""
        self.critic = new_critic(policy.settings, settings, seed).to(policy.device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        device = policy.device.type
        self.critic_optimizer = adamw([(self.critic.parameters(), settings.lr_critic)], settings.weight_decay, device)
        self.actor_optimizer = adamw(
            [(policy.head_parameters(), settings.lr_actor), (policy.octo.parameters(), settings.lr_backbone)],
            settings.weight_decay,
            device,
        )
        self.guard = NanGuard(settings.nan_limit)

    def fit_critic_normalization(self, batch: Mapping[str, Tensor]) -> None:
        """Sets the critics' feature statistics from demonstrations, once, before the warm-up."""
        if isinstance(self.critic, ImageCritic):
            return
        with torch.no_grad():
            features = torch.cat([self._features(part) for part in _chunks(batch, self.policy.device)])
        for critic in (self.critic, self.target):
            critic.fit_normalization(features)

    def _features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(n, F) as they are, without augmentation."""
        if self.settings.backbone == "frozen":
            return self.policy.features(batch["embedding"], batch["proprio"])
        mask = ~batch["pad"] if batch["side"].shape[1] > 1 else None
        embedding = self.policy.embed(batch["side"], batch["wrist"], batch["language"], mask)
        return self.policy.features(embedding, batch["proprio"])

    def update(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        """One update on a batch of `columns`: draws its noise and applies it."""
        phase = turn(phase, self.settings, self.updates)
        noise = torch_stream(self.seed, "noise", self.updates)
        return self.apply(complete(batch, self.policy.settings, self.settings, phase, noise), phase)

    def apply(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        """One update on a batch that has its noise. One that is not finite changes nothing but the counters."""
        found = self.gradients(batch, phase)
        self.step(found.total, phase)
        metrics = {name: float(value) for name, value in found.scalars.items()}
        return Updated(metrics=metrics | {"skipped": self.guard.skipped}, td_error=found.td_error.cpu().numpy())

    def gradients(self, batch: Mapping[str, Tensor], phase: Phase) -> Losses:
        """Leaves the gradients of a batch in the parameters; its losses, detached."""
        batch = {name: column.to(self.policy.device, non_blocking=True) for name, column in batch.items()}
        found: list[Losses] = []
        for part in split(batch, self.settings.accumulate):
            one = batch_losses(self.policy, self.critic, self.target, part, self.settings, phase)
            if not found:  # gradients of the update before; freed any earlier, their memory would be fetched anew
                self.critic_optimizer.zero_grad(set_to_none=True)
                self.actor_optimizer.zero_grad(set_to_none=True)
            (one.total / self.settings.accumulate).backward()
            found.append(detached(one))
        return found[0] if len(found) == 1 else joined(found)

    def step(self, loss: Tensor, phase: Phase) -> None:
        """Clips the gradients that lie in the parameters and steps optimizers and target on them.

        Where these or `loss`, from which they came, are not finite, nothing but the counters changes.
        """
        set_rates(self.actor_optimizer, self.critic_optimizer, self.settings, phase, self.updates)
        self.updates += 1
        if self.guard.accepts(loss, *clip_gradients(self.policy, self.critic, self.settings)):
            self.critic_optimizer.step()
            self.actor_optimizer.step()
            follow(self.target, self.critic, self.settings.tau)
            self.policy.touch("head", *(() if self.settings.backbone == "frozen" else ("backbone",)))


def choose_trained(policy: Policy, settings: UpdateSettings) -> None:
    """Marks the parameters that the actor's loss trains."""
    _ = policy.consistency  # refuses other heads
    if settings.backbone == "frozen":
        policy.freeze_backbone()
    else:
        policy.train_backbone(settings.trained_blocks if settings.backbone == "last" else None)
    policy.auxiliary.requires_grad_(False)


def new_critic(policy: PolicySettings, settings: UpdateSettings, seed: int) -> CriticEnsemble:
    """Critics of the kind that the settings ask for; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"members": settings.critics, "width": settings.critic_width}
        if settings.critic_encoder == "readout":
            return CriticEnsemble(policy.feature_dim, policy.action_dim, **sizes)
        return ImageCritic(
            settings.conv,
            pixels=(policy.octo.side_px, policy.octo.wrist_px),
            proprio=len(policy.proprio_indices),
            action_dim=policy.action_dim,
            **sizes,
        )


def clip_gradients(policy: Policy, critic: CriticEnsemble, settings: UpdateSettings) -> tuple[Tensor, Tensor]:
    """Clips the gradients of policy and critics to their limits; returns both norms as they were."""
    return clip(policy.parameters(), settings.clip_norm), clip(critic.parameters(), settings.clip_norm_critic)


@torch.no_grad()
def follow(target: CriticEnsemble, critic: CriticEnsemble, tau: float) -> None:
    """target ← target + τ (critic − target)."""
    for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
        slow.lerp_(fast, tau)


def detached(found: Losses) -> Losses:
    """The same numbers without their graph."""
    return Losses(
        critic=found.critic.detach(),
        actor=None if found.actor is None else found.actor.detach(),
        scalars={name: value.detach() for name, value in found.scalars.items()},
        td_error=found.td_error,
    )


def joined(parts: list[Losses]) -> Losses:
    """The losses of a batch from those of its equal parts."""

    def mean(values: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(values)).mean(0)

    actor = [part.actor for part in parts if part.actor is not None]
    return Losses(
        critic=mean(part.critic for part in parts),
        actor=mean(actor) if actor else None,
        scalars={name: mean(part.scalars[name] for part in parts) for name in parts[0].scalars},
        td_error=torch.cat([part.td_error for part in parts]),
    )


def _chunks(batch: Mapping[str, Tensor], device: torch.device) -> Iterable[dict[str, Tensor]]:
    """A batch in pieces small enough for pictures."""
    n = len(batch["reward"])
    for i in range(0, n, _EMBED_ROWS):
        rows = {name: c if len(c) != n else c[i : i + _EMBED_ROWS] for name, c in batch.items()}
        yield {name: column.to(device) for name, column in rows.items()}
