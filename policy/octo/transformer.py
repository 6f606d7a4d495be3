"""This module holds Octo's block-causal attention and its pre-norm transformer.

A token of kind k at time t attends to the tokens of its own or a lower kind that are not later than t:

    query \\ key        task (t = -1)   obs (t' ≤ t)   readout (t' ≤ t)
    task  (t = -1)         yes              -               -
    obs                    yes             yes              -
    readout                yes             yes             yes

Inside one time step attention is full. Only readouts attend to readouts, so a readout never changes what the images
contribute. Padding masks act on keys only.

The transformer has LayerNorm with eps 1e-6, tanh-approximated GELU and biases everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6


Kind = Literal["task", "obs", "readout"]
_ORDER: dict[Kind, int] = {"task": 0, "obs": 1, "readout": 2}


@dataclass(frozen=True, kw_only=True)
class TokenGroup:
    """Is a run of tokens that share kind and time step; the sequence is a list of groups."""

    kind: Kind
    time: int
    """Time step, -1 for the task prefix."""
    tokens: int


def allowed_keys(groups: Sequence[TokenGroup], *, correct: bool = True) -> Tensor:
    """Returns (L, L) bool, [query, key]: true where the query attends.

    Octo 1.0 (`correct=False`) looks up the group of a token one place too early, so the first token of a group has the
    kind of the group before it in the same time step. With one readout token, the readout counts as an image there:
    the others attend to it. Released 1.0 weights were trained that way.
    """
    counts = torch.tensor([group.tokens for group in groups])
    kind = torch.tensor([_ORDER[group.kind] for group in groups]).repeat_interleave(counts)
    time = torch.tensor([group.time for group in groups]).repeat_interleave(counts)
    if not correct:
        kind[1:] = torch.where(time[1:] == time[:-1], kind[:-1], kind[1:])
    return (kind[None, :] <= kind[:, None]) & (time[None, :] <= time[:, None])


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns 0 where allowed, a huge negative number elsewhere: a row without any key weighs all keys alike.

    The number stays finite when autocast turns the mask to bfloat16 and when a kernel scales it by log2(e).
    """
    lowest = max(torch.finfo(dtype).min, torch.finfo(torch.bfloat16).min) / 2
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, lowest)


class Block(nn.Module):
    """Computes x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU("tanh"), nn.Linear(mlp_dim, dim))

    def forward(self, x: Tensor, mask: Tensor, rows: int) -> Tensor:
        """Returns the last `rows` tokens (n, rows, D) of x (n, L, D) under an additive mask (..., L, L)."""
        normed, last = self.attention_norm(x), slice(x.shape[1] - rows, None)
        attend = self._attend_few if rows * self.heads < x.shape[2] else self._attend
        x = x[:, last] + self.out(attend(normed, mask[..., last, :], rows))
        return x + self.mlp(self.mlp_norm(x))

    def _attend(self, x: Tensor, mask: Tensor, rows: int) -> Tensor:
        """Returns the values (n, rows, D) that the last `rows` tokens of x (n, L, D) find."""
        query, key, value = (self._split(part) for part in self.qkv(x).chunk(3, dim=-1))
        attended = functional.scaled_dot_product_attention(query[:, :, -rows:], key, value, attn_mask=mask)
        return attended.transpose(1, 2).flatten(2)

    def _attend_few(self, x: Tensor, mask: Tensor, rows: int) -> Tensor:
        """Returns the same without keys and values of x: projecting L tokens costs more than projecting a few queries
        back.

        q · (K x + k) is (Kᵀ q) · x and a number that is the same for every token, which softmax does not see; and as
        weights sum to 1, Σ w (V x + v) is V (Σ w x) + v.
        """
        n, _, dim = x.shape
        heads, size = self.heads, dim // self.heads
        query = functional.linear(x[:, -rows:], self.qkv.weight[:dim], self.qkv.bias[:dim])
        key, value = self.qkv.weight[dim:].view(2, heads, size, dim)
        by_head = query.view(n * rows, heads, size).transpose(0, 1) * size**-0.5
        asked = torch.bmm(by_head, key).view(heads, n, rows, dim).transpose(0, 1).reshape(n, heads * rows, dim)
        scores = torch.bmm(asked, x.transpose(1, 2)).view(n, heads, rows, -1) + mask
        found = torch.bmm(scores.softmax(-1).flatten(1, 2), x).view(n, heads, rows, dim)
        found = torch.bmm(found.transpose(0, 1).reshape(heads, n * rows, dim), value.transpose(1, 2))
        return found.transpose(0, 1).reshape(n, rows, dim) + self.qkv.bias[2 * dim :]

    def _split(self, x: Tensor) -> Tensor:
        """Splits (n, L, D) into (n, heads, L, D / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Transformer(nn.Module):
    """Stacks blocks and a final norm."""

    def __init__(self, dim: int, layers: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, x: Tensor, mask: Tensor, rows: int) -> Tensor:
        """Returns the last `rows` tokens of the output; the last layer computes no others, which nothing would use."""
        length = x.shape[1]
        for i, block in enumerate(self.blocks):
            x = block(x, mask, rows if i == len(self.blocks) - 1 else length)
        return self.norm(x)
