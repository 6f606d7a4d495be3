"""Settings of supervised fine-tuning, and the values that were released with TwinRL."""

from dataclasses import dataclass, field, replace
from typing import Literal

from learner.checks import positive
from learner.rl.augment import Augmentation
from learner.sft.labels import LabelSettings
from protos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Supervised fine-tuning: behaviour cloning and auxiliary labels. The defaults suit the tiny policy."""

    steps: int = 800
    batch_size: int = 32
    lr: float = 1e-3
    warmup: int = 50
    """Steps in which the learning rate rises."""
    final_lr: float = 0.03
    """Share of the learning rate that the cosine ends at."""
    weight_decay: float = 1e-4
    clip_norm: float | None = 1.0
    """Of the whole gradient; null does not clip."""
    auxiliary_weight: float = 0.5
    first_frames: int = 8
    """The first observations of an episode decide where to go …"""
    first_frames_weight: float = 3.0
    """… and are drawn this many times as often."""
    gain_jitter: float = 0.15
    """Deviation of each colour channel's factor, per window."""
    shift_jitter: float = 12.0
    """Deviation of each colour channel's offset, of 255."""
    crop_pad: int = 0
    """Pixels by which pictures are moved at most."""
    wrist_dropout: float = 0.0
    """Share of rows whose wrist pictures are black; ConRFT takes 0.2 when Octo trains."""
    proprio_dropout: float = 0.15
    """Share of rows whose normalised proprioception is set to 0, so that the pictures are not ignored."""
    proprio_noise: float = 0.02
    sigma_weighted: bool = False
    """Weigh noise levels by σ⁻² + σ_data⁻², as ConRFT's code does."""
    backbone: Literal["frozen", "last", "full"] = "full"
    """How much of Octo trains: nothing, the last blocks, everything."""
    trained_blocks: int = 1
    """Transformer blocks that "last" trains, counted from the end."""
    accumulate: int = 1
    """Equal parts of a batch whose gradients are computed one after the other and averaged."""
    precision: Literal["f32", "bf16"] = "f32"
    """bf16: networks run under autocast; losses, weights and optimizer stay f32."""
    compile: bool = False
    """Compile the loss with torch.compile; the first step then takes long."""
    nan_limit: int = 20
    """Steps in a row that may be skipped for NaN before the run stops."""
    labels: LabelSettings = field(default_factory=LabelSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "steps", "batch_size", "lr", "warmup", "accumulate", "nan_limit", "trained_blocks")
        if self.batch_size % self.accumulate:
            raise InputError(f"batch_size={self.batch_size}: must be a multiple of accumulate={self.accumulate}")
        _ = self.augmentation

    @property
    def augmentation(self) -> Augmentation:
        """What is done to pictures."""
        return Augmentation(
            crop_pad=self.crop_pad,
            gain_jitter=self.gain_jitter,
            shift_jitter=self.shift_jitter,
            wrist_dropout=self.wrist_dropout,
        )


def conrft_train() -> TrainSettings:
    """The released values of ConRFT's offline stage (cccedric/conrft), as far as they concern imitation.

    Batches of 256, Adam at a constant 3e-4, Octo frozen, the loss weighted by noise level, DrQ's crop. No auxiliary
    labels, no colour jitter.
    """
    return replace(
        twinrl_train(),
        steps=20_000,
        batch_size=256,
        lr=3e-4,
        warmup=1,
        final_lr=1.0,
        weight_decay=0.0,
        clip_norm=None,
        backbone="frozen",
    )


def twinrl_train() -> TrainSettings:
    """The released values of TwinRL's offline stage (zhourui9813/TwinRL), as far as they concern imitation.

    Batches of 64, AdamW at 3e-5 with 2000 steps of warm-up and a cosine to 0, all of Octo trained, the
    loss weighted by noise level, DrQ's crop. No auxiliary labels, no colour jitter; the wrist camera is never masked
    (ConRFT names 0.2).
    """
    return TrainSettings(
        steps=50_000,
        batch_size=64,
        lr=3e-5,
        warmup=2_000,
        final_lr=0.0,
        weight_decay=1e-3,
        clip_norm=1.0,
        auxiliary_weight=0.0,
        first_frames_weight=1.0,
        gain_jitter=0.0,
        shift_jitter=0.0,
        crop_pad=4,
        proprio_dropout=0.0,
        proprio_noise=0.0,
        sigma_weighted=True,
    )
