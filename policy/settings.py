"""What a policy is made of."""

from dataclasses import dataclass, field

from policy.octo.settings import OctoSettings
from protos.errors import InputError
from protos.schema import ACTION_DIM, PROPRIO_DIM


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The consistency head; noise levels as in ConRFT (arXiv 2502.05450) and Song et al. (arXiv 2303.01469)."""

    width: int = 256
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0
    levels: int = 40

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise InputError(f"head.sigma_min={self.sigma_min}: must lie between 0 and sigma_max={self.sigma_max}")


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """A whole policy; the defaults are the tiny preset."""

    octo: OctoSettings = field(default_factory=OctoSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    active_action_dims: tuple[int, ...] = (0, 1, 2, 6)
    """Numbers of the action that the policy predicts; the others stay 0 on the wire."""
    proprio_indices: tuple[int, ...] = (0, 1, 2, 6, 7, 8, 18)
    """Numbers of the proprioception that join the readout at the head: TCP position, linear velocity, gripper."""
    auxiliary_labels: int = 9
    """Outputs of the auxiliary head that keeps object and target positions in the readout during SFT."""
    language_folder: str = ""
    """A local T5-base folder; empty uses the deterministic stand-in."""

    def __post_init__(self) -> None:
        _check_indices("active_action_dims", self.active_action_dims, ACTION_DIM)
        _check_indices("proprio_indices", self.proprio_indices, PROPRIO_DIM)

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector: readout and chosen proprioception."""
        return self.octo.dim + len(self.proprio_indices)

    @property
    def action_dim(self) -> int:
        """Numbers that the policy predicts."""
        return len(self.active_action_dims)


def _check_indices(name: str, indices: tuple[int, ...], size: int) -> None:
    if not indices or len(set(indices)) != len(indices) or not all(0 <= i < size for i in indices):
        raise InputError(f"{name}={indices}: must be different numbers from 0 to {size - 1}")
