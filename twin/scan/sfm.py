"""Camera poses and a sparse point cloud from overlapping pictures: COLMAP's structure from motion.

pictures ─► SIFT ─► matches ─► incremental mapping ─► largest model ─► undistorted pinhole views + points

Lengths are in units of their own ("SfM units") and the frame is arbitrary; `scale`, `table` and `place` fix both.
Source: Schönberger & Frahm, "Structure-from-Motion Revisited", CVPR 2016.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2  # before pycolmap: loaded after it, OpenCV picks up its libpng and corrupts the heap on writing a PNG
import numpy as np
import pycolmap
from numpy.typing import NDArray

from protos.errors import SceneError
from twin.camera import Camera, invert
from twin.rotations import F64
from twin.scan.frames import U8, Frames


@dataclass(frozen=True, kw_only=True)
class SfmSettings:
    """Effort of the reconstruction."""

    threads: int = 2
    seed: int = 0
    exhaustive_up_to: int = 60
    """Every pair is matched up to so many pictures; beyond, each with the `overlap` pictures after it."""
    overlap: int = 12
    retry_below: float = 0.9
    """When a smaller share of the pictures registers, everything is done once more with more effort."""
    least_share: float = 0.5
    """Share of the pictures that must register."""


@dataclass(frozen=True, kw_only=True)
class _Effort:
    """Defaults suit small steps between pictures."""

    features: int = 2000
    contrast: float = 0.0067  # SIFT's peak threshold; lower finds fainter features
    guided: bool = False  # match again along the epipolar lines
    inliers: int = 30  # for a picture to register


_THOROUGH = _Effort(features=2500, contrast=0.004, guided=True, inliers=15)
"""For few photos taken far apart; three times the matching time."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One registered picture, undistorted."""

    name: str
    camera: Camera
    picture: U8
    seen: NDArray[np.intp]
    """Rows of the reconstruction's points that were matched in this picture."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Registered views and points in one frame: SfM units at first, metres in the base frame once placed."""

    views: tuple[View, ...]
    pictures: int
    """How many pictures went in."""
    points: F64  # (n, 3)
    colours: NDArray[np.uint8]  # (n, 3)
    reprojection_px: float
    distortion: float
    """k1 of the radial model; `undistort` takes a pixel of the photo to a pixel of the view."""

    def transformed(self, target_from_this: F64, scale: float) -> "Reconstruction":
        """Scaled about the origin, then moved by the rigid transform (4, 4)."""
        return replace(
            self,
            points=self.points * scale @ target_from_this[:3, :3].T + target_from_this[:3, 3],
            views=tuple(replace(v, camera=_moved(v.camera, target_from_this, scale)) for v in self.views),
        )

    def undistort(self, pixels: F64) -> F64:
        """Pixels (n, 2) of the photo, to pixels of the undistorted view."""
        camera = self.views[0].camera
        flat = np.asarray(pixels, float).reshape(-1, 1, 2)
        coefficients = np.array([self.distortion, 0, 0, 0])
        return cv2.undistortPoints(flat, camera.intrinsics, coefficients, P=camera.intrinsics).reshape(-1, 2)


def reconstruct(
    frames: Frames, work: Path, settings: SfmSettings, on_progress: Callable[[str, float], None]
) -> Reconstruction:
    """Poses and points of `frames`; `work` takes COLMAP's files. Raises `SceneError` when too few pictures register."""
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    best = _attempt(frames, work / "quick", settings, _Effort(), on_progress)
    if best is None or best.num_reg_images() < settings.retry_below * len(frames.names):
        again = _attempt(frames, work / "thorough", settings, _THOROUGH, on_progress)
        best = max((m for m in (best, again) if m is not None), key=lambda m: m.num_reg_images(), default=None)
    registered = best.num_reg_images() if best is not None else 0
    if best is None or registered < max(3, settings.least_share * len(frames.names)):
        raise SceneError(
            f"only {registered} of {len(frames.names)} pictures fit together; neighbours must overlap by two thirds "
            "and show texture: move slowly, add pictures in between, lay something patterned on a bare table"
        )
    return _read_model(best, frames)


