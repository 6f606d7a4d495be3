"""Octo's regression heads: a chunk of actions from one pooled token, squashed to ±max_action."""

from typing import Literal

from torch import Generator, Tensor, nn

from policy.heads.chunks import masked_mean
from policy.heads.pooling import MapPooling
from policy.settings import ContinuousSettings


class ContinuousHead(nn.Module):
    """Tokens (n, D), or (n, k, D) to be pooled → chunks of actions (n, h, A)."""

    def __init__(self, features: int, settings: ContinuousSettings, kind: Literal["mse", "l1"]) -> None:
        super().__init__()
        self.settings, self.kind = settings, kind
        self.pooling = MapPooling(features) if settings.use_map else None
        self.mean = nn.Linear(features, settings.action_horizon * settings.action_dim)

    def forward(self, tokens: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """(n, h, A). `token_mask` (n, k) is false for tokens that attention pooling must not look at."""
        settings, tokens = self.settings, tokens if tokens.dim() > 2 else tokens[:, None]
        pooled = tokens.mean(1) if self.pooling is None else self.pooling(tokens, token_mask)[:, 0]
        squashed = (self.mean(pooled) / settings.max_action).tanh() * settings.max_action
        return squashed.unflatten(1, (settings.action_horizon, settings.action_dim))

    def sample(self, tokens: Tensor, generator: Generator | None = None, *, noise: Tensor | None = None) -> Tensor:
        """(n, h, A): nothing is random in it; `generator` and `noise` are there because other heads take them."""
        return self(tokens)

    def loss(self, tokens: Tensor, actions: Tensor, mask: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Squared or absolute error: mean over rows and chunk where `mask` (n, h, A) or (n, h) holds, sum over A."""
        error = self(tokens, token_mask) - actions
        error = error.square() if self.kind == "mse" else error.abs()
        return masked_mean(error, mask) * self.settings.action_dim
