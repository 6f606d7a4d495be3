"""This module holds the settings of supervised fine-tuning, and the values that were released with the papers."""

from dataclasses import dataclass, field, replace

from learner.augment import Augmentation
from learner.optimization import Backbone, ComputeSettings
from learner.sft.labels import LabelSettings
from protos.errors import InputError
from protos.settings import positive


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """These settings make AdamW's steps. The learning rate rises, then falls by a cosine."""

    lr: float = 1e-3
    warmup: int = 50
    """Steps in which the learning rate rises."""
    final_lr: float = 0.03
    """Share of the learning rate that the cosine ends at."""
    weight_decay: float = 1e-4
    clip_norm: float | None = 1.0
    """Limit for the whole gradient; null does not clip."""

    def __post_init__(self) -> None:
        positive(self, "lr", "warmup")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Supervised fine-tuning: behaviour cloning and auxiliary labels. The defaults suit the tiny policy."""

    steps: int = 800
    batch_size: int = 32
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    backbone: Backbone = "full"
    """Part of Octo that trains."""
    trained_blocks: int = 1
    """Transformer blocks that "last" trains, counted from the end."""
    labels: LabelSettings = field(default_factory=LabelSettings)
    auxiliary_weight: float = 0.5
    """Weight of the loss on the labels; 0 leaves it out."""
    first_frames: int = 8
    """The first observations of an episode decide where to go …"""
    first_frames_weight: float = 3.0
    """… and are drawn this many times as often."""
    augment: Augmentation = field(default_factory=lambda: Augmentation(gain_jitter=0.2, shift_jitter=20.0))
    """Augmentation of images."""
    proprio_dropout: float = 0.15
    """Share of rows whose normalised proprioception is set to 0, so that the images are not ignored."""
    proprio_noise: float = 0.02
    sigma_weighted: bool = False
    """Weigh noise levels by σ⁻² + σ_data⁻², as ConRFT's code does."""
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "steps", "batch_size", "trained_blocks")
        if self.batch_size % self.compute.accumulate:
            raise InputError(
                f"batch_size={self.batch_size}: must be a multiple of accumulate={self.compute.accumulate}"
            )


def conrft_train() -> TrainSettings:
    """Returns the released values of ConRFT's offline stage (cccedric/conrft), as far as they concern imitation.

    Batches of 256, Adam at a constant 3e-4, Octo frozen, the loss weighted by noise level, DrQ's crop. No auxiliary
    labels, no colour jitter.
    """
    return replace(
        twinrl_train(),
        steps=20_000,
        batch_size=256,
        optimizer=OptimizerSettings(lr=3e-4, warmup=1, final_lr=1.0, weight_decay=0.0, clip_norm=None),
        backbone="frozen",
    )


def twinrl_train() -> TrainSettings:
    """Returns the released values of TwinRL's offline stage (zhourui9813/TwinRL), as far as they concern imitation.

    Batches of 64, AdamW at 3e-5 with 2000 steps of warm-up and a cosine to 0, all of Octo trained, the
    loss weighted by noise level, DrQ's crop. No auxiliary labels, no colour jitter; the wrist camera is never masked
    (ConRFT names 0.2).
    """
    return TrainSettings(
        steps=50_000,
        batch_size=64,
        optimizer=OptimizerSettings(lr=3e-5, warmup=2_000, final_lr=0.0, weight_decay=1e-3, clip_norm=1.0),
        auxiliary_weight=0.0,
        first_frames_weight=1.0,
        augment=Augmentation(crop_pad=4),
        proprio_dropout=0.0,
        proprio_noise=0.0,
        sigma_weighted=True,
    )
