"""This module computes the statistics of features that lerobot stores, per episode and over all.

Numbers (T, d) have a value per dimension, scalars (T,) one; images one per colour channel in 0 … 1, in shape (3, 1, 1)
and from a sample of the frames. Over all episodes, means and deviations are exact (parallel variance) and
quantiles are the means of the episodes' quantiles, as in lerobot's `aggregate_stats`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.schema import F64, U8

Stats = dict[str, dict[str, F64]]
"""Values by feature and statistic."""

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)
SAMPLED_IMAGES = 100


def number_stats(values: NDArray[Any]) -> dict[str, F64]:
    """Computes the statistics of (T, d) or (T,); T is at least 1."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=0)
    return {
        "min": rows.min(axis=0),
        "max": rows.max(axis=0),
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)], np.float64),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


def image_stats(images: U8) -> dict[str, F64]:
    """Computes the statistics of (n, H, W, 3) from the histogram of each channel."""
    chosen = images[np.unique(np.linspace(0, len(images) - 1, min(len(images), SAMPLED_IMAGES)).astype(int))]
    levels = np.arange(256) / 255.0
    counts = np.stack([np.bincount(chosen[..., channel].ravel(), minlength=256) for channel in range(3)])
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    occurs, below = counts > 0, share.cumsum(axis=1)
    found = {
        "min": levels[occurs.argmax(axis=1)],
        "max": levels[255 - occurs[:, ::-1].argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(((levels - mean[:, None]) ** 2 * share).sum(axis=1)),
        **{name: levels[(below >= share_below).argmax(axis=1)] for name, share_below in QUANTILES.items()},
    }
    shaped = {name: value[:, None, None] for name, value in found.items()}
    return shaped | {"count": np.array([len(chosen)], np.float64)}


def combine(total: Stats | None, more: Stats) -> Stats:
    """Combines the statistics of two sets of rows."""
    if total is None:
        return more
    return {key: _combine(total[key], more[key]) for key in more}


def as_lists(stats: Stats) -> dict[str, dict[str, Any]]:
    """Returns the statistics as lists, for JSON and parquet."""
    return {key: {name: value.tolist() for name, value in each.items()} for key, each in stats.items()}


def from_lists(stats: Mapping[str, Mapping[str, Any]]) -> Stats:
    return {key: {name: np.array(value, np.float64) for name, value in each.items()} for key, each in stats.items()}


def _combine(a: Mapping[str, F64], b: Mapping[str, F64]) -> dict[str, F64]:
    share = float(b["count"][0] / (a["count"][0] + b["count"][0]))

    def mean(x: F64, y: F64) -> F64:
        return (1 - share) * x + share * y

    middle = mean(a["mean"], b["mean"])
    variance = mean(a["std"] ** 2 + (a["mean"] - middle) ** 2, b["std"] ** 2 + (b["mean"] - middle) ** 2)
    return {
        "min": np.minimum(a["min"], b["min"]),
        "max": np.maximum(a["max"], b["max"]),
        "mean": middle,
        "std": np.sqrt(variance),
        "count": a["count"] + b["count"],
        **{name: mean(a[name], b[name]) for name in QUANTILES},
    }
