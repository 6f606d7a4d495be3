"""This module fits a model to recorded episodes by robust least squares, with intervals from a bootstrap over episodes.

    residuals(own, common) ─► Levenberg-Marquardt, soft L1 ─► own numbers of each episode, common ones
                                        └─ episodes drawn with replacement, one Gauss-Newton step each ─► intervals

Residuals are in units in which 1 is an ordinary error; larger ones count less and less. Derivatives are differences
unless they are given. The intervals say how much the episodes differ from each other, and how much is open where
something was known beforehand; they do not say what the model leaves out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protos.schema import F64

SAMPLES = 1000
INTERVAL = (2.5, 97.5)
MOST_ITERATIONS = 25
HARDEST_DAMPING = 1e6
Residuals = Callable[[F64, F64], Sequence[F64]]
"""Own numbers (n, k) and common ones (m,) to the residuals of n episodes, a vector each."""
Jacobians = Callable[[F64, F64], Sequence[F64]]
"""The same to their derivatives, a matrix (residuals, k + m) each."""


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """One number that is sought."""

    start: float
    step: float
    """Difference for the derivative."""
    low: float = -np.inf
    high: float = np.inf
    deviation: float = np.inf
    """Standard deviation of what is known of it beforehand, around its start; infinite where nothing is."""


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A solution has the numbers, and samples of what other episodes would have given."""

    own: F64  # (n, k)
    common: F64  # (m,)
    own_samples: F64  # (SAMPLES, k) mean over the episodes
    common_samples: F64  # (SAMPLES, m)
    rms: float
    """Root mean square of the residuals."""


@dataclass(frozen=True, kw_only=True)
class _Point:
    """A point has its residuals, and their derivatives once they were asked for."""

    own: F64
    common: F64
    residuals: Sequence[F64]
    cost: float


class _Problem:
    def __init__(
        self,
        residuals: Residuals,
        unknown: tuple[Sequence[Unknown], Sequence[Unknown]],
        jacobians: Jacobians | None,
        share: float,
    ) -> None:
        own, common = self._own, self._common = unknown
        self._residuals, self._share = residuals, share
        self._jacobians = self._differences if jacobians is None else jacobians
        self._bounds = [np.array([[each.low, each.high] for each in group]).reshape(-1, 2).T for group in (own, common)]
        self._start = np.array([each.start for each in common])
        self._certain = np.array([each.deviation for each in common]) ** -2.0

    def at(self, own: F64, common: F64) -> _Point:
        own, common = np.clip(own, *self._bounds[0]), np.clip(common, *self._bounds[1])
        found = self._residuals(own, common)
        cost = sum(float((np.sqrt(1 + each**2) - 1).sum()) for each in found)
        return _Point(own=own, common=common, residuals=found, cost=self._share * cost + self._prior(common))

    def _prior(self, common: F64) -> float:
        return 0.5 * float(self._certain @ (common - self._start) ** 2)

    def parts(self, point: _Point) -> tuple[F64, F64]:
        """Returns the normal equations of every episode: matrices (n, k + m, k + m) and gradients (n, k + m)."""
        n, size = len(point.residuals), len(self._own) + len(self._common)
        matrices, gradients = np.empty((n, size, size)), np.empty((n, size))
        for episode, jacobian in enumerate(self._jacobians(point.own, point.common)):
            residuals = point.residuals[episode]
            weighted = self._share * jacobian / np.sqrt(1 + residuals**2)[:, None]
            matrices[episode], gradients[episode] = jacobian.T @ weighted, weighted.T @ residuals
        return matrices, gradients

    def _differences(self, own: F64, common: F64) -> list[F64]:
        here, k = self._residuals(own, common), len(self._own)
        columns = []
        for number, unknown in enumerate([*self._own, *self._common]):
            there = own.copy(), common.copy()
            there[number >= k][..., number - k if number >= k else number] += unknown.step
            moved = self._residuals(*there)
            columns.append([(b - a) / unknown.step for a, b in zip(here, moved, strict=True)])
        return [np.stack(each, 1) for each in zip(*columns, strict=True)]

    def without_own(self, parts: tuple[F64, F64], damping: float) -> tuple[F64, F64]:
        """Returns the equations of the common numbers alone, episode by episode: the others follow them."""
        k = len(self._own)
        matrices, gradients = _damped(parts[0], damping), parts[1]
        if k == 0:
            return matrices, gradients
        gain = np.linalg.solve(matrices[:, :k, :k], matrices[:, :k, k:])
        left = matrices[:, k:, k:] - np.swapaxes(gain, 1, 2) @ matrices[:, :k, k:]
        return left, gradients[:, k:] - np.einsum("nkm,nk->nm", gain, gradients[:, :k])

    def step(self, point: _Point, parts: tuple[F64, F64], damping: float) -> tuple[F64, F64]:
        """Returns the change of the own and of the common numbers."""
        k = len(self._own)
        matrices, gradients = self.without_own(parts, damping)
        matrix = matrices.sum(0) + np.diag(self._certain * (1 + damping))
        gradient = gradients.sum(0) + self._certain * (point.common - self._start)
        common = _bounded(matrix, gradient, self._bounds[1] - point.common)
        left = parts[1][:, :k] + parts[0][:, :k, k:] @ common
        if k == 0:
            return point.own, common
        own = np.linalg.solve(_damped(parts[0], damping)[:, :k, :k], left[..., None])[..., 0]
        return np.negative(own, dtype=float), common

    def samples(self, point: _Point, parts: tuple[F64, F64]) -> tuple[F64, F64]:
        """Returns the mean own and the common numbers that episodes drawn with replacement would give."""
        k, n = len(self._own), len(point.residuals)
        matrices, gradients = self.without_own(parts, 0.0)
        rng = np.random.default_rng(0)
        times = rng.multinomial(n, np.full(n, 1 / n), SAMPLES)  # how often each was drawn
        whole = np.einsum("sn,nij->sij", times, matrices) + np.diag(self._certain)
        left = times @ gradients + self._certain * (point.common - self._start)
        change = -np.linalg.solve(whole, left[..., None])[..., 0]
        if self._certain.any():
            open_ = np.linalg.inv(matrices.sum(0) + np.diag(self._certain))
            change = change + rng.multivariate_normal(np.zeros(len(open_)), open_, SAMPLES)
        common: F64 = np.clip(point.common + change, *self._bounds[1])
        if k == 0:
            return np.empty((SAMPLES, 0)), common
        follow = -np.linalg.solve(parts[0][:, :k, :k], parts[0][:, :k, k:])  # (n, k, m)
        own = times @ point.own / n + np.einsum("sn,nkm,sm->sk", times, follow, change) / n
        return np.asarray(np.clip(own, *self._bounds[0]), float), common


