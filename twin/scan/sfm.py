"""This module finds camera poses, the lens and sparse points from overlapping photos: COLMAP's structure from motion.

photos ─► SIFT ─► matches ─► incremental mapping ─► models ─┬─► largest ─► undistorted pinhole views + points
                                                              └─► others, and photos in none: reported by name

Lengths are in units of their own ("SfM units") and the frame is arbitrary; `scale`, `table` and `place` fix both.
Source: Schönberger & Frahm, "Structure-from-Motion Revisited", CVPR 2016.

The lens is one of COLMAP's, and views are freed of its distortion:

    x_d = x (1 + k1 r² + k2 r⁴) + 2 p1 x y + p2 (r² + 2 x²)        y_d likewise with p1, p2 exchanged

| model         | focal lengths | distortion     | for                                              |
|---------------|---------------|----------------|--------------------------------------------------|
| PINHOLE       | fx, fy        | none           | photos that were undistorted before              |
| SIMPLE_RADIAL | f             | k1             | phones and most cameras (default)                |
| OPENCV        | fx, fy        | k1, k2, p1, p2 | wide lenses; its fit needs 40 or more photos      |

Pixels follow COLMAP: the centre of the first is (0.5, 0.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import cv2  # before pycolmap: loaded after it, OpenCV picks up its libpng and corrupts the heap on writing a PNG
import numpy as np
import pycolmap
from numpy.typing import NDArray

from protos.errors import SceneError
from protos.schema import F32, F64, U8, Bools
from twin.camera import Camera, invert
from twin.scan.frames import Frames
from twin.scan.progress import Progress, ScanStep

CameraModel = Literal["SIMPLE_RADIAL", "OPENCV", "PINHOLE"]

NEWTON_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Lens:
    """A lens has focal lengths and a principal point [px], and distortion coefficients (k1, k2, p1, p2)."""

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    @staticmethod
    def of(model: CameraModel, params: Sequence[float]) -> "Lens":
        """Makes a lens from COLMAP's parameter list of one of its camera models."""
        values = [float(value) for value in params]
        if model == "SIMPLE_RADIAL":
            f, cx, cy, k1 = values
            return Lens(fx=f, fy=f, cx=cx, cy=cy, distortion=(k1, 0.0, 0.0, 0.0))
        fx, fy, cx, cy, *rest = values
        k1, k2, p1, p2 = rest if rest else (0.0, 0.0, 0.0, 0.0)
        return Lens(fx=fx, fy=fy, cx=cx, cy=cy, distortion=(k1, k2, p1, p2))

    def undistort(self, pixels: F64) -> F64:
        """Maps pixels (n, 2) of the photo to pixels of the pinhole view; NaN beyond what the lens can show."""
        photo = np.asarray(pixels, float).reshape(-1, 2)
        view = photo.copy()
        for _ in range(NEWTON_STEPS):
            right, down = ((self.distort(view + d) - self.distort(view - d)) / 1e-2 for d in ([5e-3, 0], [0, 5e-3]))
            slope = np.stack([right, down], 2) + 1e-12 * np.eye(2)
            view = view - np.linalg.solve(slope, (self.distort(view) - photo)[..., None])[..., 0]
        right_one = (np.abs(self.distort(view) - photo) < 1e-3).all(axis=1) & self._rising(view)
        return np.where(right_one[:, None], view, np.nan)

    def distort(self, pixels: F64) -> F64:
        """Maps pixels (n, 2) of the pinhole view to pixels of the photo."""
        x, y = (np.asarray(pixels, float).reshape(-1, 2) - [self.cx, self.cy]).T / [[self.fx], [self.fy]]
        k1, k2, p1, p2 = self.distortion
        square = x * x + y * y
        radial = 1 + k1 * square + k2 * square**2
        u = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        v = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
        return np.stack([self.fx * u + self.cx, self.fy * v + self.cy], 1)

    def maps(self, width: int, height: int) -> tuple[F32, Bools]:
        """Returns the map for `cv2.remap` from view to photo (H, W, 2), and the pixels (H, W) that the photo shows.

        Far outside the photo the polynomial turns back and would show the photo's rim a second time; such pixels
        count as not shown.
        """
        column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        view = np.stack([column.ravel(), row.ravel()], 1)
        photo = self.distort(view)
        shown = ((photo >= 0.5) & (photo <= [width - 0.5, height - 0.5])).all(axis=1) & self._rising(view)
        size = (height, width)
        return (photo - 0.5).reshape(*size, 2).astype(np.float32), shown.reshape(size)

    def _rising(self, view: F64) -> Bools:
        """Tells where the distorted radius grows with the radius: before the first root of 1 + 3 k1 r² + 5 k2 r⁴."""
        k1, k2, _, _ = self.distortion
        inside = 9 * k1**2 - 20 * k2  # of the root in 1 / r²: 1/r⁴ + 3 k1 / r² + 5 k2 = 0
        nearest = (-3 * k1 + np.sqrt(inside)) / 2 if inside >= 0 else 0.0
        square = (((view - [self.cx, self.cy]) / [self.fx, self.fy]) ** 2).sum(axis=1)
        return np.asarray(square * nearest < 1)


