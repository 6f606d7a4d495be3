"""This module keeps demonstrations as rows that a trainer gathers batches from.

Images stay the bytes that the episodes hold; a batch copies the windows it needs. The numbers, small beside them, are
tensors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.sft.labels import hindsight_labels
from learner.sft.settings import TrainSettings
from policy.language import encode_instruction
from policy.model import Policy
from protos.episode import Episode
from protos.errors import InputError
from protos.schema import F32, U8

Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """Holds all steps of all episodes, one row per step, n in all."""

    side: Sequence[U8]  # of each episode, (≥ T, P, P, 3)
    wrist: Sequence[U8]  # of each episode, (≥ T, P, P, 3)
    episode: Rows  # (n,)
    first: Rows  # (n,) the first row of the row's episode
    last: Rows  # (n,) its last
    proprio: Tensor  # (n, 25)
    action: Tensor  # (n, A)
    labels: Tensor  # (n, LabelSettings.count)
    labelled: Tensor  # (n,) 1 where `labels` mean something, else 0
    instruction: Tensor  # (n,) row of `language`
    language: Tensor  # (instructions, L, 768)
    weight: F32  # (n,) how often a row is drawn

    @classmethod
    def of(cls, episodes: Sequence[Episode], policy: Policy, settings: TrainSettings) -> "Demonstrations":
        """Makes rows and labels of the episodes."""
        episodes = [episode for episode in episodes if len(episode.action)]
        if not episodes:
            raise InputError("no episode to learn from")
        texts = sorted({episode.instruction for episode in episodes})
        lengths = np.array([len(episode.action) for episode in episodes])
        ends = lengths.cumsum()

        def rows(of: Callable[[Episode], np.ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate([of(episode) for episode in episodes]))

        return cls(
            side=[episode.observation.side for episode in episodes],
            wrist=[episode.observation.wrist for episode in episodes],
            episode=np.arange(len(episodes)).repeat(lengths),
            first=(ends - lengths).repeat(lengths),
            last=(ends - 1).repeat(lengths),
            proprio=rows(lambda e: e.observation.proprio[: len(e.action)]),
            action=policy.from_wire(rows(lambda e: e.action).to(policy.device)).cpu(),
            labels=rows(lambda e: _labels(e, settings)),
            labelled=rows(lambda e: np.full(len(e.action), bool(e.configuration.poses), np.float32)),
            instruction=rows(lambda e: np.full(len(e.action), texts.index(e.instruction))),
            language=torch.from_numpy(np.stack([encode_instruction(text, policy.settings) for text in texts])),
            weight=np.concatenate([_draw_weights(length, settings) for length in lengths]),
        )

    def __len__(self) -> int:
        return len(self.episode)

    def draw(self, size: int, rng: np.random.Generator) -> Rows:
        """Draws `size` rows by their weights, with replacement."""
        upto = self._upto
        return np.searchsorted(upto, rng.random(size) * upto[-1], side="right").clip(max=len(self) - 1)

    @cached_property
    def _upto(self) -> NDArray[np.float64]:
        """The sum of the weights up to each row."""
        return self.weight.cumsum(dtype=np.float64)

    def batch(self, rows: Rows, *, window: int, horizon: int) -> dict[str, Tensor]:
        """Returns the rows with what surrounds them.

        `side`, `wrist` (n, W, P, P, 3) u8 and `pad` (n, W): the window that ends at the row, the episode's first
        observation repeated where there is no earlier one, which `pad` marks. `action` (n, h, A) and `action_mask`
        (n, h): the row's action and those after it, the last repeated beyond the end, where the mask is false. Also
        `proprio` (n, W, 25), `labels`, `labelled`, `language` (n, L, 768).
        """
        first, last = self.first[rows][:, None], self.last[rows][:, None]
        seen = rows[:, None] + np.arange(1 - window, 1)
        done = rows[:, None] + np.arange(horizon)
        frames, at = np.maximum(seen, first), torch.from_numpy(rows)
        return {
            "side": self._windows(self.side, rows, frames - first),
            "wrist": self._windows(self.wrist, rows, frames - first),
            "pad": torch.from_numpy(seen < first),
            "proprio": self.proprio[frames],
            "action": self.action[np.minimum(done, last)],
            "action_mask": torch.from_numpy(done <= last),
            "labels": self.labels[at],
            "labelled": self.labelled[at],
            "language": self.language[self.instruction[at]],
        }

    def _windows(self, camera: Sequence[U8], rows: Rows, frames: Rows) -> Tensor:
        return torch.from_numpy(np.stack([camera[e][t] for e, t in zip(self.episode[rows], frames, strict=True)]))


def _labels(episode: Episode, settings: TrainSettings) -> F32:
    if not episode.configuration.poses:
        return np.zeros((len(episode.action), settings.labels.count), np.float32)
    return hindsight_labels(episode.configuration, episode.observation.proprio, episode.action, settings.labels)


def _draw_weights(steps: int, settings: TrainSettings) -> F32:
    early = np.arange(steps) < settings.first_frames
    return np.where(early, settings.first_frames_weight, 1.0).astype(np.float32)
