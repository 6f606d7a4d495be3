"""This module fine-tunes a policy in memory: behaviour cloning plus auxiliary labels.

    episodes ─► Demonstrations ─► batch of step k ─► L_BC + w · L_aux ─► clip ─► guard ─► AdamW

    images ─► augment ─► backbone ─► readout ───┬─► auxiliary head ─► L_aux
    proprioception ─► noise, dropout ───────────┴─► action head ────► L_BC, the loss of that head

Rows and noise of step k depend on the seed and on k alone, so a trainer whose policy, optimizer and step come from a
checkpoint goes on as if it had never stopped.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from learner import augment, losses
from learner.augment import numpy_stream, torch_stream
from learner.optimization import NanGuard, adamw, clip, set_factor, train_backbone, warmup_cosine
from learner.sft.demonstrations import Demonstrations
from learner.sft.settings import TrainSettings
from policy.heads import ConsistencyHead, DiffusionHead
from policy.model import Policy
from policy.normalize import Normalization
from policy.settings import PolicySettings
from protos.episode import Episode
from protos.errors import InputError

Metrics = dict[str, float]
Columns = dict[str, Tensor]
Terms = dict[str, Tensor]


def train_sft(
    policy: Policy,
    episodes: Sequence[Episode],
    settings: TrainSettings,
    on_step: Callable[[int, Metrics], None] | None = None,
) -> Policy:
    """Fine-tunes `policy` in place on the episodes, from normalisation to the last step, and returns it."""
    trainer = SftTrainer(policy, prepare(policy, episodes, settings), settings)
    while trainer.step < settings.steps:
        metrics = trainer.advance()
        if on_step is not None:
            on_step(trainer.step, metrics)
    return policy


def prepare(policy: Policy, episodes: Sequence[Episode], settings: TrainSettings) -> Demonstrations:
    """Returns the episodes as rows; sets the policy's normalisation from them."""
    if settings.auxiliary_weight > 0 and policy.settings.auxiliary_labels != settings.labels.count:
        raise InputError(
            f"policy.auxiliary_labels={policy.settings.auxiliary_labels}: train.labels give {settings.labels.count}"
        )
    data = Demonstrations.of(episodes, policy, settings)
    policy.set_normalization(Normalization.fit([data.proprio.numpy()]))
    return data