def _attempt(
    frames: Frames, work: Path, settings: SfmSettings, effort: _Effort, on_progress: Callable[[str, float], None]
) -> pycolmap.Reconstruction | None:
    """The model with the most pictures, if there is one."""
    work.mkdir(parents=True, exist_ok=True)
    database = work / "database.db"
    database.unlink(missing_ok=True)
    pycolmap.set_random_seed(settings.seed)
    on_progress("features", 0.0)
    _extract(frames, database, settings, effort)
    on_progress("matching", 0.25)
    _match(database, len(frames.names), settings, effort)
    on_progress("mapping", 0.6)
    mapping = pycolmap.IncrementalPipelineOptions()
    mapping.num_threads, mapping.random_seed = settings.threads, settings.seed
    mapping.min_model_size = 3
    mapping.mapper.abs_pose_min_num_inliers = effort.inliers
    models = pycolmap.incremental_mapping(database, frames.folder, work, options=mapping)
    return max(models.values(), key=lambda m: m.num_reg_images(), default=None)


def _extract(frames: Frames, database: Path, settings: SfmSettings, effort: _Effort) -> None:
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.num_threads, extraction.use_gpu = settings.threads, False
    extraction.sift.max_num_features, extraction.sift.peak_threshold = effort.features, effort.contrast
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "SIMPLE_RADIAL"
    pycolmap.extract_features(
        database,
        frames.folder,
        image_names=list(frames.names),
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )


def _match(database: Path, pictures: int, settings: SfmSettings, effort: _Effort) -> None:
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads, matching.use_gpu, matching.guided_matching = settings.threads, False, effort.guided
    if pictures <= settings.exhaustive_up_to:
        pycolmap.match_exhaustive(database, matching_options=matching, device=pycolmap.Device.cpu)
        return
    pairing = pycolmap.SequentialPairingOptions()
    pairing.overlap = settings.overlap
    pycolmap.match_sequential(database, matching_options=matching, pairing_options=pairing, device=pycolmap.Device.cpu)


def _read_model(model: pycolmap.Reconstruction, frames: Frames) -> Reconstruction:
    f, cx, cy, k1 = next(iter(model.cameras.values())).params
    images = sorted((i for i in model.images.values() if i.has_pose), key=lambda i: frames.names.index(i.name))
    row_of = {point: row for row, point in enumerate(model.points3D)}
    # OpenCV counts pixel centres from 0, COLMAP and `Camera` from 0.5.
    matrix = np.array([[f, 0, cx - 0.5], [0, f, cy - 0.5], [0, 0, 1]])
    size = (frames.width, frames.height)
    maps = cv2.initUndistortRectifyMap(matrix, np.array([k1, 0, 0, 0]), None, matrix, size, cv2.CV_32FC1)
    views = []
    for image in images:
        camera_from_sfm = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
        camera = Camera(
            base_from_camera=invert(camera_from_sfm), width=frames.width, height=frames.height, fx=f, fy=f, cx=cx, cy=cy
        )
        # The picture's edge is repeated where the undistorted view reaches beyond it.
        picture = cv2.remap(frames.read(image.name), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        seen = np.array([row_of[p.point3D_id] for p in image.points2D if p.has_point3D()], np.intp)
        views.append(View(name=image.name, camera=camera, picture=picture, seen=seen))
    points = list(model.points3D.values())
    return Reconstruction(
        views=tuple(views),
        pictures=len(frames.names),
        points=np.array([p.xyz for p in points]),
        colours=np.array([p.color for p in points], np.uint8),
        reprojection_px=float(model.compute_mean_reprojection_error()),
        distortion=float(k1),
    )


def _moved(camera: Camera, target_from_this: F64, scale: float) -> Camera:
    pose = camera.base_from_camera.copy()
    pose[:3, 3] *= scale
    return replace(camera, base_from_camera=target_from_this @ pose)