@dataclass(frozen=True, kw_only=True)
class SfmSettings:
    """Settings of the reconstruction."""

    camera: CameraModel = "SIMPLE_RADIAL"
    """COLMAP's model of the lens, one for all photos."""
    threads: int = 2
    seed: int = 0
    exhaustive_up_to: int = 60
    """Every pair is matched up to so many photos; beyond, each with the `overlap` photos after it."""
    overlap: int = 12
    retry_below: float = 0.9
    """Share of the photos that must register; below it everything is done once more with more effort."""
    least_share: float = 0.5
    """Share of the photos below which a scan is refused."""
    robust: float = 0.6
    """Scale of the last adjustment's Cauchy loss over the mean reprojection error."""


@dataclass(frozen=True, kw_only=True)
class _Effort:
    """Effort of one attempt; the defaults suit small steps between photos."""

    features: int = 2000
    contrast: float = 0.0067  # SIFT's peak threshold; lower finds fainter features
    guided: bool = False  # match again along the epipolar lines
    inliers: int = 30  # for a photo to register


_THOROUGH = _Effort(features=2500, contrast=0.004, guided=True, inliers=15)
"""Effort for few photos taken far apart; it takes three times the matching time."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A view is a registered photo, undistorted, with the pose of its camera."""

    name: str
    camera: Camera
    image: U8
    valid: Bools
    """(height, width): pixels that the photo shows and no mask covers."""
    seen: NDArray[np.intp]
    """Rows of the reconstruction's points that were matched in this photo."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A reconstruction has views and points in one frame: SfM units at first, metres in the base frame once placed."""

    views: tuple[View, ...]
    photos: int
    """Number of photos that went in."""
    points: F64  # (n, 3)
    colours: U8  # (n, 3)
    reprojection_px: float
    lens: Lens
    """`lens.undistort` takes a pixel of the photo to a pixel of the view."""
    others: tuple[tuple[str, ...], ...] = ()
    """Photos that fit together among themselves but not with the views, one group per model."""
    alone: tuple[str, ...] = ()
    """Photos that fit to no other."""

    def transformed(self, target_from_this: F64, scale: float) -> "Reconstruction":
        """Returns it scaled about the origin, then moved by the rigid transform (4, 4)."""
        return replace(
            self,
            points=self.points * scale @ target_from_this[:3, :3].T + target_from_this[:3, 3],
            views=tuple(replace(v, camera=_moved(v.camera, target_from_this, scale)) for v in self.views),
        )


def reconstruct(frames: Frames, work: Path, settings: SfmSettings, on_progress: Progress) -> Reconstruction:
    """Finds poses, lens and points; `work` takes COLMAP's files. Raises `SceneError` when too few photos register."""
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    models = _attempt(frames, work / "quick", settings, _Effort(), on_progress)
    if _registered(models) < settings.retry_below * len(frames.names):
        again = _attempt(frames, work / "thorough", settings, _THOROUGH, on_progress)
        models = max(models, again, key=_registered)
    registered = _registered(models)
    if registered < max(3, settings.least_share * len(frames.names)):
        raise SceneError(
            f"only {registered} of {len(frames.names)} photos fit together; neighbours must overlap by two thirds "
            "and show texture: move slowly, add photos in between, lay something patterned on a bare table"
        )
    _settle(models[0], settings)
    groups = [tuple(sorted(image.name for image in model.images.values() if image.has_pose)) for model in models]
    seen = {name for group in groups for name in group}
    return replace(
        _read_model(models[0], frames),
        others=tuple(rest for group in groups[1:] if (rest := tuple(n for n in group if n not in groups[0]))),
        alone=tuple(name for name in frames.names if name not in seen),
    )


def _settle(model: pycolmap.Reconstruction, settings: SfmSettings) -> None:
    """Adjusts poses, points and lens once more with a robust loss.

    Errors of matched features have long tails. Squared, they pull the focal length off by so much that cameras a metre
    away stand a millimetre wrong; a Cauchy loss on the scale of the typical error takes half of that back.
    """
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = settings.robust * model.compute_mean_reprojection_error()
    options.ceres.solver_options.function_tolerance = 1e-6
    options.ceres.solver_options.max_num_iterations = 25
    options.ceres.solver_options.num_threads = settings.threads
    pycolmap.bundle_adjustment(model, options)
    model.update_point_3d_errors()


