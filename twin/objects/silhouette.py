"""An object's solid as its masks confirm it: what splats make too large, outlines cut back.

surface points ─► convex hull, filled with points ─┐
masks of the photos ───────────────────────────────┴─► those that lie on nearly every mask ─► solid

Splats of a coarse scan reach beyond what they show by a centimetre or more; an outline in a photo is known to a pixel.
Outlines alone would not do: seen from above, they leave a cone on a flat top, where the splats say better.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from protos.errors import SceneError
from protos.schema import F32, F64
from twin.align.masks import on_masks
from twin.camera import Camera

SPACING_M = 0.002
MOST = 60_000
"""Points that fill a hull; a large one is filled more coarsely."""


def confirmed(surface: F64, views: Sequence[tuple[Camera, F32]], share: float) -> F64:
    """Points (n, 3) in the hull of `surface` (m, 3) that lie on at least this share of the masks of those who see them.

    Raises `SceneError` when the masks and the surface have nothing in common.
    """
    points = np.concatenate([surface, _filling(surface)])
    on, seen = on_masks(points, views)
    kept = points[(on >= share) & (seen >= 2)]
    if len(kept) < 4:
        raise SceneError(
            "the masks and the splats do not agree on where the object is; is each mask named after its photo, and "
            "white on the object?"
        )
    return kept


def _filling(surface: F64) -> F64:
    low, high = surface.min(axis=0), surface.max(axis=0)
    spacing = max(SPACING_M, float(np.prod(high - low) / MOST) ** (1 / 3))
    axes = [np.arange(a, b + spacing, spacing) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    try:
        sides = ConvexHull(surface).equations
    except QhullError as error:
        raise SceneError("the object's splats lie in one plane; choose a larger box or better masks") from error
    return np.asarray(points[(points @ sides[:, :3].T <= -sides[:, 3]).all(axis=1)])