class SftTrainer:
    """A trainer holds one fine-tuning in progress: policy, optimizer, step."""

    def __init__(self, policy: Policy, data: Demonstrations, settings: TrainSettings) -> None:
        train_backbone(policy, settings.backbone, settings.trained_blocks)  # with it trains the auxiliary head
        if settings.auxiliary_weight == 0.0:
            policy.auxiliary.requires_grad_(False)
        self.policy, self.data, self.settings = policy, data, settings
        self.step = 0
        """Steps so far, skipped ones too."""
        trained = [(policy.parameters(), settings.optimizer.lr)]
        self.optimizer = adamw(trained, settings.optimizer.weight_decay, policy.device.type)
        self.guard = NanGuard(settings.compute.nan_limit)
        self._auxiliary = policy.auxiliary.weight.requires_grad and bool(data.labelled.any())
        if settings.compute.compile:
            self._make_masks()

    def advance(self) -> Metrics:
        """Makes one optimizer step. One that is not finite changes nothing but the counters."""
        optimizer = self.settings.optimizer
        parts = [self._gradients(part, first=i == 0) for i, part in enumerate(self._parts())]
        decay = self.settings.steps - optimizer.warmup
        set_factor(
            self.optimizer, warmup_cosine(self.step, warmup=optimizer.warmup, decay=decay, floor=optimizer.final_lr)
        )
        self.step += 1
        norm = clip(self.optimizer, optimizer.clip_norm)
        found = {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
        if self.guard.accepts(found["loss"], norm):
            self.optimizer.step()
        return self._metrics(found)

    @torch.no_grad()
    def _make_masks(self) -> None:
        """Lets the backbone make its attention masks, which it keeps, before its graph is captured."""
        one = self.data.batch(np.zeros(1, np.intp), window=self.policy.settings.octo.window, horizon=1)
        self.policy.embed(*(one[name].to(self.policy.device) for name in ("side", "wrist", "language")))

    def _parts(self) -> list[Columns]:
        """Returns the rows of this step with their random numbers, in equal parts.

        Weights over the whole batch are computed here: `labelled` has a mean of 1, and `share` is the part's share of
        all actions that count.
        """
        settings, window = self.settings, self.policy.settings.octo.window
        rows = self.data.draw(settings.batch_size, numpy_stream(settings.seed, "sft rows", self.step))
        noise = torch_stream(settings.seed, "sft noise", self.step)
        batch = self.data.batch(rows, window=window, horizon=self.policy.action_horizon)
        batch |= draw_columns(settings.batch_size, self.policy.settings, settings, noise)
        batch["labelled"] = losses.row_weights(batch["labelled"])
        counted = batch["action_mask"].sum(1)
        batch["share"] = counted / counted.sum()
        size = settings.batch_size // settings.compute.accumulate
        return [{name: c[i : i + size] for name, c in batch.items()} for i in range(0, len(rows), size)]

    def _gradients(self, batch: Columns, *, first: bool) -> Terms:
        """Adds a part's gradients to those in the parameters; returns what it adds to the loss and to each term.

        Those of the step before go when the first part's loss is known: freed any earlier, their memory would go back
        to the system and be fetched again, which takes a tenth of a small step.
        """
        batch = {name: column.to(self.policy.device, non_blocking=True) for name, column in batch.items()}
        found = imitation_terms(self.policy, batch, self.settings, auxiliary=self._auxiliary)
        share = {"bc": batch["share"].sum()}
        accumulate = self.settings.compute.accumulate
        found = {name: value * share.get(name, 1.0 / accumulate) for name, value in found.items()}
        loss = found["bc"]
        if self._auxiliary:
            loss = loss + self.settings.auxiliary_weight * found["auxiliary"]
        if first:
            self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return {name: value.detach() for name, value in found.items()} | {"loss": loss.detach()}

    def _metrics(self, found: Terms) -> Metrics:
        metrics = {"bc": float(found["bc"]), "skipped": self.guard.skipped}
        if self._auxiliary:
            metrics["auxiliary"] = float(found["auxiliary"])
            metrics["position_rmse_m"] = math.sqrt(float(found["position"])) * self.settings.labels.far_m
        return metrics


def draw_columns(n: int, policy: PolicySettings, settings: TrainSettings, generator: Generator) -> Columns:
    """Draws every random number of a step on n rows, as columns that travel with the rows.

    `proprio_noise` (n, F), `proprio_kept` (n,), the columns of `learner.augment`, and those of the action head:
    `level` (n,) and `noise` (n, A), or for diffusion `time` (n, 1) and `noise` (n, h·A).
    """
    columns = augment.draw(n, settings.augment, generator)
    columns["proprio_noise"] = settings.proprio_noise * torch.randn(n, policy.proprio_features, generator=generator)
    columns["proprio_kept"] = (torch.rand(n, generator=generator) >= settings.proprio_dropout).float()
    if policy.action_head == "consistency":
        columns["level"] = torch.randint(0, policy.head.levels - 1, (n,), generator=generator)
        columns["noise"] = torch.randn(n, policy.action_dim, generator=generator)
    elif policy.action_head == "diffusion":
        columns["time"] = torch.randint(0, policy.diffusion.steps, (n, 1), generator=generator)
        columns["noise"] = torch.randn(n, policy.action_horizon * policy.action_dim, generator=generator)
    return columns


def imitation_terms(policy: Policy, batch: Columns, settings: TrainSettings, *, auxiliary: bool) -> Terms:
    """Computes bc, and where asked for auxiliary and the mean squared error `position` of the position labels."""
    compute = _compiled() if settings.compute.compile else _terms
    return compute(policy, batch, settings, auxiliary)


@functools.cache
def _compiled() -> Callable[..., Terms]:
    return torch.compile(_terms)


def _terms(policy: Policy, batch: Columns, settings: TrainSettings, auxiliary: bool) -> Terms:
    with torch.autocast(batch["action"].device.type, torch.bfloat16, enabled=settings.compute.precision == "bf16"):
        side, wrist = (augment.augment(batch[name], name, batch, settings.augment) for name in augment.CAMERAS)
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
    """Returns the action head's own loss on chunks `action` (n, h, A), where `action_mask` (n, h) holds."""
    action, mask, head = batch["action"], batch["action_mask"], policy.head
    if isinstance(head, ConsistencyHead):
        return losses.consistency_bc(
            head, features, action[:, 0], level=batch["level"], noise=batch["noise"], sigma_weighted=sigma_weighted
        )
    if isinstance(head, DiffusionHead):
        return head.loss(features, action, mask, time=batch["time"], noise=batch["noise"])
    return head.loss(features, action, mask)
