"""This module finds base frame and scale of a scan from the robot in it: coarse ICP, then alignment of its masks.

    masks ─► robot points of the scan ─► ICP on the model's surface ─► base_from_scan, coarse
                                                                            │
      photos   splats of the model      against masks of the photos ────────┤ refine
      splats   robot splats of the scan against masks cast from the model ──┘
                                                                            ▼
                                               base_from_scan, residuals in mm and px per view

"splats" is the paper's way (TwinRL, section 3.2: I_URDF cast from the model, I_GS rendered from the robot's Gaussians).
"photos" compares the model with the photos themselves, so the quality of the robot's splats plays no part.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from protos.errors import SceneError
from protos.schema import F32, F64, Bools
from twin.align.icp import IcpSettings, register
from twin.align.refine import Refined, RefineSettings, Similarity, Target, mask_loss, refine
from twin.align.robot import RobotModel
from twin.align.silhouette import Cloud, cloud_of, moved, silhouette
from twin.align.views import on_masks
from twin.camera import Camera
from twin.rotations import vector_from_matrix
from twin.splats import Splats

Views = Mapping[str, tuple[Camera, F32]]
"""Views by photo: camera in the scan's frame and mask (height, width) 0..1, white = robot."""


REACH = 0.06
"""Distance, as a share of the image's width, beyond which parts of an outline have no counterpart in the other."""


@dataclass(frozen=True, kw_only=True)
class AlignSettings:
    """Settings of the search for the robot."""

    method: Literal["photos", "splats"] = "photos"
    """Direction: the model is laid on the photos' masks, or the scan's robot splats on masks of the model."""
    coarse: bool = True
    """Look for the robot anywhere on the table first; else start from the frame that the scene has."""
    least_views: int = 3
    """Least number of masks that show the robot."""
    robot_share: float = 0.8
    """Share of its views in which a point must lie on the mask to count as the robot's."""
    least_overlap: float = 0.6
    """Intersection over union of masks and model, mean over the views, below which the result is refused."""
    uncertain_mm: float = 4.0
    """Play (one standard deviation at the robot) that the masks may leave in their weakest direction."""
    icp: IcpSettings = field(default_factory=IcpSettings)
    refine: RefineSettings = field(default_factory=RefineSettings)


@dataclass(frozen=True, kw_only=True)
class ViewResidual:
    """The residual of one view."""

    px: float
    """Mean distance from each outline to the other one [px]."""
    mm: float
    """Mean distance at the robot's depth [mm]."""
    overlap: float
    """Intersection over union of mask and silhouette."""
    matched: float
    """Share of the outlines that has a counterpart."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The place of the scan in the robot's base frame, and its uncertainty."""

    base_from_scan: Similarity
    method: str
    views: dict[str, ViewResidual]
    residual_px: float
    """Mean over the views: distance of model and mask outlines."""
    residual_mm: float
    before_px: float
    """Mean over the views at the start of the refinement."""
    loss: float
    """L_align, and at the start of the refinement."""
    before_loss: float
    coarse_mm: float | None
    """RMS distance of robot points and model after ICP; None without it."""
    uncertain_mm: float
    """Play that the masks leave in their weakest direction, one standard deviation."""

    @property
    def moved_mm(self) -> float:
        """Returns the motion of the base frame [mm]."""
        return 1e3 * float(np.linalg.norm(self.base_from_scan.pose[:3, 3]))

    @property
    def turned_deg(self) -> float:
        return math.degrees(float(np.linalg.norm(vector_from_matrix(self.base_from_scan.pose[:3, :3]))))


def align(
    views: Views,
    points: F64,
    model: RobotModel,
    joints: ArrayLike,
    settings: AlignSettings,
    *,
    start: Similarity | None = None,
    splats: Splats | None = None,
) -> Alignment:
    """Finds base_from_scan for a robot that stood at `joints` during the capture.

    `points` (n, 3) of the scan, on and off the robot, feed the coarse search; `splats` of the scan are needed for the
    method "splats". Raises `SceneError` in one line when masks, points and model do not fit or do not fix the pose.
    """
    if len(views) < settings.least_views:
        raise SceneError(
            f"{len(views)} masks show the robot, {settings.least_views} are needed; mask it in photos from other sides"
        )
    at, coarse_mm = start or Similarity(pose=np.eye(4)), None
    if settings.coarse:
        found = register(
            robot_points(points, views, settings), model.surface(joints), at, settings.icp, scale=settings.refine.scale
        )
        at, coarse_mm = found.base_from_scan, found.residual_mm
    targets, first = _targets(views, model, joints, at, settings, splats)
    refined = refine(list(targets.values()), first, settings.refine)
    base_from_scan = refined.target_from_source
    if settings.method == "photos":
        base_from_scan = base_from_scan.inverse()
    return _judged(targets, first, refined, base_from_scan, coarse_mm, settings)


