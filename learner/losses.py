"""Every loss, as pure functions. Equations as numbered in ConRFT (arXiv 2502.05450) unless another paper is named.

    L_Q   = TD error + α · Cal-QL gap                 Eq. 1 (offline), Eq. 4 (online: α = 0)
    L_π   = β · L_BC + η · L_q                        Eq. 3 (offline), Eq. 5 (online), with different β, η
    L_BC  = E λ(σ) d(f(a + σ z, σ | s), a)            first term of both: consistency behaviour cloning
    L_q   = −E mean_k Q_k(s, f(σ_max z, σ_max | s))   second term; f is the consistency policy, Eq. 2

They are computed as the released code does: d is the squared error (the text has the Euclidean distance), the TD error
has no factor ½, critics count with their mean in L_q and with their minimum in the target.

Nothing here draws random numbers: levels, noise and actions come as arguments, so that a loss is a function of its
batch. Every loss is a plain mean over rows; the mean over a batch is the mean of the means over its equal parts.

Shapes: n rows, A action numbers, E critics, m sampled actions per row.
"""

import math

import torch
from torch import Tensor

from policy.heads import ConsistencyHead


def consistency_bc(
    head: ConsistencyHead,
    features: Tensor,
    action: Tensor,
    *,
    level: Tensor,
    noise: Tensor,
    imitate: Tensor | None = None,
    sigma_weighted: bool = False,
) -> Tensor:
    """L_BC of Eq. 3 and 5: the head maps a noisy action back to the action; squared error, mean over A.

    `level` (n,) counts noise levels from σ_max down and is at most M − 2: at the lowest one the head is the identity
    and nothing can be learned. `noise` (n, A) is standard normal. `imitate` (n,) weighs the rows, with a mean of 1 over
    the whole batch (`row_weights`). `sigma_weighted` adds λ(σ) = σ⁻² + σ_data⁻² of Karras et al. (arXiv 2206.00364), as
    ConRFT's code does; without it every level counts the same.
    """
    sigma = head.sigmas.flip(0)[level]
    error = (head(features, action + sigma[:, None] * noise, sigma).float() - action).square().mean(1)
    if sigma_weighted:
        error = error * karras_weight(sigma, head.settings.sigma_data)
    return error.mean() if imitate is None else (error * imitate).mean()


def karras_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """λ(σ) = σ⁻² + σ_data⁻², which makes the loss of every level equally large at the start (arXiv 2206.00364)."""
    return sigma**-2 + sigma_data**-2


def row_weights(weight: Tensor) -> Tensor:
    """Weights (n,) scaled to a mean of 1, so that a mean of weighted errors is their weighted mean; all 0 stays 0."""
    return weight / weight.mean().clamp_min(1e-9)


def td_target(reward: Tensor, discount: Tensor, next_q: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """y = R + γᵏ min_k Q'_k(s', a'), (n,): the Bellman target in Eq. 1 and 4, over k steps.

    `reward` (n,) is the discounted sum of k rewards; `discount` (n,) is γᵏ, or 0 where the episode ended in success or
    failure on the way. An episode that ran out of time keeps its γᵏ. `next_q` (E, n). `clip` bounds the bootstrap value
    where returns are known to lie in a range.
    """
    value = next_q.amin(0)
    if clip is not None:
        value = value.clamp(*clip)
    return reward + discount * value


def td_error(q: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """E w (Q_k(s, a) − y)² of Eq. 1 and 4, mean over critics and rows.

    q (E, n), target (n,), importance weights w (n,).
    """
    return (weight * (q - target).square()).mean()


def cal_ql_gap(
    q_data: Tensor,
    q_policy: Tensor,
    q_uniform: Tensor,
    mc_return: Tensor,
    *,
    temperature: float = 1.0,
    raise_uniform: bool = True,
) -> Tensor:
    """The regulariser of Eq. 1, Cal-QL (Nakamoto et al., arXiv 2303.05479): push down actions the data does not have.

    q_data (E, n); q_policy (E, m, n) at actions of the policy, for the observation and for the next one, all valued at
    the observation; q_uniform (E, m', n) at uniform actions. Values below the return `mc_return` (n,) that the data got
    are raised to it, so that the push ends there: all sampled ones in ConRFT's code, only the policy's in the Cal-QL
    paper (`raise_uniform` false). The soft maximum over these and the data's action takes the place of the expectation,
    as in both papers' code.
    """
    q_policy = torch.maximum(q_policy, mc_return)
    if raise_uniform:
        q_uniform = torch.maximum(q_uniform, mc_return)
    stacked = torch.cat([q_policy, q_uniform, q_data[:, None]], dim=1)
    soft = temperature * (torch.logsumexp(stacked / temperature, dim=1) - math.log(stacked.shape[1]))
    return (soft - q_data).mean()


def q_loss(q: Tensor) -> Tensor:
    """L_q of Eq. 3 and 5: minus the mean over critics and rows of q (E, n)."""
    return -q.mean()


def actor_loss(bc: Tensor, q: Tensor, *, beta: float, eta: float) -> Tensor:
    """L_π = β L_BC + η L_q, Eq. 3 and 5."""
    return beta * bc + eta * q


def weights_at(progress: float, start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """(β, η) at `progress` in [0, 1] of a stage, linear from start to end."""
    beta, eta = (a + (b - a) * progress for a, b in zip(start, end, strict=True))
    return beta, eta
