"""This module finds how bright and how warm the side camera sees what the twin draws, and how noisy it is."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from protos.episode import Episode
from protos.schema import F32, F64
from twin.identify.camera import COLOUR, blurred
from twin.identify.views import Views, still
from twin.labs import Calibration
from twin.render.appearance import DISPLAY_GAMMA

BLUR_PX = 1.0
KEPT, KEPT_VARIANCE = 0.95, 0.7592
"""Share of the differences between frames that is noise for sure, and of a normal distribution's variance in it."""


def light(views: Views, calibration: Calibration) -> F64:
    """Returns exposure [stops] and white balance of each episode, (n, 2), over those of the scan."""
    drawn = iter(views.drawn(calibration))
    found = []
    for images in views.images:
        gains = np.mean([_gains(next(drawn).image, image) for image in images], axis=0)
        middle = gains.mean()
        found.append((DISPLAY_GAMMA * np.log2(middle), (gains[0] - gains[2]) / (2 * middle)))
    return np.array(found)


def _gains(drawn: F32, seen: F32) -> F64:
    """Returns how many times as bright the channels (3,) of a seen image are, robustly."""
    drawn, seen = blurred(drawn, BLUR_PX), blurred(seen, BLUR_PX)
    weights, gains = np.ones_like(drawn), np.ones(3)
    for _ in range(5):
        gains = (weights * drawn * seen).sum((0, 1)) / (weights * drawn**2).sum((0, 1))
        weights = 1 / (1 + ((drawn * gains - seen) / COLOUR) ** 2)
    return np.asarray(gains, float)


def noise(episodes: Sequence[Episode]) -> F64:
    """Returns the standard deviation of a pixel, of full scale 1, in each episode with two frames at rest in a row."""
    found = []
    for episode in episodes:
        rows = still(episode)
        pair = next(((a, b) for a, b in pairwise(rows) if b == a + 1), None)
        if pair is not None:
            found.append(_noise(episode.observation.side[list(pair)] / 255.0))
    return np.array(found)


def _noise(frames: F64) -> float:
    apart = np.sort(np.abs(frames[1] - frames[0]).ravel())
    return float(np.sqrt((apart[: int(KEPT * len(apart))] ** 2).mean() / KEPT_VARIANCE / 2))
