"""This module holds the settings of a policy, and the named presets.

tiny    0.4 M parameters, 64-pixel cameras, one language token: trains on a CPU in seconds
small   octo-small-1.5's transformer as ConRFT uses it: 256- and 128-pixel cameras, 16 language tokens, window 2,
        the released consistency head, proprioception of the window encoded
base    the same with octo-base-1.5's transformer
"""

from dataclasses import dataclass, field
from typing import Literal

from policy.octo.settings import OctoSettings
from protos.errors import InputError
from protos.schema import ACTION_DIM, PROPRIO_DIM
from protos.settings import between

PROPRIO_WIDTH = 64
"""Numbers that the "mlp" proprioception encoder gives to the head."""
MAP_HEADS = 8
"""Attention heads of MAP pooling."""


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """Holds the settings of the consistency head, with ConRFT's noise levels (arXiv 2502.05450, after 2303.01469)."""

    network: Literal["gelu", "conrft"] = "gelu"
    """"conrft": tanh and an encoded noise level, as ConRFT released it; "gelu": a lighter one that learns faster."""
    width: int = 256
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0
    levels: int = 40

    def __post_init__(self) -> None:
        between(self, "head", 1, 16_384, "width")
        between(self, "head", 2, 10_000, "levels")
        between(self, "head", 1e-6, 1e6, "sigma_min", "sigma_max", "sigma_data", "rho")
        if not self.sigma_min < self.sigma_max:
            raise InputError(f"head.sigma_min={self.sigma_min}: must lie below sigma_max={self.sigma_max}")


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """Holds the settings of Octo's diffusion head; the defaults are those of the released checkpoints."""

    action_horizon: int = 4
    """Actions of a chunk."""
    action_dim: int = 7
    hidden: int = 256
    blocks: int = 3
    time_dim: int = 32
    """Fourier features of the step, sine and cosine together."""
    steps: int = 20
    max_action: float = 5.0

    def __post_init__(self) -> None:
        between(self, "diffusion", 1, 256, "action_horizon", "action_dim", "blocks")
        between(self, "diffusion", 1, 16_384, "hidden", "time_dim", "steps")
        if self.time_dim % 2:
            raise InputError(f"diffusion.time_dim={self.time_dim}: must be even")


@dataclass(frozen=True, kw_only=True)
class ContinuousSettings:
    """Holds the settings of Octo's regression heads."""

    action_horizon: int = 1
    action_dim: int = 7
    max_action: float = 5.0
    use_map: bool = False
    """Attention pooling of the tokens instead of their mean. A policy hands its head one token."""

    def __post_init__(self) -> None:
        between(self, "continuous", 1, 256, "action_horizon", "action_dim")


