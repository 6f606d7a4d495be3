"""Do two worlds find the same starts hard? Rank correlation of success per grid cell.

A twin is of use for choosing where to practise when it orders the cells as the other world does (TwinRL, appendix D4),
whatever the rates themselves are. Rates are counted from few rollouts, so even two samples of one world would not agree
fully: `ceiling` is what they would reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from protos.schema import F64

Counts = Mapping[int, tuple[int, int]]
"""Cell -> successes, rollouts."""
SAMPLES = 1000
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class RankAgreement:
    """How well the order of the cells agrees. A correlation is None when all cells of a world have one rate."""

    cells: int
    """Tried in both worlds."""
    rollouts: tuple[int, int]
    spearman: float | None
    """Of the ranks, ties sharing their mean rank."""
    spearman_interval: tuple[float, float] | None
    """95 %, bootstrap over cells and over the rollouts in each."""
    kendall: float | None
    """tau-b, which takes ties into account."""
    kendall_interval: tuple[float, float] | None
    ceiling: float | None
    """Median Spearman of two worlds whose cells have the pooled rates, from as many rollouts."""
    difference: float
    """Mean success of the second world minus that of the first, over these cells."""


def rank_agreement(first: Counts, second: Counts, *, seed: int = 0) -> RankAgreement:
    """Compares the cells that were tried in both worlds."""
    from scipy.stats import kendalltau, spearmanr

    cells = sorted(cell for cell in first if cell in second and first[cell][1] and second[cell][1])
    counts = np.array([[first[cell], second[cell]] for cell in cells], float).reshape(-1, 2, 2)  # cells, worlds, (k, n)
    successes, rollouts = counts[..., 0], counts[..., 1]
    rates = successes / np.maximum(rollouts, 1)
    varied = len(cells) > 1 and bool((np.ptp(rates, axis=0) > 0).all())
    rng = np.random.default_rng(seed)
    samples = _resampled(rates, rollouts, rng) if varied else np.empty((0, len(cells), 2))
    pooled = np.repeat(successes.sum(1, keepdims=True) / np.maximum(rollouts.sum(1, keepdims=True), 1), 2, axis=1)
    return RankAgreement(
        cells=len(cells),
        rollouts=(int(rollouts[:, 0].sum()), int(rollouts[:, 1].sum())),
        spearman=float(spearmanr(rates[:, 0], rates[:, 1]).statistic) if varied else None,
        spearman_interval=_interval(_spearman(samples)),
        kendall=float(kendalltau(rates[:, 0], rates[:, 1]).statistic) if varied else None,
        kendall_interval=_interval(_kendall(samples)),
        ceiling=_ceiling(pooled, rollouts, rng),
        difference=float((rates[:, 1] - rates[:, 0]).mean()) if cells else 0.0,
    )


def _resampled(rates: F64, rollouts: F64, rng: np.random.Generator) -> F64:
    """Rates (samples, cells, worlds) of cells drawn with replacement, and of rollouts drawn anew in each."""
    drawn = rng.integers(0, len(rates), (SAMPLES, len(rates)))
    return rng.binomial(rollouts[drawn].astype(int), rates[drawn]) / rollouts[drawn]


def _ceiling(pooled: F64, rollouts: F64, rng: np.random.Generator) -> float | None:
    if len(pooled) < 2 or np.ptp(pooled) == 0:
        return None
    drawn = rng.binomial(rollouts.astype(int), pooled, (SAMPLES, *pooled.shape)) / rollouts
    found = _spearman(drawn)
    return float(np.median(found)) if len(found) else None


def _spearman(rates: F64) -> F64:
    """Correlation of the ranks of each sample (samples, cells, worlds); samples without variation are left out."""
    from scipy.stats import rankdata

    if not len(rates):
        return np.empty(0)
    ranks = rankdata(rates, axis=1)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    return _correlation(centred[..., 0], centred[..., 1])


def _kendall(rates: F64) -> F64:
    """tau-b of each sample: concordant minus discordant pairs, over the pairs that are not tied."""
    if not len(rates):
        return np.empty(0)
    signs = np.sign(rates[:, :, None] - rates[:, None, :]).reshape(len(rates), -1, 2)  # every pair, twice
    return _correlation(signs[..., 0], signs[..., 1])


def _correlation(a: F64, b: F64) -> F64:
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return (a * b).sum(1)[size > 0] / size[size > 0]


def _interval(values: F64) -> tuple[float, float] | None:
    if len(values) < SAMPLES / 2:
        return None
    low, high = np.percentile(values, INTERVAL)
    return float(low), float(high)
