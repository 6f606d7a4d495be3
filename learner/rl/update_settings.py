"""Settings of one RL update, and the values that were released with the papers."""

from dataclasses import dataclass, field, replace
from typing import Literal

from learner.checks import positive
from learner.rl.augment import Augmentation
from policy.critics import ConvSettings
from protos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """One RL update. The defaults suit the tiny policy on cached readouts; `conrft_update` has the papers' values."""

    critics: int = 2
    critic_width: int = 192
    critic_encoder: Literal["readout", "conv"] = "readout"
    """What the critics see: the policy's readout, or the newest pictures through a convolutional encoder of their own.
    "conv" needs pictures in every batch."""
    conv: ConvSettings = field(default_factory=ConvSettings)
    """For `critic_encoder` "conv"."""
    backbone: Literal["frozen", "last", "full"] = "frozen"
    """How much of Octo the actor's loss trains: nothing, the last blocks, everything. Unless it is frozen, readouts
    are computed in every update and batches need pictures."""
    trained_blocks: int = 1
    """Transformer blocks that "last" trains, counted from the end."""
    lr_actor: float = 3e-4
    lr_backbone: float = 3e-5
    lr_critic: float = 5e-4
    schedule: Literal["late", "constant", "cosine"] = "late"
    """Learning rates over a stage. late: the actor's falls linearly to a tenth in the second half of the online stage.
    cosine: all rise over `lr_warmup` updates and fall to 0 over `lr_decay` more."""
    lr_warmup: int = 0
    lr_decay: int = 100_000
    weight_decay: float = 0.0
    """Of AdamW; with 0 it is Adam."""
    tau: float = 0.02
    """Step of the target critics towards the critics, per update."""
    clip_norm: float | None = 1.0
    """Of the gradient of head and backbone; null does not clip."""
    clip_norm_critic: float | None = None
    actor_every: int = 1
    """Updates per actor step; the others train the critics alone."""
    actor_offline: bool = False
    """Train the actor on demonstrations alone too, in the updates that warm the critics up: ConRFT's first stage."""
    weights_offline: tuple[float, float] = (1.0, 0.1)
    """β and η there."""
    weights_start: tuple[float, float] = (1.0, 0.05)
    """β and η at the start of the online stage …"""
    weights_end: tuple[float, float] = (1.0, 0.0)
    """… and at its end. The Q loss first leads the policy away from what it does, at the price of a dip in success;
    with η falling to 0 the stage ends in imitation of what has succeeded meanwhile."""
    target_clip: tuple[float, float] | None = (0.0, 1.0)
    """Range of the bootstrap value; null for rewards other than 0 and 1."""
    calql_alpha: float = 0.1
    """Weight of Cal-QL offline; 0 leaves it out."""
    calql_actions: int = 1
    """Actions per row from each of three sources: uniform, the policy's here, the policy's one transition later."""
    calql_temperature: float = 1.0
    calql_raised: Literal["all", "policy"] = "all"
    """Which sampled actions' values are raised to the return of the data: all, as in ConRFT's code, or the policy's
    alone, as in the Cal-QL paper."""
    sigma_weighted: bool = False
    """Weigh noise levels by σ⁻² + σ_data⁻², as ConRFT's code does."""
    augment: Augmentation = field(default_factory=lambda: Augmentation(crop_pad=4))
    """Of pictures in the batch; cached readouts are not changed."""
    accumulate: int = 1
    """Equal parts of a batch whose gradients are computed one after the other and averaged."""
    precision: Literal["f32", "bf16"] = "f32"
    """bf16: networks run under autocast; losses, weights and optimizers stay f32."""
    compile: bool = False
    """Compile the losses with torch.compile; the first update of each kind then takes long."""
    nan_limit: int = 20
    """Updates in a row that may be skipped for NaN before the run stops."""

    def __post_init__(self) -> None:
        positive(self, "critics", "critic_width", "lr_actor", "lr_backbone", "lr_critic", "lr_decay", "tau")
        positive(self, "nan_limit", "calql_actions", "calql_temperature", "accumulate", "actor_every", "trained_blocks")
        if self.weight_decay < 0 or self.lr_warmup < 0:
            raise InputError(f"weight_decay={self.weight_decay}, lr_warmup={self.lr_warmup}: must not be negative")

    @property
    def needs_pictures(self) -> bool:
        """Whether batches carry pictures."""
        return self.backbone != "frozen" or self.critic_encoder == "conv"

    @property
    def needs_readouts(self) -> bool:
        """Whether batches carry cached readouts."""
        return self.backbone == "frozen"


def conrft_update() -> UpdateSettings:
    """ConRFT as released (cccedric/conrft with the paper's β and η, arXiv 2502.05450), the policy's backbone frozen.

    Its critic has a pretrained ResNet-10 per camera; a small encoder trained from scratch stands in for it here. β and
    η are the paper's; the released scripts have (1, 0) offline and (0.1, 1) online. α = 0.1 is the code's, the paper
    names 0.01. It goes with batches of 256, a discount of 0.98, and 20,000 offline iterations of two updates.
    """
    return UpdateSettings(
        critic_width=256,
        critic_encoder="conv",
        lr_actor=3e-4,
        lr_critic=3e-4,
        schedule="constant",
        tau=0.005,
        clip_norm=None,
        actor_every=2,
        actor_offline=True,
        weights_offline=(1.0, 0.1),
        weights_start=(0.5, 1.0),
        weights_end=(0.5, 1.0),
        target_clip=None,
        calql_alpha=0.1,
        calql_actions=10,
        sigma_weighted=True,
    )


def twinrl_update() -> UpdateSettings:
    """TwinRL's offline stage as released (zhourui9813/TwinRL): ConRFT with all of Octo trained, at a lower rate.

    It goes with batches of 64, a discount of 0.98, and 50,000 iterations of two updates.
    """
    return replace(
        conrft_update(),
        backbone="full",
        lr_actor=3e-5,
        lr_backbone=3e-5,
        lr_critic=3e-5,
        schedule="cosine",
        lr_warmup=2_000,
        lr_decay=98_000,
        weight_decay=1e-3,
        clip_norm=1.0,
        clip_norm_critic=1.0,
    )
