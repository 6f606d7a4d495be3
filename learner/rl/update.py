"""This module makes one RL update in plain torch, on everything that an update changes.

    batch ─► complete (noise per row) ─► losses ─► gradients ─► clip ─► guard ─► both optimizers ─► target ← critics

Random numbers depend on the seed and the number of the update alone, so a run that goes on from a checkpoint repeats
the uninterrupted one.
"""

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from learner.augment import torch_stream
from learner.optimization import (
    NanGuard,
    adamw,
    clip,
    late_decay,
    load_optimizer,
    optimizer_tensors,
    set_factor,
    train_backbone,
    under,
    warmup_cosine,
)
from learner.rl.batches import Phase, complete, phase_of, split
from learner.rl.settings import UpdateSettings
from learner.rl.terms import Losses, batch_losses
from policy.critics import CriticEnsemble, ImageCritic
from policy.model import Parts, Policy
from policy.settings import PolicySettings
from protos.errors import CorruptData
from protos.schema import F32

Metrics = dict[str, float]
COUNTERS = "counters"
"""Name of a tensor beside those of networks and optimizers: updates so far, and the skipped ones among them."""
_EMBED_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Updated:
    """The result of one update."""

    metrics: Metrics
    """Scalars for the log."""
    td_error: F32  # (n,) |Q − target| of each row, mean over critics, as before the update


