"""One RL update in plain torch, on cached embeddings of the frozen backbone.

    batch ─► features ─┬─► critic loss (TD + α Cal-QL) ─► critic only
                       └─► actor loss (β BC + η q)     ─► head only; the critic is a constant in it
             both steps at once, then target ← target + τ (critic − target)

The actor sees the critic as it was before this update's critic step; apart from that one step of staleness this is the
usual critic-then-actor order.
"""

import copy
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from learner import losses
from learner.settings import UpdateSettings
from policy.critic import CriticEnsemble
from policy.model import Policy
from protos.errors import TwinRLError
from protos.schema import F32

log = logging.getLogger(__name__)
Metrics = dict[str, float]


COLUMNS = (
    "embedding",  # (n, D) readout of the frozen backbone
    "proprio",  # (n, 19) as on the wire
    "action",  # (n, 7) as executed
    "reward",  # (n,) discounted sum over up to k steps
    "discount",  # (n,) γᵏ, 0 after a terminal step
    "next_embedding",  # (n, D) k steps later
    "next_proprio",  # (n, 19)
    "mc_return",  # (n,) discounted return to the end of the episode
    "imitate",  # (n,) 1 where behaviour cloning may copy the action
    "weight",  # (n,) importance weight of the TD error, 1 unless drawn by priority
)
"""What an update reads of a replay batch."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What this update trains and how far the stage is."""

    actor: bool = True
    """False in the critic warm-up."""
    progress: float = 0.0
    """0 to 1 over the online stage."""


WARMUP = Phase(actor=False)


@dataclass(frozen=True, kw_only=True)
class Updated:
    """What came of one update."""

    metrics: Metrics
    """Scalars for the log."""
    td_error: F32  # (n,) |Q − target| of each row, mean over critics, as before the update


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The two losses of a batch and what is worth logging."""

    critic: Tensor
    actor: Tensor | None
    scalars: dict[str, Tensor]
    td_error: Tensor
    """(n,) |Q − target|, mean over critics."""

    @property
    def total(self) -> Tensor:
        """Their gradients do not overlap, so one backward pass serves both."""
        return self.critic if self.actor is None else self.critic + self.actor


def columns(batch: object) -> dict[str, Tensor]:
    """The `COLUMNS` of a replay batch, numpy attributes of these names, as float32 tensors."""
    return {name: torch.from_numpy(np.asarray(getattr(batch, name), np.float32)) for name in COLUMNS}


def batch_losses(
    policy: Policy,
    critic: CriticEnsemble,
    target: CriticEnsemble,
    batch: Mapping[str, Tensor],
    settings: UpdateSettings,
    phase: Phase,
    generator: Generator,
) -> Losses:
    """Both losses of a batch of `COLUMNS`."""
    features = policy.features(batch["embedding"], batch["proprio"])
    action = policy.from_wire(batch["action"])
    with torch.no_grad():
        next_features = policy.features(batch["next_embedding"], batch["next_proprio"])
        next_q = target(next_features, policy.sample(next_features, generator))
        wanted = losses.td_target(batch["reward"], batch["discount"], next_q, settings.target_clip)
    q = critic(features, action)
    td = losses.td_error(q, wanted, batch["weight"])
    td_error = (q.detach() - wanted).abs().mean(0)
    scalars = {"td": td, "q": q.mean(), "target_q": wanted.mean()}
    critic_loss = td
    if not phase.actor and settings.calql_alpha > 0.0:
        gap = _cal_ql(policy, critic, features, q, batch["mc_return"], settings, generator)
        critic_loss, scalars["calql"] = td + settings.calql_alpha * gap, gap
    if not phase.actor:
        return Losses(critic=critic_loss, actor=None, scalars=scalars, td_error=td_error)
    beta, eta = losses.weights_at(phase.progress, settings.weights_start, settings.weights_end)
    bc = losses.consistency_bc(
        policy.head,
        features,
        action,
        imitate=batch["imitate"],
        sigma_weighted=settings.sigma_weighted,
        generator=generator,
    )
    q_part = losses.q_loss(critic.fixed(features, policy.sample(features, generator)))
    scalars |= {"bc": bc, "actor_q": -q_part}
    actor_loss = losses.actor_loss(bc, q_part, beta=beta, eta=eta)
    return Losses(critic=critic_loss, actor=actor_loss, scalars=scalars, td_error=td_error)


def _cal_ql(
    policy: Policy,
    critic: CriticEnsemble,
    features: Tensor,
    q_data: Tensor,
    mc_return: Tensor,
    settings: UpdateSettings,
    generator: Generator,
) -> Tensor:
    """Cal-QL's gap at `calql_actions` actions of the policy and as many uniform ones per row."""
    m, (n, _) = settings.calql_actions, features.shape
    repeated = features.repeat(m, 1)
    with torch.no_grad():
        ours = policy.sample(repeated, generator)
        uniform = 2.0 * torch.rand(ours.shape, generator=generator, device=ours.device) - 1.0
    q_ours, q_uniform = (critic(repeated, action).unflatten(1, (m, n)) for action in (ours, uniform))
    return losses.cal_ql_gap(q_data, q_ours, q_uniform, mc_return, settings.calql_temperature)


