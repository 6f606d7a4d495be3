"""What goes into an Octo and what comes out, with the masks of the original."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from protos.errors import InputError

Camera = Literal["side", "wrist"]
CAMERAS: tuple[Camera, ...] = ("side", "wrist")


class Tokens(NamedTuple):
    """One group of tokens; (n, k, D) for the task, (n, T, k, D) for what comes anew at every time step."""

    tokens: Tensor
    mask: Tensor
    """Shape of `tokens` without its last axis; false where no token may look at this one."""


@dataclass(frozen=True, kw_only=True)
class Goals:
    """Pictures of the finished task, (n, P, P, 3) in 0..255. A missing one is black."""

    side: Tensor | None = None
    wrist: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class CameraMask:
    """Which pictures are real, (n, T) bool; a missing mask hides nothing."""

    side: Tensor | None = None
    wrist: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class OctoInputs:
    """Observations and task. What is None is left out of the sequence, not masked; one camera must be there."""

    side: Tensor | None = None
    """(n, T, P, P, 3) in 0..255; T may be shorter than the window."""
    wrist: Tensor | None = None
    language: Tensor | None = None
    """(n, language tokens, language_dim)."""
    goals: Goals = Goals()
    timestep_mask: Tensor | None = None
    """(n, T) bool, false where a time step is padding. It hides pictures only."""
    camera_mask: CameraMask = CameraMask()
    language_mask: Tensor | None = None
    """(n,) bool, false where a row has no instruction. The padding inside an instruction is never masked."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and time steps."""
        pictures = self.wrist if self.side is None else self.side
        if pictures is None:
            raise InputError("an observation without pictures: give `side`, `wrist` or both")
        return pictures.shape[0], pictures.shape[1]
