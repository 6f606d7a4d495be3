"""This module holds size and layout of an Octo."""

from dataclasses import dataclass
from typing import Literal

from protos.errors import InputError
from protos.settings import between

LANGUAGE_DIM = 768
"""Width of a T5-base token."""
STEM_CONVOLUTIONS = 4
"""Each halves the image: 16 pixels a token."""
STEM_GROUPS = 32
"""Groups of the stem's GroupNorm."""


@dataclass(frozen=True, kw_only=True)
class OctoSettings:
    """Holds size and layout; the defaults are the tiny model that trains on a CPU."""

    side_px: int = 64
    wrist_px: int = 64
    dim: int = 96
    layers: int = 2
    heads: int = 4
    mlp_dim: int = 192
    window: int = 1
    """Observations per forward pass."""
    max_horizon: int = 1
    """Positions in time that have embeddings; at least the window."""
    stem: Literal["patch_stem", "small_stem"] = "patch_stem"
    """Octo's SmallStem16, or a lighter one with coordinate channels for 64-pixel images."""
    stem_features: tuple[int, ...] = (32, 96, 192, 384)
    """Channels of the four convolutions of small_stem; multiples of 32, its GroupNorm's groups."""
    stem_out: int = 512
    """Width of an image token of small_stem before it is projected to `dim`."""
    goal_images: bool = False
    """Goal images stacked on the channels, as in the released checkpoints; without a goal they are black."""
    language_tokens: int = 1
    """1 pools the sentence into a single token; Octo uses 16."""
    repeat_language: bool = False
    """The language tokens again at every time step (Octo 1.5)."""
    language_dim: int = LANGUAGE_DIM
    """Width of a language token before it is projected to `dim`."""
    readout_tokens: int = 1
    """Readout tokens per time step; the embedding is their mean."""
    correct_attention: bool = True
    """False reproduces Octo 1.0, whose mask takes the first token of a group for one of the group before it."""

    def __post_init__(self) -> None:
        between(self, "octo", 1, 16_384, "dim", "heads", "mlp_dim", "stem_out", "language_tokens", "language_dim")
        between(self, "octo", 1, 256, "layers", "max_horizon", "readout_tokens")
        between(self, "octo", 16, 1_024, "side_px", "wrist_px")
        if self.dim % self.heads:
            raise InputError(f"octo.dim={self.dim}: must be a multiple of octo.heads={self.heads}")
        if not 1 <= self.window <= self.max_horizon:
            raise InputError(f"octo.window={self.window}: must be 1 to octo.max_horizon={self.max_horizon}")
        for name, px in (("side_px", self.side_px), ("wrist_px", self.wrist_px)):
            if px % 16:
                raise InputError(f"octo.{name}={px}: must be a multiple of 16")
        if self.stem == "small_stem":
            _check_stem(self.stem_features)


def _check_stem(features: tuple[int, ...]) -> None:
    if len(features) != STEM_CONVOLUTIONS or any(not 1 <= width <= 16_384 or width % STEM_GROUPS for width in features):
        raise InputError(
            f"octo.stem_features={features}: must be {STEM_CONVOLUTIONS} numbers, each a multiple of {STEM_GROUPS}"
        )