class NanGuard:
    """Refuses updates whose losses or gradients are not finite; stops the run when they keep coming."""

    def __init__(self, limit: int) -> None:
        self.limit, self.skipped, self._in_a_row = limit, 0, 0

    def accepts(self, scalars: Iterable[Tensor]) -> bool:
        """Whether all are finite. Raises TwinRLError after `limit` refusals in a row."""
        if bool(torch.isfinite(torch.stack([scalar.detach() for scalar in scalars])).all()):
            self._in_a_row = 0
            return True
        self.skipped += 1
        self._in_a_row += 1
        log.warning("update skipped: a loss or gradient is not finite (%d in all)", self.skipped)
        if self._in_a_row >= self.limit:
            raise TwinRLError(
                f"training diverged: {self._in_a_row} updates in a row had a loss or gradient that is not finite "
                f"(nan_limit={self.limit}); resume from the last checkpoint with lower learning rates"
            )
        return False


class RlAgent:
    """Everything that an RL update changes: head, critics, targets, optimizers, the random stream."""

    def __init__(self, policy: Policy, settings: UpdateSettings, *, seed: int) -> None:
        policy.freeze_backbone()
        self.policy, self.settings = policy, settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critic = CriticEnsemble(
                policy.settings.feature_dim,
                policy.settings.action_dim,
                members=settings.critics,
                width=settings.critic_width,
            )
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=settings.lr_critic)
        self.actor_optimizer = torch.optim.Adam(policy.head.parameters(), lr=settings.lr_actor)
        self.generator = torch.Generator().manual_seed(seed)
        self.guard = NanGuard(settings.nan_limit)

    def fit_critic_normalization(self, batch: Mapping[str, Tensor]) -> None:
        """Sets the critics' feature statistics from demonstrations, once, before the warm-up."""
        with torch.no_grad():
            features = self.policy.features(batch["embedding"], batch["proprio"])
        for critic in (self.critic, self.target):
            critic.fit_normalization(features)

    def update(self, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
        return rl_update(self, batch, phase)


def rl_update(agent: RlAgent, batch: Mapping[str, Tensor], phase: Phase) -> Updated:
    """One update of critics, and in the online phase the head.

    An update with a loss or gradient that is not finite changes nothing.
    """
    settings = agent.settings
    set_actor_rate(agent.actor_optimizer, settings, phase)
    found = batch_losses(agent.policy, agent.critic, agent.target, batch, settings, phase, agent.generator)
    agent.critic_optimizer.zero_grad(set_to_none=True)
    agent.actor_optimizer.zero_grad(set_to_none=True)
    found.total.backward()
    norms = clip_gradients(agent.policy, agent.critic, settings)
    if agent.guard.accepts([found.total, *norms]):
        agent.critic_optimizer.step()
        agent.actor_optimizer.step()
        follow(agent.target, agent.critic, settings.tau)
    metrics = {name: float(value.detach()) for name, value in found.scalars.items()}
    return Updated(metrics=metrics | {"skipped": agent.guard.skipped}, td_error=found.td_error.numpy())


def set_actor_rate(optimizer: torch.optim.Optimizer, settings: UpdateSettings, phase: Phase) -> None:
    """The head's learning rate at this point of the stage."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr_actor * losses.late_decay(phase.progress)


def clip_gradients(policy: Policy, critic: CriticEnsemble, settings: UpdateSettings) -> tuple[Tensor, Tensor]:
    """Clips the head's gradient to `clip_norm`; returns both norms as they were. The critic's is not clipped."""
    actor = torch.nn.utils.clip_grad_norm_(policy.head.parameters(), settings.clip_norm)
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    return actor, torch.nn.utils.get_total_norm(gradients)


@torch.no_grad()
def follow(target: CriticEnsemble, critic: CriticEnsemble, tau: float) -> None:
    """target ← target + τ (critic − target)."""
    for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
        slow.lerp_(fast, tau)
