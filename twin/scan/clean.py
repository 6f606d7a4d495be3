"""What training leaves behind and a twin does not need: ghosts, giants, splats in front of the lens, far floaters."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from protos.errors import SceneError
from twin.scan.sfm import Reconstruction
from twin.splats import Splats


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """Limits in metres, in the base frame."""

    faintest: float = 0.02
    """Opacity below which a splat is dropped."""
    largest_m: float = 1.0
    """Longest axis (standard deviation)."""
    lens_m: float = 0.12
    """Nothing that close to a camera of the capture was really there."""
    floater_m: float = 0.2
    """Largest distance from the nearest sparse point in the air that the cameras looked through."""
    most: int = 30_000
    """Budget; the splats that cover most are kept."""


def clean(splats: Splats, scene: Reconstruction, settings: CleanSettings) -> Splats:
    """The splats worth keeping, in their order. Raises `SceneError` when nothing is left."""
    eyes = np.stack([view.camera.base_from_camera[:3, 3] for view in scene.views])
    middle = np.median(scene.points, axis=0)
    reach = np.median(np.linalg.norm(eyes - middle, axis=1))
    near = (np.linalg.norm(splats.means - middle, axis=1) < reach) & (splats.means[:, 2] > 0)
    stray = cKDTree(scene.points).query(splats.means)[0]
    keep = splats.opacities >= settings.faintest
    keep &= splats.scales.max(axis=1) <= settings.largest_m
    keep &= cKDTree(eyes).query(splats.means)[0] >= settings.lens_m
    keep &= (stray <= settings.floater_m) | ~near
    keep &= np.isfinite(splats.means).all(axis=1)
    if not keep.any():
        raise SceneError("no splat survived cleaning; the photos hardly overlap, or the known length is far off")
    kept = splats[keep]
    if len(kept) > settings.most:
        cover = kept.opacities * np.sort(kept.scales, axis=1)[:, 1:].prod(axis=1)
        kept = kept[np.sort(np.argsort(-cover)[: settings.most])]
    return kept