def solve(
    residuals: Residuals,
    own: F64,
    unknown: tuple[Sequence[Unknown], Sequence[Unknown]],
    *,
    at: F64 | None = None,
    jacobians: Jacobians | None = None,
    share: float = 1.0,
    done: float = 1e-4,
) -> Solution:
    """Fits `unknown`, the own numbers and the common ones, from the episodes' own starts (n, k).

    The common ones begin `at` (m,), by default where they are likeliest. `share` is the weight of a residual beside
    what is known beforehand: less than 1 where residuals err together. An iteration that lowers the cost by
    less than a share `done` of it is the last.
    """
    problem = _Problem(residuals, unknown, jacobians, share)
    begin = np.array([each.start for each in unknown[1]]) if at is None else at
    point, damping = problem.at(own, begin), 1e-3
    parts = problem.parts(point)
    for _ in range(MOST_ITERATIONS):
        change = problem.step(point, parts, damping)
        tried = problem.at(point.own + change[0], point.common + change[1])
        if tried.cost >= point.cost:
            damping *= 10
            if damping > HARDEST_DAMPING:
                break
            continue
        is_done = point.cost - tried.cost < done * point.cost
        point, damping = tried, damping / 5
        parts = problem.parts(point)
        if is_done:
            break
    own_samples, common_samples = problem.samples(point, parts)
    squares = np.concatenate([each**2 for each in point.residuals])
    return Solution(
        own=point.own,
        common=point.common,
        own_samples=own_samples,
        common_samples=common_samples,
        rms=float(np.sqrt(squares.mean())),
    )


def interval(samples: F64) -> tuple[float, float]:
    """Returns the ends of the middle 95 % of samples."""
    low, high = np.percentile(samples, INTERVAL)
    return float(low), float(high)


def _bounded(matrix: F64, gradient: F64, bounds: F64) -> F64:
    """Returns the step (m,) to the minimum within bounds (2, m): what would leave them stops there."""
    step, free = np.zeros(len(gradient)), np.ones(len(gradient), bool)
    while free.any():
        left = gradient[free] + matrix[np.ix_(free, ~free)] @ step[~free]
        step[free] = -np.linalg.solve(matrix[np.ix_(free, free)], left)
        outside = free & ((step < bounds[0]) | (step > bounds[1]))
        if not outside.any():
            break
        step[outside] = np.clip(step, *bounds)[outside]
        free &= ~outside
    return step


def _damped(matrices: F64, damping: float) -> F64:
    """Returns matrices (n, p, p) with larger diagonals, never all zero."""
    diagonal = np.einsum("nii->ni", matrices)
    eye: NDArray[np.float64] = np.eye(matrices.shape[-1])
    return matrices + eye * (damping * diagonal + 1e-9)[:, None, :]
