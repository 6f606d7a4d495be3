"""Attention pooling: learned probes look at the tokens (Lee et al., arXiv 1810.00825; Octo's MAP head)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from policy.octo.attention import additive
from policy.settings import MAP_HEADS

_NORM_EPS = 1e-6


class MapPooling(nn.Module):
    """Tokens (n, k, D) → (n, probes, D): o + mlp(norm(o)) of o = attention(probes, tokens)."""

    def __init__(self, dim: int, *, probes: int = 1) -> None:
        super().__init__()
        self.probe = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, probes, dim)))
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` (n, k) is false for tokens not to be looked at; a row without any looks at all of them alike."""
        query, key, value = (
            self._split(layer(x))
            for layer, x in (
                (self.query, self.probe.expand(len(tokens), -1, -1)),
                (self.key, tokens),
                (self.value, tokens),
            )
        )
        hidden = None if mask is None else additive(mask, tokens.dtype)[:, None, None]
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
        pooled = self.out(attended.transpose(1, 2).flatten(2))
        return pooled + self.mlp(self.norm(pooled))

    def _split(self, x: Tensor) -> Tensor:
        """(n, k, D) → (n, heads, k, D / heads)."""
        return x.unflatten(2, (MAP_HEADS, -1)).transpose(1, 2)
