"""This module removes splats that training leaves behind and a twin does not need, by these reasons:

faint             fainter than `faintest`
large             longer than `largest_m`
near a camera     closer to a camera of the capture than `lens_m`
far from points   farther than `floater_m` from every sparse point, in the air that the cameras looked through
floaters          in front of the sparse surface for most cameras that see past them   (visibility)
outliers          much farther from their neighbours than usual                         (statistics)
outside           outside `box`, if one is given
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from protos.errors import SceneError
from protos.schema import F64, Bools
from twin.scan.sfm import Reconstruction
from twin.splats import Splats


@dataclass(frozen=True, kw_only=True)
class CleanSettings:
    """Limits of the cleaning, in metres in the base frame."""

    faintest: float = 0.02
    """Opacity below which a splat is dropped."""
    largest_m: float = 1.0
    """Longest axis (standard deviation) of a splat."""
    lens_m: float = 0.12
    """Least distance from the cameras of the capture; nothing nearer was really there."""
    floater_m: float = 0.2
    """Largest distance from the nearest sparse point in the air that the cameras looked through."""
    seen_past: float = 0.7
    """Share of the cameras able to tell that see a surface behind a splat and make it a floater; 1 keeps all."""
    clearance: float = 0.15
    """Distance in front of the surface, as a share of the surface's distance, from which a splat counts as in front."""
    outlier: float = 8.0
    """Distance to the neighbours, in medians over all splats, above which a splat over the table goes; 0 keeps all."""
    box: tuple[float, float, float, float, float, float] | None = None
    """Region that is kept: x low, y low, z low, x high, y high, z high [m]; default: everything."""
    most: int = 30_000
    """Largest number of splats; those that cover most are kept."""

    def __post_init__(self) -> None:
        if self.box is not None and not (np.array(self.box[:3]) < self.box[3:]).all():
            raise SceneError(f"clean.box {self.box}: three low limits, then three high ones above them [m]")


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """The splats worth keeping, and the number dropped for each reason (the first that applied)."""

    splats: Splats
    dropped: dict[str, int]


def clean(splats: Splats, scene: Reconstruction, settings: CleanSettings) -> Cleaned:
    """Returns the splats worth keeping, in their order. Raises `SceneError` when nothing is left."""
    eyes = np.stack([view.camera.base_from_camera[:3, 3] for view in scene.views])
    means = np.nan_to_num(splats.means.astype(float))
    near = _near(means, scene.points, eyes)
    distance = cKDTree(scene.points).query(means)[0]
    reasons: dict[str, Bools] = {
        "not finite": np.logical_not(np.isfinite(splats.means).all(axis=1)),
        "faint": splats.opacities < settings.faintest,
        "large": splats.scales.max(axis=1) > settings.largest_m,
        "near a camera": cKDTree(eyes).query(means)[0] < settings.lens_m,
        "far from points": (distance > settings.floater_m) & near,
        "floaters": near & (_seen_past(means, scene, settings) if settings.seen_past < 1 else False),
        "outliers": near & _outliers(means, settings.outlier),
        "outside": _outside(means, settings.box),
    }
    keep, dropped = np.ones(len(splats), bool), {}
    for reason, flags in reasons.items():
        dropped[reason] = int((keep & flags).sum())
        keep &= ~flags
    if not keep.any():
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise SceneError(
            f"no splat survived cleaning ({why}); the photos hardly overlap, the known length is far off, or clean.box "
            "lies elsewhere"
        )
    kept = splats[keep]
    if len(kept) > settings.most:
        cover = kept.opacities * np.sort(kept.scales, axis=1)[:, 1:].prod(axis=1)
        dropped["over budget"] = len(kept) - settings.most
        kept = kept[np.sort(np.argsort(-cover)[: settings.most])]
    return Cleaned(splats=kept, dropped={reason: count for reason, count in dropped.items() if count})


def _near(means: F64, points: F64, eyes: F64) -> Bools:
    """Tells which splats hang over the table, nearer to its middle than the cameras stood."""
    middle = np.median(points, axis=0)
    reach = np.median(np.linalg.norm(eyes - middle, axis=1))
    return (np.linalg.norm(means - middle, axis=1) < reach) & (means[:, 2] > 0)


def _seen_past(means: F64, scene: Reconstruction, settings: CleanSettings) -> Bools:
    """Tells behind which splats most cameras see a sparse point, clearly farther away than the splat is.

    A camera can tell when one of the points matched in it lies within 2 % of the image's width of the splat.
    """
    past, able = np.zeros(len(means)), np.zeros(len(means))
    for view in scene.views:
        camera = view.camera
        known = camera.project(scene.points[view.seen])
        u, v, z = camera.project(means).T
        inside = (z > 0) & (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
        if not inside.any() or not len(known):
            continue
        distance, index = cKDTree(known[:, :2]).query(np.stack([u[inside], v[inside]], 1))
        tells = distance < 0.02 * camera.width
        able[inside] += tells
        past[inside] += tells & (z[inside] < (1 - settings.clearance) * known[index, 2])
    return np.logical_and(able >= 3, past >= settings.seen_past * able)


def _outliers(means: F64, limit: float) -> Bools:
    """Tells whose mean distance to the eight nearest splats exceeds `limit` medians (statistical outlier removal)."""
    if limit <= 0 or len(means) < 9:
        return np.zeros(len(means), bool)
    gaps = cKDTree(means).query(means, 9)[0][:, 1:].mean(axis=1)
    return gaps > limit * np.median(gaps)


def _outside(means: F64, box: tuple[float, ...] | None) -> Bools:
    if box is None:
        return np.zeros(len(means), bool)
    return np.any((means < box[:3]) | (means > box[3:]), axis=1)
