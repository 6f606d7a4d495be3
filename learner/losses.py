"""Every loss, as pure functions. Equations as numbered in ConRFT (arXiv 2502.05450) unless another paper is named.

    L_Q   = TD error + α · Cal-QL gap                 Eq. 1 (offline stage), Eq. 4 (online stage: α = 0)
    L_π   = β · L_BC + η · L_q                        Eq. 3 (offline), Eq. 5 (online), with other β, η
    L_BC  = E d(f(a + σ z, σ | s), a)                 consistency behaviour cloning
    L_q   = −E mean_k Q_k(s, f(σ_max z, σ_max | s))

Shapes: n rows, A action numbers, E critics, m sampled actions per row.
"""

import math

import torch
from torch import Generator, Tensor

from policy.heads import ConsistencyHead


def consistency_bc(
    head: ConsistencyHead,
    features: Tensor,
    action: Tensor,
    *,
    imitate: Tensor | None = None,
    sigma_weighted: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """L_BC: the head maps a noisy action at a random level back to the action; squared error, mean over A.

    `imitate` (n,) weighs the rows (0 = never copy this action). `sigma_weighted` adds λ(σ) = σ⁻² + σ_data⁻² of Karras
    et al. (arXiv 2206.00364), as the authors' code does; without it every level counts the same.
    """
    level = torch.randint(0, len(head.sigmas), (len(action),), generator=generator, device=action.device)
    sigma = head.sigmas[level]
    noise = torch.randn(action.shape, generator=generator, device=action.device)
    error = (head(features, action + sigma[:, None] * noise, sigma) - action).square().mean(1)
    if sigma_weighted:
        error = error * (sigma**-2 + head.settings.sigma_data**-2)
    return error.mean() if imitate is None else weighted_mean(error, imitate)


def weighted_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Mean of `error` over rows by weight; nearly 0 when no row has any."""
    weight = weight + 1e-6
    return (error * weight).sum() / weight.sum()


def td_target(reward: Tensor, discount: Tensor, next_q: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """y = R + γᵏ min_k Q'_k(s', a'), (n,): the target of Eq. 1 and 4 over k steps.

    `reward` (n,) is the discounted sum of k rewards, `discount` (n,) is γᵏ or 0 after a terminal step, `next_q` (E, n).
    `clip` bounds the bootstrap value where returns are known to lie in a range.
    """
    value = next_q.amin(0)
    if clip is not None:
        value = value.clamp(*clip)
    return reward + discount * value


def td_error(q: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """E w (Q_k(s, a) − y)², mean over critics and rows; q (E, n), target (n,), importance weights w (n,)."""
    return (weight * (q - target).square()).mean()


def cal_ql_gap(q_data: Tensor, q_policy: Tensor, q_random: Tensor, mc_return: Tensor, temperature: float) -> Tensor:
    """The Cal-QL regulariser (Nakamoto et al., arXiv 2303.05479): push down actions that the data does not have.

    q_data (E, n); q_policy (E, m, n) at the policy's actions, raised to the return `mc_return` (n,) that the data got,
    V^μ of Eq. 1, so that the push ends there; q_random (E, m', n) at uniform actions. The soft maximum over all of them
    takes the place of the expectation, as in the authors' code.
    """
    calibrated = torch.maximum(q_policy, mc_return)
    stacked = torch.cat([calibrated, q_random, q_data[:, None]], dim=1)
    soft = temperature * (torch.logsumexp(stacked / temperature, dim=1) - math.log(stacked.shape[1]))
    return (soft - q_data).mean()


def q_loss(q: Tensor) -> Tensor:
    """L_q: minus the mean over critics and rows of q (E, n)."""
    return -q.mean()


def actor_loss(bc: Tensor, q: Tensor, *, beta: float, eta: float) -> Tensor:
    """L_π = β L_BC + η L_q, Eq. 3 and 5."""
    return beta * bc + eta * q


def weights_at(progress: float, start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """(β, η) at `progress` in [0, 1] of a stage, linear from start to end."""
    beta, eta = (a + (b - a) * progress for a, b in zip(start, end, strict=True))
    return beta, eta


def late_decay(progress: float, *, floor: float = 0.1) -> float:
    """Factor of the actor's learning rate: 1 in the first half, falling linearly to `floor` at the end."""
    return min(1.0, max(floor, 2.0 * (1.0 - progress)))


def warm_cosine(step: int, steps: int, *, warmup: int = 50, floor: float = 0.03) -> float:
    """Factor of the SFT learning rate: linear warm-up, cosine to `floor`."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / steps)))
    return min(1.0, (step + 1) / warmup) * (floor + (1.0 - floor) * cosine)