def _registered(models: list[pycolmap.Reconstruction]) -> int:
    return models[0].num_reg_images() if models else 0


def _attempt(
    frames: Frames, work: Path, settings: SfmSettings, effort: _Effort, on_progress: Progress
) -> list[pycolmap.Reconstruction]:
    """Returns all models, the one with the most photos first."""
    work.mkdir(parents=True, exist_ok=True)
    database = work / "database.db"
    database.unlink(missing_ok=True)
    pycolmap.set_random_seed(settings.seed)
    on_progress(ScanStep.FEATURES, 0.0)
    _extract(frames, database, settings, effort)
    on_progress(ScanStep.MATCHING, 0.0)
    _match(database, len(frames.names), settings, effort)
    on_progress(ScanStep.MAPPING, 0.0)
    mapping = pycolmap.IncrementalPipelineOptions()
    mapping.num_threads, mapping.random_seed = settings.threads, settings.seed
    mapping.min_model_size = 3
    mapping.mapper.abs_pose_min_num_inliers = effort.inliers
    models = pycolmap.incremental_mapping(database, frames.folder, work, options=mapping)
    return sorted(models.values(), key=lambda model: -model.num_reg_images())


def _extract(frames: Frames, database: Path, settings: SfmSettings, effort: _Effort) -> None:
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.num_threads, extraction.use_gpu = settings.threads, False
    extraction.sift.max_num_features, extraction.sift.peak_threshold = effort.features, effort.contrast
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = settings.camera
    if frames.masks is not None:
        reader.mask_path = frames.masks
    pycolmap.extract_features(
        database,
        frames.folder,
        image_names=list(frames.names),
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=reader,
        extraction_options=extraction,
        device=pycolmap.Device.cpu,
    )


def _match(database: Path, photos: int, settings: SfmSettings, effort: _Effort) -> None:
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads, matching.use_gpu, matching.guided_matching = settings.threads, False, effort.guided
    if photos <= settings.exhaustive_up_to:
        pycolmap.match_exhaustive(database, matching_options=matching, device=pycolmap.Device.cpu)
        return
    pairing = pycolmap.SequentialPairingOptions()
    pairing.overlap = settings.overlap
    pycolmap.match_sequential(database, matching_options=matching, pairing_options=pairing, device=pycolmap.Device.cpu)


def _read_model(model: pycolmap.Reconstruction, frames: Frames) -> Reconstruction:
    """Takes views, lens and points over from COLMAP and undistorts the photos."""
    fitted = next(iter(model.cameras.values()))
    lens = Lens.of(cast(CameraModel, fitted.model.name), fitted.params)
    maps, shown = lens.maps(frames.width, frames.height)
    registered = sorted((i for i in model.images.values() if i.has_pose), key=lambda i: frames.names.index(i.name))
    row_of = {point: row for row, point in enumerate(model.points3D)}
    views = []
    for photo in registered:
        camera_from_sfm = np.vstack([photo.cam_from_world().matrix(), [0, 0, 0, 1]])
        # The photo's edge is repeated where the undistorted view reaches beyond it.
        image = cv2.remap(frames.read(photo.name), maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        kept = cv2.remap(frames.valid(photo.name).astype(np.float32), maps, None, cv2.INTER_LINEAR)
        camera = Camera(
            base_from_camera=invert(camera_from_sfm),
            width=frames.width,
            height=frames.height,
            fx=lens.fx,
            fy=lens.fy,
            cx=lens.cx,
            cy=lens.cy,
        )
        seen = np.array([row_of[p.point3D_id] for p in photo.points2D if p.has_point3D()], np.intp)
        views.append(View(name=photo.name, camera=camera, image=image, valid=shown & (kept > 0.999), seen=seen))
    points = list(model.points3D.values())
    return Reconstruction(
        views=tuple(views),
        photos=len(frames.names),
        points=np.array([p.xyz for p in points]),
        colours=np.array([p.color for p in points], np.uint8),
        reprojection_px=float(model.compute_mean_reprojection_error()),
        lens=lens,
    )


def _moved(camera: Camera, target_from_this: F64, scale: float) -> Camera:
    pose = camera.base_from_camera.copy()
    pose[:3, 3] *= scale
    return replace(camera, base_from_camera=target_from_this @ pose)
