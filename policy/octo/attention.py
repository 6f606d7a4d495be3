"""Who sees whom: Octo's block-causal attention.

A token of kind k at time t sees the tokens of its own or a lower kind that are not later than t:

    query \\ key        task (t = -1)   obs (t' ≤ t)   readout (t' ≤ t)
    task  (t = -1)         yes              -               -
    obs                    yes             yes              -
    readout                yes             yes             yes

Inside one time step attention is full. Nobody but the readout sees a readout, so a readout never changes what the
pictures say. Pictures of padded time steps are hidden as keys only; repeated language and readouts stay visible.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["task", "obs", "readout"]
_ORDER: dict[Kind, int] = {"task": 0, "obs": 1, "readout": 2}


@dataclass(frozen=True, kw_only=True)
class TokenGroup:
    """A run of tokens that share kind and time step; the sequence is a list of groups."""

    kind: Kind
    time: int
    """Time step, -1 for the task prefix."""
    tokens: int
    picture: bool = False
    """Hidden while its time step is padding."""


def allowed_keys(groups: list[TokenGroup]) -> Tensor:
    """(L, L) bool, [query, key]: true where the query may look."""
    counts = torch.tensor([group.tokens for group in groups])
    kind = torch.tensor([_ORDER[group.kind] for group in groups]).repeat_interleave(counts)
    time = torch.tensor([group.time for group in groups]).repeat_interleave(counts)
    return (kind[None, :] <= kind[:, None]) & (time[None, :] <= time[:, None])


def picture_times(groups: list[TokenGroup]) -> Tensor:
    """(L,) the time step of a picture token, -1 for all others."""
    return torch.cat([torch.full((group.tokens,), group.time if group.picture else -1) for group in groups])


def visible_keys(times: Tensor, timestep_mask: Tensor) -> Tensor:
    """(n, L) bool: false for picture tokens of padded time steps. `timestep_mask` (n, T) is false where padded."""
    always = torch.ones_like(timestep_mask[:, :1])
    return torch.cat([always, timestep_mask], dim=1)[:, times + 1]


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where allowed, the most negative finite number elsewhere: a row that sees nothing stays finite."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)
