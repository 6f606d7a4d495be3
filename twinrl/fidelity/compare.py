"""This module compares two worlds by the success of one policy, by the motion of the tool and by images.

    success per cell ─► rank_agreement  do both worlds find the same initial configurations hard?
    same actions ─────► step_response   distance at the same time [mm], delay [ms], gain
    same situations ──► image_distance  PSNR and SSIM per camera

A twin is of use for choosing where to practise when it orders the cells as the other world does (TwinRL, appendix D4),
whatever the rates themselves are. Rates are counted from few rollouts, so even two samples of one world would not agree
fully: `ceiling` is what they would reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from protos.errors import InputError
from protos.schema import CONTROL_HZ, F64, U8

Counts = Mapping[int, tuple[int, int]]
"""Cell -> successes, rollouts."""
AXES = ("x", "y", "z")
LONGEST_DELAY_STEPS = 10
STILL_M = 0.005
"""An axis that moves less than this in a sequence says nothing of delay and gain."""
SAMPLES = 1000
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class RankAgreement:
    """A measure of how well the order of the cells agrees. A correlation is None when all cells of a world have one
    rate.
    """

    cells: int
    """Tried in both worlds."""
    rollouts: tuple[int, int]
    spearman: float | None
    """Correlation of the ranks, ties sharing their mean rank."""
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


@dataclass(frozen=True, kw_only=True)
class AxisResponse:
    """One axis of the base frame, over all sequences."""

    rms_mm: float
    delay_ms: float | None
    """Time by which the second world is later; negative when it is earlier, None when the axis was not moved."""
    gain: float | None
    """Travel of the second world over that of the first."""


@dataclass(frozen=True, kw_only=True)
class StepResponse:
    """The response of the second world to the actions of the first, over all sequences."""

    sequences: int
    rms_mm: float
    """Root mean square of the distance between the two tool centre points at the same time."""
    axes: dict[str, AxisResponse]


def step_response(first: Sequence[F64], second: Sequence[F64]) -> StepResponse:
    """Compares TCP paths (T, 3) [m] of the same actions, one sample per control step; T may differ by sequence."""
    if not len(first) or [len(path) for path in first] != [len(path) for path in second]:
        raise InputError(f"{len(first)} and {len(second)} paths: as many, as long, and at least one, needed")
    apart = np.concatenate([a - b for a, b in zip(first, second, strict=True)])
    axes = {}
    for axis, name in enumerate(AXES):
        pairs = [(a[:, axis], b[:, axis]) for a, b in zip(first, second, strict=True)]
        moved = [(a, b) for a, b in pairs if min(np.ptp(a), np.ptp(b)) > STILL_M]
        axes[name] = AxisResponse(
            rms_mm=_rms_mm(apart[:, axis : axis + 1]),
            delay_ms=float(np.mean([delay_ms(a, b) for a, b in moved])) if moved else None,
            gain=float(np.mean([np.ptp(b) / np.ptp(a) for a, b in moved])) if moved else None,
        )
    return StepResponse(sequences=len(first), rms_mm=_rms_mm(apart), axes=axes)


def delay_ms(first: F64, second: F64, hz: float = CONTROL_HZ) -> float:
    """Returns by how much a coordinate (T,) of the second world is later than that of the first [ms].

    It is the peak of the cross-correlation of their velocities, between samples by the parabola through its three
    highest points.
    """
    a, b = np.diff(first), np.diff(second)
    lags = np.arange(-LONGEST_DELAY_STEPS, LONGEST_DELAY_STEPS + 1)
    padded = np.pad(b, LONGEST_DELAY_STEPS)
    match = np.array([a @ padded[LONGEST_DELAY_STEPS + lag :][: len(a)] for lag in lags])
    peak = int(np.argmax(match))
    if not 0 < peak < len(lags) - 1:
        return float(lags[peak] * 1000 / hz)
    before, top, after = match[peak - 1 : peak + 2]
    bend = before - 2 * top + after
    between = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float((lags[peak] + between) * 1000 / hz)


def _rms_mm(apart: F64) -> float:
    return float(1000 * np.sqrt((apart**2).sum(axis=1).mean()))


@dataclass(frozen=True, kw_only=True)
class ImageDistance:
    """The distance between the images of one camera in two worlds."""

    frames: int
    psnr_db: float
    """Peak signal-to-noise ratio of the mean squared error over all images; infinite when they are equal."""
    worst_psnr_db: float
    """Peak signal-to-noise ratio of the image that differs most."""
    ssim: float
    """Mean over the images (Wang et al. 2004, 7 x 7 window, mean over the colours); 1 when they are the same."""


def image_distance(first: U8, second: U8) -> ImageDistance:
    """Compares images (n, P, P, 3) one by one."""
    from skimage.metrics import structural_similarity

    if first.shape != second.shape or not len(first):
        raise InputError(f"images of shapes {first.shape} and {second.shape}: one shape, and at least one of each")
    errors = ((first.astype(float) - second.astype(float)) ** 2).mean(axis=(1, 2, 3))
    alike = [structural_similarity(a, b, channel_axis=-1) for a, b in zip(first, second, strict=True)]
    return ImageDistance(
        frames=len(first),
        psnr_db=psnr_db(float(errors.mean())),
        worst_psnr_db=psnr_db(float(errors.max())),
        ssim=float(np.mean(alike)),
    )


def psnr_db(squared_error: float) -> float:
    """Peak signal-to-noise ratio of 8-bit images with this mean squared error."""
    return float("inf") if squared_error == 0 else float(10 * np.log10(255.0**2 / squared_error))


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """The measured fidelity; None where there was nothing to measure it from."""

    first: str
    """Name of the twin."""
    second: str
    """Name of the world that it is measured against."""
    policy: str = ""
    """Policy whose success was compared."""
    success: RankAgreement | None = None
    images: dict[str, ImageDistance] | None = None
    """Distance of images by camera."""
    response: StepResponse | None = None
    latency_steps: tuple[float, ...] = ()
    """Latency of the twin, drawn per episode; empty when it is not known."""
