"""This module holds the settings of one RL update, and the values that were released with the papers."""

from dataclasses import dataclass, field, replace
from typing import Literal

from learner.augment import Augmentation
from learner.optimization import Backbone, ComputeSettings
from policy.critics import ConvSettings
from protos.errors import InputError
from protos.settings import positive

Weights = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ActorSettings:
    """These settings say what of the policy trains, how fast, and with which loss."""

    backbone: Backbone = "frozen"
    """Part of Octo that the actor's loss trains. Unless it is frozen, readouts are computed in every update and batches
    need images."""
    trained_blocks: int = 1
    """Transformer blocks that "last" trains, counted from the end."""
    lr: float = 3e-4
    lr_backbone: float = 3e-5
    clip_norm: float | None = 1.0
    """Limit for the gradient of head and backbone; null does not clip."""
    every: int = 1
    """Updates per actor step; the others train the critics alone."""
    offline: bool = False
    """Train the actor on demonstrations alone too, in the updates that warm the critics up: ConRFT's first stage."""
    weights_offline: Weights = (1.0, 0.1)
    """β and η there."""
    weights_start: Weights = (1.0, 0.05)
    """β and η at the start of the online stage …"""
    weights_end: Weights = (1.0, 0.0)
    """… and at its end. The Q loss first leads the policy away from what it does, at the price of a dip in success;
    with η falling to 0 the stage ends in imitation of what has succeeded meanwhile."""
    sigma_weighted: bool = False
    """Weigh noise levels by σ⁻² + σ_data⁻², as ConRFT's code does."""

    def __post_init__(self) -> None:
        positive(self, "lr", "lr_backbone", "every", "trained_blocks")


@dataclass(frozen=True, kw_only=True)
class CriticSettings:
    """These settings say how many critics there are, what they see and how they learn."""

    members: int = 2
    width: int = 192
    encoder: Literal["readout", "conv"] = "readout"
    """Input of the critics: the policy's readout, or the newest images through a convolutional encoder of their own.
    "conv" needs images in every batch."""
    conv: ConvSettings = field(default_factory=ConvSettings)
    """The encoder "conv"."""
    lr: float = 5e-4
    clip_norm: float | None = None
    """Limit for the gradient; null does not clip."""
    tau: float = 0.02
    """Step of the target critics towards the critics, per update."""
    target_clip: tuple[float, float] | None = (0.0, 1.0)
    """Range of the bootstrap value; null for rewards other than 0 and 1."""

    def __post_init__(self) -> None:
        positive(self, "members", "width", "lr", "tau")


@dataclass(frozen=True, kw_only=True)
class CalQlSettings:
    """These settings weigh the regulariser that the critics have offline, Cal-QL (arXiv 2303.05479)."""

    alpha: float = 0.1
    """Weight in the critics' loss; 0 leaves it out."""
    actions: int = 1
    """Actions per row from each of three sources: uniform, the policy's here, the policy's one transition later."""
    temperature: float = 1.0
    raised: Literal["all", "policy"] = "all"
    """Sampled actions whose values are raised to the return of the data: all, as in ConRFT's code, or the policy's
    alone, as in the Cal-QL paper."""

    def __post_init__(self) -> None:
        positive(self, "actions", "temperature")


@dataclass(frozen=True, kw_only=True)
class RateSettings:
    """These settings change the learning rates over a stage."""

    schedule: Literal["late", "constant", "cosine"] = "late"
    """late: the actor's falls linearly to a tenth in the second half of the online stage. cosine: all rise over
    `warmup` updates and fall to 0 over `decay` more."""
    warmup: int = 0
    decay: int = 100_000

    def __post_init__(self) -> None:
        positive(self, "decay")
        if self.warmup < 0:
            raise InputError(f"warmup={self.warmup}: must not be negative")


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """These settings make one RL update. The defaults suit the tiny policy on cached readouts.

    `conrft_update` has the papers' values.
    """

    actor: ActorSettings = field(default_factory=ActorSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    calql: CalQlSettings = field(default_factory=CalQlSettings)
    rates: RateSettings = field(default_factory=RateSettings)
    weight_decay: float = 0.0
    """Weight decay of AdamW, of actor and critics; with 0 it is Adam."""
    augment: Augmentation = field(default_factory=lambda: Augmentation(crop_pad=4))
    """Augmentation of images in the batch; cached readouts are not changed."""
    compute: ComputeSettings = field(default_factory=ComputeSettings)

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise InputError(f"weight_decay={self.weight_decay}: must not be negative")

    @property
    def needs_images(self) -> bool:
        """True when batches carry images."""
        return self.actor.backbone != "frozen" or self.critic.encoder == "conv"

    @property
    def needs_readouts(self) -> bool:
        """True when batches carry cached readouts."""
        return self.actor.backbone == "frozen"


def conrft_update() -> UpdateSettings:
    """Returns ConRFT's update as released (cccedric/conrft, with the β and η of arXiv 2502.05450), backbone frozen.

    Its critic has a pretrained ResNet-10 per camera; a small encoder trained from scratch stands in for it here. β and
    η are the paper's; the released scripts have (1, 0) offline and (0.1, 1) online. α = 0.1 is the code's, the paper
    names 0.01. It goes with batches of 256, a discount of 0.98, and 20,000 offline iterations of two updates.
    """
    return UpdateSettings(
        actor=ActorSettings(
            lr=3e-4,
            clip_norm=None,
            every=2,
            offline=True,
            weights_offline=(1.0, 0.1),
            weights_start=(0.5, 1.0),
            weights_end=(0.5, 1.0),
            sigma_weighted=True,
        ),
        critic=CriticSettings(width=256, encoder="conv", lr=3e-4, tau=0.005, target_clip=None),
        calql=CalQlSettings(alpha=0.1, actions=10),
        rates=RateSettings(schedule="constant"),
    )


def twinrl_update() -> UpdateSettings:
    """Returns TwinRL's offline stage as released (zhourui9813/TwinRL): ConRFT, all of Octo trained, at a lower rate.

    It goes with batches of 64, a discount of 0.98, and 50,000 iterations of two updates.
    """
    conrft = conrft_update()
    return replace(
        conrft,
        actor=replace(conrft.actor, backbone="full", lr=3e-5, lr_backbone=3e-5, clip_norm=1.0),
        critic=replace(conrft.critic, lr=3e-5, clip_norm=1.0),
        rates=RateSettings(schedule="cosine", warmup=2_000, decay=98_000),
        weight_decay=1e-3,
    )
