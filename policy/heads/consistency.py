"""This module holds the consistency head, one step from noise to an action (ConRFT, arXiv 2502.05450).

    f(x, σ | s) = c_skip(σ) x + c_out(σ) F(c_in(σ) x, σ, s)

with f(x, σ_min | s) = x, the boundary condition (Song et al., arXiv 2303.01469). Sampling is one evaluation at σ_max.

Two networks F. "conrft" is the released one: [c_in x, encoded σ, features] through two Linear-LayerNorm-tanh layers, σ
as 1000/4 · log σ in 16 sinusoids through Linear-tanh-Linear. "gelu" is lighter: σ in 16 sinusoids of low frequency,
GELU in place of tanh.
"""

import math

import torch
from torch import Generator, Tensor, nn

from policy.settings import HeadSettings

_TIME_FREQUENCIES = 8
_TIME_SCALE = 250.0
"""1000 / 4, by which ConRFT multiplies log σ."""
_FLAX_EPS = 1e-6


class ConsistencyHead(nn.Module):
    """Maps features (n, F) and noise to an action (n, A) in [-1, 1]."""

    sigmas: Tensor
    frequencies: Tensor

    def __init__(self, features: int, action_dim: int, settings: HeadSettings) -> None:
        super().__init__()
        self.settings, self.action_dim = settings, action_dim
        released = settings.network == "conrft"
        inputs = features + action_dim + 2 * _TIME_FREQUENCIES
        self.net = (
            _tanh_network(inputs, settings.width, action_dim)
            if released
            else _gelu_network(inputs, settings.width, action_dim)
        )
        if released:
            self.time = nn.Sequential(
                nn.Linear(2 * _TIME_FREQUENCIES, 4 * _TIME_FREQUENCIES),
                nn.Tanh(),
                nn.Linear(4 * _TIME_FREQUENCIES, 2 * _TIME_FREQUENCIES),
            )
            frequencies = torch.exp(torch.linspace(0.0, -math.log(10_000.0), _TIME_FREQUENCIES, device="cpu"))
        else:
            frequencies = torch.exp(torch.linspace(0.0, math.log(100.0), _TIME_FREQUENCIES, device="cpu"))
        # on the CPU by name: where only shapes are wanted, "meta", torch would load its compiler for it
        self.register_buffer("sigmas", noise_levels(settings), persistent=False)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, features: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Returns f(noisy, σ | features), (n, A), not clipped, of noisy (n, A) and sigma (n,)."""
        c_skip, c_out, c_in = self.scalings(sigma[:, None])
        return c_skip * noisy + c_out * self.net(self._inside(features, c_in * noisy, sigma))

    def _inside(self, features: Tensor, scaled: Tensor, sigma: Tensor) -> Tensor:
        """Returns the input of the network, (n, ...)."""
        if self.settings.network == "gelu":
            angle = 0.25 * sigma.log()[:, None] * self.frequencies
            return torch.cat([features, scaled, angle.sin(), angle.cos()], dim=1)
        angle = _TIME_SCALE * sigma.log()[:, None] * self.frequencies
        level = self.time(torch.cat([angle.sin(), angle.cos()], dim=1))
        return torch.cat([scaled, level, features], dim=1)

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns c_skip, c_out, c_in of Karras et al. (arXiv 2206.00364), shifted so that f(x, σ_min) = x."""
        data, above = self.settings.sigma_data, sigma - self.settings.sigma_min
        norm = (sigma**2 + data**2).rsqrt()
        return data**2 / (above**2 + data**2), above * data * norm, norm

    def sample(self, features: Tensor, generator: Generator | None = None, *, noise: Tensor | None = None) -> Tensor:
        """Returns an action per row of features, (n, A) in [-1, 1]; from `noise` (n, A), of N(0, 1), where given."""
        n, sigma_max = len(features), self.settings.sigma_max
        if noise is None:
            noise = torch.randn(n, self.action_dim, generator=generator, device=features.device)
        return self(features, sigma_max * noise, features.new_full((n,), sigma_max)).clamp(-1.0, 1.0)


def noise_levels(settings: HeadSettings) -> Tensor:
    """Returns σ (levels,) from σ_min to σ_max, evenly spaced in σ^(1/ρ)."""
    power = 1.0 / settings.rho
    low, high = settings.sigma_min**power, settings.sigma_max**power
    return torch.linspace(low, high, settings.levels, dtype=torch.float64, device="cpu").pow(settings.rho).float()


def _gelu_network(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.LayerNorm(width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.GELU(),
        nn.Linear(width, outputs),
    )


def _tanh_network(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.LayerNorm(width, eps=_FLAX_EPS),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.LayerNorm(width, eps=_FLAX_EPS),
        nn.Tanh(),
        nn.Linear(width, outputs),
    )
