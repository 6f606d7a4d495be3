"""Supervised fine-tuning in memory: behaviour cloning plus auxiliary labels.

    episodes ─► Demonstrations ─► batch of step k ─► L_BC + w · L_aux ─► clip ─► guard ─► AdamW

Rows and noise of step k depend on the seed and on k alone, so a trainer whose policy, optimizer and step come from a
checkpoint goes on as if it had never stopped.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from learner.rl.guard import NanGuard
from learner.rl.losses import row_weights
from learner.rl.optimizers import adamw, clip, set_factor
from learner.rl.schedules import warmup_cosine
from learner.settings import TrainSettings
from learner.sft.demonstrations import Demonstration, Demonstrations
from learner.sft.imitation import Columns, draw_columns, imitation_terms
from learner.stage.streams import numpy_stream, torch_stream
from policy.model import Policy
from policy.normalize import Normalization
from protos.errors import InputError

__all__ = ["Demonstration", "Demonstrations", "Metrics", "SftTrainer", "prepare", "train_sft"]
Metrics = dict[str, float]
Terms = dict[str, Tensor]


class SftTrainer:
    """One fine-tuning in progress: policy, optimizer, step."""

    def __init__(self, policy: Policy, data: Demonstrations, settings: TrainSettings) -> None:
        choose_trained(policy, settings)
        self.policy, self.data, self.settings = policy, data, settings
        self.step = 0
        """Steps so far, skipped ones too."""
        trained = [(policy.parameters(), settings.lr)]
        self.optimizer = adamw(trained, settings.weight_decay, policy.device.type)
        self.guard = NanGuard(settings.nan_limit)
        self._auxiliary = policy.auxiliary.weight.requires_grad and bool(data.labelled.any())
        if settings.compile:
            self._make_masks()

    def advance(self) -> Metrics:
        """One optimizer step. One that is not finite changes nothing but the counters."""
        settings = self.settings
        parts = [self._gradients(part, first=i == 0) for i, part in enumerate(self._parts())]
        decay = settings.steps - settings.warmup
        factor = warmup_cosine(self.step, warmup=settings.warmup, decay=decay, floor=settings.final_lr)
        set_factor(self.optimizer, factor)
        self.step += 1
        norm = clip(self.policy.parameters(), settings.clip_norm)
        found = {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
        if self.guard.accepts(found["loss"], norm):
            self.optimizer.step()
            self.policy.touch()
        return self._metrics(found)

    @torch.no_grad()
    def _make_masks(self) -> None:
        """Lets the backbone make its attention masks, which it keeps, before its graph is captured."""
        one = self.data.batch(np.zeros(1, np.intp), window=self.policy.settings.octo.window, horizon=1)
        self.policy.embed(*(one[name].to(self.policy.device) for name in ("side", "wrist", "language")))

    def _parts(self) -> list[Columns]:
        """The rows of this step with their random numbers, in equal parts.

        What is weighted over the whole batch is weighted here: `labelled` to a mean of 1, and in `share` the part's
        share of all actions that count.
        """
        settings, window = self.settings, self.policy.settings.octo.window
        rows = self.data.draw(settings.batch_size, numpy_stream(settings.seed, "sft rows", self.step))
        noise = torch_stream(settings.seed, "sft noise", self.step)
        batch = self.data.batch(rows, window=window, horizon=self.policy.action_horizon)
        batch |= draw_columns(settings.batch_size, self.policy.settings, settings, noise)
        batch["labelled"] = row_weights(batch["labelled"])
        counted = batch["action_mask"].sum(1)
        batch["share"] = counted / counted.sum()
        size = settings.batch_size // settings.accumulate
        return [{name: c[i : i + size] for name, c in batch.items()} for i in range(0, len(rows), size)]

    def _gradients(self, batch: Columns, *, first: bool) -> Terms:
        """Adds a part's gradients to those in the parameters; what it adds to the loss and to each term.

        Those of the step before go when the first part's loss is known: freed any earlier, their memory would go back
        to the system and be fetched again, which takes a tenth of a small step.
        """
        batch = {name: column.to(self.policy.device, non_blocking=True) for name, column in batch.items()}
        found = imitation_terms(self.policy, batch, self.settings, auxiliary=self._auxiliary)
        share = {"bc": batch["share"].sum()}
        found = {name: value * share.get(name, 1.0 / self.settings.accumulate) for name, value in found.items()}
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


def choose_trained(policy: Policy, settings: TrainSettings) -> None:
    """Marks the parameters that fine-tuning changes. The auxiliary head shapes the backbone and trains with it."""
    if settings.backbone == "frozen":
        policy.freeze_backbone()
    else:
        policy.train_backbone(settings.trained_blocks if settings.backbone == "last" else None)
    if settings.auxiliary_weight == 0.0:
        policy.auxiliary.requires_grad_(False)


def train_sft(
    policy: Policy,
    episodes: Sequence[Demonstration],
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


def prepare(policy: Policy, episodes: Sequence[Demonstration], settings: TrainSettings) -> Demonstrations:
    """The episodes as rows; sets the policy's normalisation from them."""
    if settings.auxiliary_weight > 0 and policy.settings.auxiliary_labels != settings.labels.count:
        raise InputError(
            f"policy.auxiliary_labels={policy.settings.auxiliary_labels}: train.labels give {settings.labels.count}"
        )
    data = Demonstrations.of(episodes, policy, settings)
    policy.set_normalization(Normalization.fit([data.proprio.numpy()]))
    return data
