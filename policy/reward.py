"""This module is the reward classifier: it sees in both cameras' images whether the task is solved, and has a guard.

    side, wrist image ─► convolutions, one stack per camera ─► chance that it is solved ─┐
    tool, told to open? ─► Guard: tool in the target's cell, fingers as at the end ──────┴─► chance, 0 without the guard
                                            chance ≥ threshold, several control steps in a row ─► "solved" is proposed

The images tell an object that lies right from one that lies beside; the guard, which needs no image, tells one that was
let go from one that is still held, which looks the same. Both have to agree. `learner.reward` trains it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from policy import checkpoint
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.schema import F32, F64, GRIPPER_ACTION, TCP_POSITION, Bools, Configuration, Observation, Schema
from protos.settings import bounded, from_json, to_json

CELLS = 8
"""Cells a side that a camera's last features are pooled to, whatever the image's size."""
CHANNELS = (16, 32, 32)
BATCH = 256
"""Images that are looked at together."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A box in which the tool is when the task is solved, about the target's start, and what its fingers are told."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    """Corners relative to the target's position, axes of the base frame [m]."""
    opens: bool | None
    """True where the gripper has to be told to open, False to close; None where either may be."""

    def fingers(self, opens: Bools) -> Bools:
        """Tells where (n,) the gripper is told what it has to be."""
        return np.ones(len(opens), bool) if self.opens is None else opens == self.opens

    def agrees(self, tool: F64, target: F64, opens: Bools) -> Bools:
        """Tells where (n,) tools (n, 3) lie in the box about the target (3,) and the fingers are right."""
        offset = tool - target
        return np.all((offset >= self.low) & (offset <= self.high), axis=1) & self.fingers(opens)


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """These settings say what a classifier judges, and when it proposes."""

    task: str
    target: str
    """The body at whose start the task ends."""
    schema: Schema
    steps: int
    """Control steps in a row in which the chance has to reach the threshold."""
    guard: Guard
    threshold: float = 0.5

    def __post_init__(self) -> None:
        bounded(self, "reward ", {"threshold": (0.0, 1.0), "steps": (1, 20)})


class RewardClassifier(nn.Module):
    """Judges images; 650 kB of weights."""

    def __init__(self, settings: RewardSettings) -> None:
        super().__init__()
        self.settings = settings
        self.side, self.wrist = _stack(), _stack()
        self.head = nn.Sequential(nn.Linear(2 * CHANNELS[-1], 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, side: Tensor, wrist: Tensor) -> Tensor:
        """Returns logits (n,) of images (n, P, P, 3), 0 to 255."""
        seen = [
            stack(image.movedim(-1, 1).float() / 127.5 - 1.0)
            for stack, image in ((self.side, side), (self.wrist, wrist))
        ]
        logits: Tensor = self.head(torch.cat(seen, 1))[:, 0]
        return logits

    @torch.no_grad()
    def seen(self, observation: Observation) -> F64:
        """Returns the chance (n,) that the images alone give."""
        parts = [
            torch.sigmoid(self(torch.from_numpy(observation.side[at]), torch.from_numpy(observation.wrist[at])))
            for at in (slice(begin, begin + BATCH) for begin in range(0, len(observation), BATCH))
        ]
        return torch.cat(parts).double().numpy() if parts else np.zeros(0)

    def chances(self, observation: Observation, configuration: Configuration, opens: Bools) -> F64:
        """Returns the chance (n,) that the task is solved; 0 where the guard says no, whose images are not looked at.

        `opens` (n,) is true where the gripper is told to open. Raises InputError for a start without the target.
        """
        target = target_of(configuration, self.settings.target)
        tool = observation.proprio[:, TCP_POSITION].astype(float)
        may = np.flatnonzero(self.settings.guard.agrees(tool, target, opens))
        chances = np.zeros(len(observation))
        if len(may):
            chances[may] = self.seen(Observation(**{n: getattr(observation, n)[may] for n in Observation.__slots__}))
        return chances

    def lasting(self, episode: Episode) -> F64:
        """Returns per observation (T + 1,) the least chance of the latest `steps`, 0 where there are fewer."""
        chances = self.chances(episode.observation, episode.configuration, told_to_open(episode.action))
        return lasting(chances, self.settings.steps)


def lasting(chances: F64, steps: int) -> F64:
    """Returns the least of each `steps` numbers in a row (n,), at the last of them; 0 for the first ones."""
    found = np.zeros(len(chances))
    if len(chances) >= steps:
        found[steps - 1 :] = np.lib.stride_tricks.sliding_window_view(chances, steps).min(1)
    return found


def told_to_open(action: F32) -> Bools:
    """Returns for each observation (T + 1,) whether the gripper was told to open; it is open at a start."""
    opens = np.ones(len(action) + 1, bool)
    for step, command in enumerate(action[:, GRIPPER_ACTION]):
        opens[step + 1] = opens[step] if command == 0 else command > 0
    return opens


def target_of(configuration: Configuration, target: str) -> F64:
    """Returns the position (3,) of the target at the start. Raises InputError where it is not known."""
    if target not in configuration.poses:
        raise InputError(f"no start of {target!r} is known (only of {', '.join(configuration.poses) or 'nothing'})")
    return np.array(configuration.poses[target][:3], float)


def save_reward(path: Path, classifier: RewardClassifier, **manifest: Any) -> None:
    """Writes a classifier with its settings; further entries of the manifest come by keyword."""
    checkpoint.save(path, classifier.state_dict(), manifest | {"reward": to_json(classifier.settings)})


def load_reward(path: Path) -> tuple[RewardClassifier, dict[str, Any]]:
    """Returns the classifier that `save_reward` wrote, and its manifest. Raises InputError, CorruptData."""
    tensors, manifest = checkpoint.load(path)
    if not isinstance(manifest.get("reward"), dict):
        raise InputError(f"{path}: a checkpoint, but not of a reward classifier; `twinrl reward train` writes one")
    classifier = RewardClassifier(from_json(RewardSettings, manifest["reward"], "reward"))
    try:
        classifier.load_state_dict(tensors)
    except RuntimeError as error:
        raise CorruptData(f"{path}: tensors do not fit a reward classifier") from error
    return classifier.eval(), manifest


class _Flat(nn.Module):
    """Pools features to a grid of cells and lays them side by side."""

    def forward(self, features: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(features, CELLS).flatten(1)


def _stack() -> nn.Sequential:
    """Returns the layers from an image (n, 3, P, P) to features (n, 32)."""
    layers: list[nn.Module] = []
    for before, after in zip((3, *CHANNELS), CHANNELS, strict=False):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.ReLU()]
    return nn.Sequential(*layers, _Flat(), nn.Linear(CHANNELS[-1] * CELLS**2, CHANNELS[-1]), nn.ReLU())
