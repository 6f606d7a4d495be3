"""This module holds Octo's own heads, which predict a chunk of actions from one readout (arXiv 2405.12213).

DiffusionHead, as in the released checkpoints: DDPM over the chunk

    step t ─► Fourier features ─► MLP ─┐
    readout ───────────────────────────┼─► Linear ─► residual blocks ─► swish ─► Linear ─► noise ε
    noisy chunk (h · A) ───────────────┘

The transformer runs once; the small network runs `steps` times, from noise at t = steps - 1 down to 0.

ContinuousHead: regression (squared or absolute error) from one pooled token, squashed to ±max_action. The tokens are
pooled by their mean or by attention (MapPooling).
"""

import math
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from policy.octo.transformer import additive
from policy.settings import MAP_HEADS, ContinuousSettings, DiffusionSettings

_NORM_EPS = 1e-6
_FREQUENCY_STD = 0.2
_COSINE_OFFSET = 0.008
_LARGEST_BETA = 0.999


class MapPooling(nn.Module):
    """Pools tokens (n, k, D) to (n, probes, D): o + mlp(norm(o)) of o = attention(probes, tokens).

    The probes are learned (Lee et al., arXiv 1810.00825; the MAP head of Octo).
    """

    def __init__(self, dim: int, *, probes: int = 1) -> None:
        super().__init__()
        self.probe = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, probes, dim)))
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns the pooled tokens; `mask` (n, k) is false for hidden ones. A row without any weighs all alike."""
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
        """Splits (n, k, D) into (n, heads, k, D / heads)."""
        return x.unflatten(2, (MAP_HEADS, -1)).transpose(1, 2)


class ContinuousHead(nn.Module):
    """Maps tokens (n, D), or (n, k, D) to be pooled, to chunks of actions (n, h, A)."""

    def __init__(self, features: int, settings: ContinuousSettings, kind: Literal["mse", "l1"]) -> None:
        super().__init__()
        self.settings, self.kind = settings, kind
        self.pooling = MapPooling(features) if settings.use_map else None
        self.mean = nn.Linear(features, settings.action_horizon * settings.action_dim)

    def forward(self, tokens: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Returns (n, h, A); `token_mask` (n, k) is false for tokens that are hidden from attention pooling."""
        settings, tokens = self.settings, tokens if tokens.dim() > 2 else tokens[:, None]
        pooled = tokens.mean(1) if self.pooling is None else self.pooling(tokens, token_mask)[:, 0]
        squashed = (self.mean(pooled) / settings.max_action).tanh() * settings.max_action
        return squashed.unflatten(1, (settings.action_horizon, settings.action_dim))

    def sample(self, tokens: Tensor, generator: Generator | None = None, *, noise: Tensor | None = None) -> Tensor:
        """Returns (n, h, A), not random; `generator` and `noise` are there because other heads take them."""
        return self(tokens)

    def loss(self, tokens: Tensor, actions: Tensor, mask: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Returns the error: mean over rows and chunk where `mask` (n, h, A) or (n, h) holds, sum over A."""
        error = self(tokens, token_mask) - actions
        error = error.square() if self.kind == "mse" else error.abs()
        return masked_mean(error, mask) * self.settings.action_dim


class ResidualBlock(nn.Module):
    """Computes x + down(swish(up(norm(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.silu(self.up(self.norm(x))))


class DiffusionHead(nn.Module):
    """Maps embeddings (n, D) to chunks of actions (n, h, A) in [-max_action, max_action]."""

    betas: Tensor
    alphas: Tensor
    alpha_hats: Tensor

    def __init__(self, features: int, settings: DiffusionSettings) -> None:
        super().__init__()
        self.settings = settings
        self.chunk = settings.action_horizon * settings.action_dim
        time, hidden = settings.time_dim, settings.hidden
        self.time_frequencies = nn.Parameter(_FREQUENCY_STD * torch.randn(time // 2))
        self.time_mlp = nn.Sequential(nn.Linear(time, 2 * time), nn.SiLU(), nn.Linear(2 * time, time))
        self.enter = nn.Linear(time + features + self.chunk, hidden)
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(settings.blocks))
        self.leave = nn.Linear(hidden, self.chunk)
        betas = cosine_betas(settings.steps).float()
        self.register_buffer("betas", betas, persistent=False)
        self.register_buffer("alphas", 1.0 - betas, persistent=False)  # in float32, as in the original
        self.register_buffer("alpha_hats", (1.0 - betas).cumprod(0), persistent=False)

    def predict(self, embedding: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Returns the noise ε (n, h·A) in `noisy` (n, h·A) at the steps `time` (n, 1) of embeddings (n, D)."""
        angle = (2.0 * math.pi) * time * self.time_frequencies
        level = self.time_mlp(torch.cat([angle.cos(), angle.sin()], dim=-1))
        x = self.enter(torch.cat([level, embedding, noisy], dim=-1))
        for block in self.blocks:
            x = block(x)
        return self.leave(functional.silu(x))

    def sample(
        self,
        embedding: Tensor,
        generator: Generator | None = None,
        *,
        noise: Tensor | None = None,
        step_noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> Tensor:
        """Returns actions (n, h, A) by DDPM.

        `noise` (n, h·A) starts it and `step_noise` (steps, n, h·A) is added on the way, both of N(0, 1), drawn where
        not given. Numbers of the action that `action_mask` (A,) denies are kept at the noise that training showed.
        """
        n, settings = len(embedding), self.settings

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=embedding.device)

        x = draw(n, self.chunk) if noise is None else noise
        allowed = None if action_mask is None else action_mask.repeat(settings.action_horizon)
        for i, step in enumerate(reversed(range(settings.steps))):
            z = draw(n, self.chunk) if step_noise is None else step_noise[i]
            x = self._denoise(embedding, x, z, step)
            if allowed is not None:
                x = torch.where(allowed, x, (1.0 - self.alpha_hats[step]).sqrt() * z)
        return x.unflatten(1, (settings.action_horizon, settings.action_dim))

    def _denoise(self, embedding: Tensor, x: Tensor, z: Tensor, step: int) -> Tensor:
        """Returns x_{t-1} of x_t, clipped."""
        alpha, alpha_hat, beta = self.alphas[step], self.alpha_hats[step], self.betas[step]
        noise = self.predict(embedding, x, x.new_full((len(x), 1), float(step)))
        x = (x - (1.0 - alpha) / (1.0 - alpha_hat).sqrt() * noise) / alpha.sqrt()
        if step > 0:
            x = x + beta.sqrt() * z
        return x.clamp(-self.settings.max_action, self.settings.max_action)

    def loss(self, embedding: Tensor, actions: Tensor, mask: Tensor, *, time: Tensor, noise: Tensor) -> Tensor:
        """Returns the squared error of the predicted noise: mean over rows and chunk where `mask` holds, sum over A.

        embedding (n, D), actions (n, h, A), mask (n, h, A) or (n, h), time (n, 1) integers from 0 to steps - 1, noise
        (n, h·A) of N(0, 1).
        """
        clean = actions.flatten(1).clamp(-self.settings.max_action, self.settings.max_action)
        alpha_hat = self.alpha_hats[time]
        noisy = alpha_hat.sqrt() * clean + (1.0 - alpha_hat).sqrt() * noise
        error = (self.predict(embedding, noisy, time.to(noisy.dtype)) - noise).square()
        return masked_mean(error.view_as(actions), mask) * self.settings.action_dim


def cosine_betas(steps: int) -> Tensor:
    """Returns the betas (steps,) of Nichol and Dhariwal (arXiv 2102.09672), in float64."""
    time = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64)
    kept = torch.cos((time + _COSINE_OFFSET) / (1.0 + _COSINE_OFFSET) * (math.pi / 2)) ** 2
    return (1.0 - kept[1:] / kept[:-1]).clamp(0.0, _LARGEST_BETA)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of `values` (n, h, A) where `mask` (n, h, A) or (n, h) is true; 0 where it is nowhere."""
    if mask.dim() < values.dim():
        mask = mask[..., None]
    counted = mask.expand_as(values).to(values.dtype)
    return (values * counted).mean() / counted.mean().clamp_min(1e-5)
