"""How far outlines are apart: in pixels, and in millimetres at the depth of the robot."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from protos.schema import F64, Bools
from twin.align.refine import Similarity, Target
from twin.align.silhouette import Cloud, moved, silhouette
from twin.camera import Camera

REACH = 0.06
"""Of the picture's width: parts of an outline farther than this from the other one have no counterpart there."""


@dataclass(frozen=True, kw_only=True)
class ViewResidual:
    """One view."""

    px: float
    """Mean distance from each outline to the other one."""
    mm: float
    """The same at the robot's depth."""
    overlap: float
    """Intersection over union of mask and silhouette."""
    matched: float
    """Share of the outlines that has a counterpart."""


def residual(target: Target, at: Similarity, metres_per_unit: float = 1.0) -> ViewResidual:
    """Distance of the splats' silhouette from the mask in one view; NaN where they have no common outline."""
    cloud = moved(target.cloud, at.pose, at.scale)
    drawn, mask = silhouette(cloud, target.camera) > 0.5, target.mask > 0.5
    ours, theirs = outline(drawn), outline(mask)
    depth = _depth(cloud, target.camera, drawn)
    distances, spans, total = [], [], 0
    for here, there in ((ours, theirs), (theirs, ours)):
        distance = ndimage.distance_transform_edt(~there)[here] if there.any() else np.full(here.sum(), np.inf)
        near = distance < REACH * target.camera.width
        distances.append(distance[near])
        spans.append(distance[near] * depth[here][near] / target.camera.fx)
        total += len(distance)
    px = np.concatenate(distances)
    union = np.count_nonzero(drawn | mask)
    return ViewResidual(
        px=float(px.mean()) if len(px) else float("nan"),
        mm=float(np.concatenate(spans).mean() * metres_per_unit * 1e3) if len(px) else float("nan"),
        overlap=np.count_nonzero(drawn & mask) / union if union else 0.0,
        matched=len(px) / total if total else 0.0,
    )


def outline(mask: Bools) -> Bools:
    """Pixels of a mask beside its border; the picture's own border is none."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask, border_value=1))


def _depth(cloud: Cloud, camera: Camera, drawn: Bools) -> F64:
    """Depth of the nearest splat (H, W) [m]; beside the silhouette that of its nearest pixel."""
    u, v, z = camera.project(cloud.means).T
    depth = np.full(drawn.shape, np.inf)
    inside = (z > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    np.minimum.at(depth, (v[inside].astype(int), u[inside].astype(int)), z[inside])
    known = np.isfinite(depth)
    if not known.any():
        return depth
    rows, columns = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(depth[rows, columns])
