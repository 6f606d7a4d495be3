"""An ensemble of critics, evaluated together by batched matrix products."""

import itertools
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_LIMIT = 5.0


class CriticEnsemble(nn.Module):
    """Q_k(features, action) for k = 1 .. E. MLP with LayerNorm and GELU; features are normalised first."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, action_dim: int, *, members: int = 2, width: int = 192) -> None:
        super().__init__()
        self.members = members
        sizes = (features + action_dim, width, width, 1)
        self.weights = nn.ParameterList(_uniform(members, into, out) for into, out in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(members, 1, out) for out in sizes[1:])
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def fit_normalization(self, features: Tensor) -> None:
        """Sets the feature statistics from rows (n, F); once, before training."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + 1e-3)

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """features (n, F), action (n, A) → Q (E, n)."""
        return self._evaluate(features, action, list(self.weights), list(self.biases))

    def fixed(self, features: Tensor, action: Tensor) -> Tensor:
        """Q (E, n) whose gradient reaches the action and not the critic: for the actor's loss."""
        weights, biases = ([p.detach() for p in group] for group in (self.weights, self.biases))
        return self._evaluate(features, action, weights, biases)

    def _evaluate(self, features: Tensor, action: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        normed = ((features - self.mean) / self.std).clamp(-_LIMIT, _LIMIT)
        x = torch.cat([normed, action], dim=-1).expand(self.members, -1, -1)
        last = len(weights) - 1
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = torch.baddbmm(bias.expand(-1, 1, -1), x, weight)
            if i < last:
                x = functional.gelu(functional.layer_norm(x, x.shape[-1:]))
        return cast("Tensor", x[..., 0])


def _uniform(members: int, into: int, out: int) -> Tensor:
    return (2.0 * torch.rand(members, into, out) - 1.0) / math.sqrt(into)