class RlAgent:
    """An agent holds everything that an RL update changes: policy, critics, targets, optimizers, counters.

    It is the `learner.rl.loop.Updater` whose updates run in this process.
    """

    def __init__(self, policy: Policy, settings: UpdateSettings, *, seed: int) -> None:
        actor, device = settings.actor, policy.device.type
        _ = policy.consistency  # refuses other heads
        train_backbone(policy, actor.backbone, actor.trained_blocks)
        policy.auxiliary.requires_grad_(False)
        self.policy, self.settings, self.seed = policy, settings, seed
        self.updates = 0
        """Updates so far, skipped ones too; the index of the noise of the next one."""
        self.critic = new_critic(policy.settings, settings, seed).to(policy.device)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_optimizer = adamw([(self.critic.parameters(), settings.critic.lr)], settings.weight_decay, device)
        self.actor_optimizer = adamw(
            [(policy.head_parameters(), actor.lr), (policy.octo.parameters(), actor.lr_backbone)],
            settings.weight_decay,
            device,
        )
        self.guard = NanGuard(settings.compute.nan_limit)

    def fit_normalization(self, batch: Mapping[str, Tensor]) -> None:
        """Sets the critics' feature statistics from demonstrations, once, before the warm-up."""
        if isinstance(self.critic, ImageCritic):
            return
        with torch.no_grad():
            features = torch.cat([self._features(part) for part in _chunks(batch, self.policy.device)])
        for critic in (self.critic, self.target):
            critic.fit_normalization(features)

    def _features(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns features (n, F) without augmentation."""
        if self.settings.needs_readouts:
            return self.policy.features(batch["embedding"], batch["proprio"])
        mask = ~batch["pad"] if batch["side"].shape[1] > 1 else None
        embedding = self.policy.embed(batch["side"], batch["wrist"], batch["language"], mask)
        return self.policy.features(embedding, batch["proprio"])

    def update(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        """Makes one update on a batch of `columns`: draws its noise and applies it."""
        phase = phase_of(phase, self.settings, self.updates)
        noise = torch_stream(self.seed, "noise", self.updates)
        return self.apply(complete(batch, self.policy.settings, self.settings, phase, noise), phase)

    def apply(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        """Makes one update on a batch that has its noise. One that is not finite changes nothing but the counters."""
        found = self.gradients(batch, phase)
        self.step(found.total, phase)
        metrics = {name: float(value) for name, value in found.scalars.items()}
        return Updated(metrics=metrics | {"skipped": self.guard.skipped}, td_error=found.td_error.cpu().numpy())

    def gradients(self, batch: Mapping[str, Tensor], phase: Phase) -> Losses:
        """Leaves the gradients of a batch in the parameters; returns its losses, detached."""
        batch = {name: column.to(self.policy.device, non_blocking=True) for name, column in batch.items()}
        accumulate = self.settings.compute.accumulate
        found: list[Losses] = []
        for part in split(batch, accumulate):
            one = batch_losses(self.policy, self.critic, self.target, part, self.settings, phase)
            if not found:  # gradients of the update before; freed any earlier, their memory would be fetched anew
                self.critic_optimizer.zero_grad(set_to_none=True)
                self.actor_optimizer.zero_grad(set_to_none=True)
            (one.total / accumulate).backward()
            found.append(detached(one))
        return found[0] if len(found) == 1 else joined(found)

    def step(self, loss: Tensor, phase: Phase) -> None:
        """Clips the gradients that lie in the parameters and steps optimizers and target on them.

        Where these or `loss`, from which they came, are not finite, nothing but the counters changes.
        """
        self._set_rates(phase)
        self.updates += 1
        if self.guard.accepts(loss, *self.clip_gradients()):
            self.critic_optimizer.step()
            self.actor_optimizer.step()
            track(self.target, self.critic, self.settings.critic.tau)

    def clip_gradients(self) -> tuple[Tensor, Tensor]:
        """Clips the gradients of policy and critics to their limits; returns both norms as they were."""
        return (
            clip(self.actor_optimizer, self.settings.actor.clip_norm),
            clip(self.critic_optimizer, self.settings.critic.clip_norm),
        )

    def _set_rates(self, phase: Phase) -> None:
        """Sets the learning rates of the next update."""
        rates = self.settings.rates
        actor_factor = critic_factor = 1.0
        if rates.schedule == "late":
            actor_factor = late_decay(phase.progress)
        elif rates.schedule == "cosine":
            actor_factor = critic_factor = warmup_cosine(self.updates, warmup=rates.warmup, decay=rates.decay)
        set_factor(self.actor_optimizer, actor_factor)
        set_factor(self.critic_optimizer, critic_factor)

    def parts(self, names: Collection[str]) -> Parts:
        """Returns the policy's parts as they are now, for publishing; to be copied before the next update."""
        return self.policy.parts(names)

    def tensors(self) -> dict[str, Tensor]:
        """Returns copies of networks, optimizer states and counters, on the CPU, as `<owner>.<name>`."""
        found: dict[str, Tensor] = {}
        for owner, module in self._modules().items():
            found |= {f"{owner}.{name}": tensor for name, tensor in module.state_dict().items()}
        for owner, optimizer in self._optimizers().items():
            found |= {f"{owner}.{name}": tensor for name, tensor in optimizer_tensors(optimizer).items()}
        found[COUNTERS] = torch.tensor([self.updates, self.guard.skipped])
        return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts `tensors` back, in place. Raises CorruptData when they are of another agent."""
        try:
            for owner, module in self._modules().items():
                module.load_state_dict(under(tensors, owner))
            for owner, optimizer in self._optimizers().items():
                load_optimizer(optimizer, under(tensors, owner))
            self.updates, self.guard.skipped = map(int, tensors[COUNTERS])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CorruptData(f"these tensors are of another network or stage: {error}") from error

    def close(self) -> None:
        """Does nothing: updates run in this process."""

    def _modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy, "critic": self.critic, "target": self.target}

    def _optimizers(self) -> dict[str, Optimizer]:
        return {"critic_optimizer": self.critic_optimizer, "actor_optimizer": self.actor_optimizer}


def new_critic(policy: PolicySettings, settings: UpdateSettings, seed: int) -> CriticEnsemble:
    """Makes critics of the kind that the settings ask for; the same for the same seed."""
    critic = settings.critic
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"members": critic.members, "width": critic.width}
        if critic.encoder == "readout":
            return CriticEnsemble(policy.feature_dim, policy.action_dim, **sizes)
        return ImageCritic(
            critic.conv,
            pixels=(policy.octo.side_px, policy.octo.wrist_px),
            proprio=len(policy.proprio_indices),
            action_dim=policy.action_dim,
            **sizes,
        )


@torch.no_grad()
def track(target: CriticEnsemble, critic: CriticEnsemble, tau: float) -> None:
    """Moves the target: target ← target + τ (critic − target)."""
    for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
        slow.lerp_(fast, tau)


def detached(found: Losses) -> Losses:
    """Returns the same numbers without their graph."""
    return Losses(
        critic=found.critic.detach(),
        actor=None if found.actor is None else found.actor.detach(),
        scalars={name: value.detach() for name, value in found.scalars.items()},
        td_error=found.td_error,
    )


def joined(parts: list[Losses]) -> Losses:
    """Returns the losses of a batch from those of its equal parts."""

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
    """Yields a batch in pieces small enough for images."""
    n = len(batch["reward"])
    for i in range(0, n, _EMBED_ROWS):
        rows = {name: c if len(c) != n else c[i : i + _EMBED_ROWS] for name, c in batch.items()}
        yield {name: column.to(device) for name, column in rows.items()}
