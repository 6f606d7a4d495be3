"""Supervised fine-tuning in memory: consistency behaviour cloning plus auxiliary labels.

episodes ─► Demonstrations (tensors) ─► batches with colour jitter ─► L_BC + w · L_aux ─► AdamW
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from learner import losses
from learner.labels import hindsight_labels
from learner.settings import TrainSettings
from policy.language import encode_instruction
from policy.model import Policy
from policy.normalize import Normalization
from protos.errors import InputError
from protos.schema import F32, Configuration, Observation

Metrics = dict[str, float]


class Demonstration(Protocol):
    """What fine-tuning reads of an episode: T actions, at least T observations."""

    @property
    def instruction(self) -> str: ...
    @property
    def configuration(self) -> Configuration: ...
    @property
    def observation(self) -> Observation: ...
    @property
    def action(self) -> F32: ...


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """All steps of all episodes as tensors, one row per step."""

    side: Tensor  # (n, P, P, 3) u8
    wrist: Tensor  # (n, P, P, 3) u8
    proprio: Tensor  # (n, 19)
    action: Tensor  # (n, A)
    labels: Tensor  # (n, 9)
    instruction: Tensor  # (n,) row of `language`
    language: Tensor  # (instructions, L, 768)
    weight: Tensor  # (n,) how often a row is drawn

    @classmethod
    def of(cls, episodes: Sequence[Demonstration], policy: Policy, settings: TrainSettings) -> "Demonstrations":
        """Tensors and labels of the episodes."""
        if not episodes:
            raise InputError("no episode to learn from")
        texts = sorted({episode.instruction for episode in episodes})

        def rows(of: Callable[[Demonstration], np.ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate([of(episode) for episode in episodes]))

        return cls(
            side=rows(lambda e: e.observation.side[: len(e.action)]),
            wrist=rows(lambda e: e.observation.wrist[: len(e.action)]),
            proprio=rows(lambda e: e.observation.proprio[: len(e.action)]),
            action=policy.from_wire(rows(lambda e: e.action)),
            labels=rows(lambda e: hindsight_labels(e.configuration, e.observation.proprio, e.action, settings.labels)),
            instruction=rows(lambda e: np.full(len(e.action), texts.index(e.instruction))),
            language=torch.from_numpy(np.stack([encode_instruction(text, policy.settings) for text in texts])),
            weight=rows(lambda e: _draw_weights(len(e.action), settings)),
        )


def _draw_weights(steps: int, settings: TrainSettings) -> F32:
    early = np.arange(steps) < settings.first_frames
    return np.where(early, settings.first_frames_weight, 1.0).astype(np.float32)


class SftTrainer:
    """One fine-tuning in progress: policy, optimizer, random stream, step."""

    def __init__(self, policy: Policy, data: Demonstrations, settings: TrainSettings) -> None:
        self.policy, self.data, self.settings = policy, data, settings
        self.step = 0
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)

    def advance(self) -> Metrics:
        """One optimizer step."""
        settings = self.settings
        rows = torch.multinomial(self.data.weight, settings.batch_size, replacement=True, generator=self.generator)
        bc, auxiliary, position_error = self._losses(rows)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * losses.warm_cosine(self.step, settings.steps)
        self.optimizer.zero_grad(set_to_none=True)
        (bc + settings.auxiliary_weight * auxiliary).backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), settings.clip_norm)
        self.optimizer.step()
        self.step += 1
        return {"bc": float(bc.detach()), "auxiliary": float(auxiliary.detach()), "position_rmse_m": position_error}

    def _losses(self, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        """L_BC, the auxiliary loss, and the root mean square error of the position labels [m]."""
        data, settings, policy = self.data, self.settings, self.policy
        side, wrist = (self._jitter(pictures[rows].float()) for pictures in (data.side, data.wrist))
        embedding = policy.embed(side, wrist, data.language[data.instruction[rows]])
        bc = losses.consistency_bc(
            policy.head,
            self._blurred(policy.features(embedding, data.proprio[rows])),
            data.action[rows],
            sigma_weighted=settings.sigma_weighted,
            generator=self.generator,
        )
        error = policy.auxiliary(embedding) - data.labels[rows]
        position_error = float(error[:, :4].detach().square().mean().sqrt()) * settings.labels.far_m
        return bc, error.square().sum(1).mean() / 4.0, position_error

    def _jitter(self, pictures: Tensor) -> Tensor:
        """Another gain and offset for every picture and colour channel."""
        shape = (len(pictures), 1, 1, 3)
        gain = 1.0 + self.settings.gain_jitter * torch.randn(shape, generator=self.generator)
        shift = self.settings.shift_jitter * torch.randn(shape, generator=self.generator)
        return (pictures * gain + shift).clamp(0.0, 255.0)

    def _blurred(self, features: Tensor) -> Tensor:
        """Features whose proprioception has noise, and in some rows is gone."""
        vision = self.policy.settings.octo.dim
        proprio = features[:, vision:]
        noise = self.settings.proprio_noise * torch.randn(proprio.shape, generator=self.generator)
        kept = torch.rand(len(proprio), 1, generator=self.generator) > self.settings.proprio_dropout
        return torch.cat([features[:, :vision], (proprio + noise) * kept], dim=1)


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
    """The episodes as tensors; sets the policy's normalisation from them."""
    data = Demonstrations.of(episodes, policy, settings)
    policy.set_normalization(Normalization.fit([data.proprio.numpy()]))
    return data
