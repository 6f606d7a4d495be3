"""Who sees whom: Octo's block-causal attention.

A token of kind k at time t sees the tokens of its own or a lower kind that are not later than t:

    query \\ key        task (t = -1)   obs (t' ≤ t)   readout (t' ≤ t)
    task  (t = -1)         yes              -               -
    obs                    yes             yes              -
    readout                yes             yes             yes

Inside one time step attention is full. Nobody but the readout sees a readout, so a readout never changes what the
pictures say. Pad masks act on keys only.
"""

from collections.abc import Sequence
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


def allowed_keys(groups: Sequence[TokenGroup], *, correct: bool = True) -> Tensor:
    """(L, L) bool, [query, key]: true where the query may look.

    Octo 1.0 (`correct=False`) looks up the group of a token one place too early, so the first token of a group has the
    kind of the group before it in the same time step. With one readout token, the readout counts as a picture there:
    the others see it. Released 1.0 weights were trained that way.
    """
    counts = torch.tensor([group.tokens for group in groups])
    kind = torch.tensor([_ORDER[group.kind] for group in groups]).repeat_interleave(counts)
    time = torch.tensor([group.time for group in groups]).repeat_interleave(counts)
    if not correct:
        kind[1:] = torch.where(time[1:] == time[:-1], kind[:-1], kind[1:])
    return (kind[None, :] <= kind[:, None]) & (time[None, :] <= time[:, None])


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where allowed, a huge negative number elsewhere: a row that sees nothing looks at all keys alike.

    The number stays finite when autocast turns the mask to bfloat16 and when a kernel scales it by log2(e).
    """
    lowest = max(torch.finfo(dtype).min, torch.finfo(torch.bfloat16).min) / 2
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, lowest)