def robot_points(points: F64, views: Views, settings: AlignSettings) -> F64:
    """Returns the points of (n, 3) that lie on the masks of most of the views that see them."""
    share, seen = on_masks(points, list(views.values()))
    return points[(share >= settings.robot_share) & (seen >= 2)]


def moved_camera(camera: Camera, base_from_scan: Similarity) -> Camera:
    """Moves a camera of the scan to the base frame."""
    pose = base_from_scan.pose @ camera.base_from_camera
    pose[:3, 3] = base_from_scan.apply(camera.base_from_camera[:3, 3])
    return replace(camera, base_from_camera=pose)


def _targets(
    views: Views, model: RobotModel, joints: ArrayLike, at: Similarity, settings: AlignSettings, splats: Splats | None
) -> tuple[dict[str, Target], Similarity]:
    """Returns the targets of the refinement, and the transform to start from."""
    if settings.method == "photos":
        cloud = cloud_of(model.splats(joints))
        return {n: Target(camera=c, mask=m, cloud=cloud) for n, (c, m) in views.items()}, at.inverse()
    if splats is None:
        raise SceneError('method "splats" needs the splats of a scene; use method "photos"')
    share, seen = on_masks(splats.means.astype(float), list(views.values()))
    cloud = cloud_of(splats[np.flatnonzero((share >= settings.robot_share) & (seen >= 2))])
    cameras = {name: moved_camera(camera, at) for name, (camera, _) in views.items()}
    masks = {name: model.mask(joints, camera).astype(np.float32) for name, camera in cameras.items()}
    return {n: Target(camera=cameras[n], mask=masks[n], cloud=cloud) for n in views if masks[n].any()}, at


def _judged(
    targets: Mapping[str, Target],
    first: Similarity,
    refined: Refined,
    base_from_scan: Similarity,
    coarse_mm: float | None,
    settings: AlignSettings,
) -> Alignment:
    """Measures the residuals of the result. Raises `SceneError` when outlines do not meet or do not hold the pose."""
    unit = base_from_scan.scale if settings.method == "photos" else 1.0  # metres per unit of the target's frame
    views = {name: residual(target, refined.target_from_source, unit) for name, target in targets.items()}
    overlap = float(np.mean([view.overlap for view in views.values()]))
    if not overlap >= settings.least_overlap:
        raise SceneError(
            f"masks and model overlap by {100 * overlap:.0f} % only (limit {100 * settings.least_overlap:.0f} %); "
            "check the robot's name, its joint angles during the capture, and that masks are white where the robot is"
        )
    uncertain_mm = 1e3 * unit * refined.uncertain
    if not uncertain_mm <= settings.uncertain_mm:
        raise SceneError(
            f"the masks leave ±{uncertain_mm:.0f} mm of play (limit {settings.uncertain_mm:g} mm); add views "
            "from other sides in which more of the robot is visible"
        )
    before = [residual(target, first, unit).px for target in targets.values()]
    return Alignment(
        base_from_scan=base_from_scan,
        method=settings.method,
        views=views,
        residual_px=float(np.nanmean([view.px for view in views.values()])),
        residual_mm=float(np.nanmean([view.mm for view in views.values()])),
        before_px=float(np.nanmean(before)),
        loss=refined.loss,
        before_loss=mask_loss(list(targets.values()), first),
        coarse_mm=coarse_mm,
        uncertain_mm=uncertain_mm,
    )


def residual(target: Target, at: Similarity, metres_per_unit: float = 1.0) -> ViewResidual:
    """Measures the distance of the splats' silhouette from the mask in one view; NaN without a common outline."""
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
    """Returns the pixels of a mask beside its border; the image's own border is none."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask, border_value=1))


def _depth(cloud: Cloud, camera: Camera, drawn: Bools) -> F64:
    """Returns the depth of the nearest splat (H, W) [m]; beside the silhouette that of its nearest pixel."""
    u, v, z = camera.project(cloud.means).T
    depth = np.full(drawn.shape, np.inf)
    inside = (z > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    np.minimum.at(depth, (v[inside].astype(int), u[inside].astype(int)), z[inside])
    known = np.isfinite(depth)
    if not known.any():
        return depth
    rows, columns = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(depth[rows, columns])