@dataclass(frozen=True, kw_only=True)
class ActionUnits:
    """Gives the action on the wire = scale · predicted + offset, number by number."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.offset) or not all(scale >= 0 for scale in self.scale):
            raise InputError(f"action_units.scale={self.scale}: one number from 0 up for each of offset={self.offset}")


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Holds the settings of a whole policy; the defaults are the tiny preset."""

    octo: OctoSettings = field(default_factory=OctoSettings)
    action_head: Literal["consistency", "diffusion", "mse", "l1"] = "consistency"
    """Reinforcement learning needs "consistency"; released Octo checkpoints come with "diffusion"."""
    head: HeadSettings = field(default_factory=HeadSettings)
    """Settings of the consistency head."""
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)
    continuous: ContinuousSettings = field(default_factory=ContinuousSettings)
    """Settings of the heads "mse" and "l1"."""
    active_action_dims: tuple[int, ...] = (0, 1, 2, 6)
    """Numbers of the action that the policy predicts; the others stay 0 on the wire."""
    action_units: ActionUnits | None = None
    """Units of an imported checkpoint's dataset, to be undone; None: the head predicts actions as they travel."""
    proprio_indices: tuple[int, ...] = (0, 1, 2, 6, 7, 8, 18, 19, 20, 21)
    """Numbers of the proprioception that join the readout at the head: TCP position, linear velocity, gripper, motion
    under way."""
    proprio_encoder: Literal["plain", "mlp"] = "plain"
    """"plain": the numbers of the newest observation; "mlp": those of the whole window through Linear, norm, tanh."""
    auxiliary_labels: int = 9
    """Outputs of the auxiliary head that keeps object and target positions in the readout during SFT."""
    language_folder: str = ""
    """A local T5-base folder, or one inside the policy's own; empty uses the deterministic stand-in."""

    def __post_init__(self) -> None:
        between(self, "policy", 0, 16_384, "auxiliary_labels")
        _check_indices("active_action_dims", self.active_action_dims, ACTION_DIM)
        _check_indices("proprio_indices", self.proprio_indices, PROPRIO_DIM, least=0)
        if self.proprio_encoder == "mlp" and not self.proprio_indices:
            raise InputError("proprio_encoder='mlp': proprio_indices is empty, there is nothing to encode")
        if self.action_units is not None and len(self.action_units.scale) != self.action_dim:
            raise InputError(f"action_units.scale={self.action_units.scale}: must hold {self.action_dim} numbers")
        if self.action_head != "consistency":
            self._check_chunks()

    def _check_chunks(self) -> None:
        name = "diffusion" if self.action_head == "diffusion" else "continuous"
        given = self.diffusion.action_dim if self.action_head == "diffusion" else self.continuous.action_dim
        if given != self.action_dim:
            raise InputError(f"{name}.action_dim={given}: must be {self.action_dim}, the number of active_action_dims")
        if name == "continuous" and self.continuous.use_map and self.feature_dim % MAP_HEADS:
            raise InputError(
                f"continuous.use_map: the head's input has {self.feature_dim} numbers, octo.dim and proprioception; "
                f"they must be a multiple of {MAP_HEADS}"
            )

    @property
    def proprio_features(self) -> int:
        """Numbers that proprioception adds to the readout."""
        return PROPRIO_WIDTH if self.proprio_encoder == "mlp" else len(self.proprio_indices)

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector: readout and proprioception."""
        return self.octo.dim + self.proprio_features

    @property
    def action_dim(self) -> int:
        """Numbers that the policy predicts."""
        return len(self.active_action_dims)

    @property
    def action_horizon(self) -> int:
        """Actions that the head predicts at once."""
        if self.action_head == "diffusion":
            return self.diffusion.action_horizon
        return 1 if self.action_head == "consistency" else self.continuous.action_horizon


def _check_indices(name: str, indices: tuple[int, ...], size: int, least: int = 1) -> None:
    if len(indices) < least or len(set(indices)) != len(indices) or not all(0 <= i < size for i in indices):
        raise InputError(f"{name}={indices}: must be different numbers from 0 to {size - 1}")


def _octo(dim: int, heads: int) -> OctoSettings:
    """Returns the layout of the released 1.5 checkpoints."""
    return OctoSettings(
        side_px=256,
        wrist_px=128,
        dim=dim,
        layers=12,
        heads=heads,
        mlp_dim=4 * dim,
        window=2,
        max_horizon=10,
        stem="small_stem",
        goal_images=True,
        language_tokens=16,
        repeat_language=True,
    )


def with_octo(octo: OctoSettings) -> PolicySettings:
    """Returns the settings of "small" and "base" with another transformer."""
    return PolicySettings(
        octo=octo,
        head=HeadSettings(network="conrft"),
        active_action_dims=tuple(range(ACTION_DIM)),
        proprio_indices=tuple(range(PROPRIO_DIM)),
        proprio_encoder="mlp",
    )


_PRESETS = {"tiny": PolicySettings(), "small": with_octo(_octo(384, 6)), "base": with_octo(_octo(768, 12))}


def preset(name: str) -> PolicySettings:
    """Returns the settings called `name`."""
    if name not in _PRESETS:
        raise InputError(f"policy preset {name!r}: choose one of {', '.join(_PRESETS)}")
    return _PRESETS[name]
