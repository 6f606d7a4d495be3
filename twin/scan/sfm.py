"""Camera poses and a sparse point cloud from overlapping pictures: COLMAP's structure from motion.

pictures ─► SIFT ─► matches ─► incremental mapping ─► models ─┬─► largest ─► undistorted pinhole views + points
                                                              └─► others, and pictures in none: reported by name

Lengths are in units of their own ("SfM units") and the frame is arbitrary; `scale`, `table` and `place` fix both.
Source: Schönberger & Frahm, "Structure-from-Motion Revisited", CVPR 2016.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import cv2  # before pycolmap: loaded after it, OpenCV picks up its libpng and corrupts the heap on writing a PNG
import numpy as np
import pycolmap
from numpy.typing import NDArray

from protos.errors import SceneError
from protos.schema import F64
from twin.camera import Camera, invert
from twin.scan.frames import U8, Frames

CameraModel = Literal["SIMPLE_RADIAL", "OPENCV", "PINHOLE"]

NEWTON_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Lens:
    """Focal lengths and principal point [px], and distortion coefficients (k1, k2, p1, p2)."""

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    @staticmethod
    def of(model: CameraModel, params: Sequence[float]) -> "Lens":
        """From COLMAP's parameter list of one of its camera models."""
        values = [float(value) for value in params]
        if model == "SIMPLE_RADIAL":
            f, cx, cy, k1 = values
            return Lens(fx=f, fy=f, cx=cx, cy=cy, distortion=(k1, 0.0, 0.0, 0.0))
        fx, fy, cx, cy, *rest = values
        k1, k2, p1, p2 = rest if rest else (0.0, 0.0, 0.0, 0.0)
        return Lens(fx=fx, fy=fy, cx=cx, cy=cy, distortion=(k1, k2, p1, p2))

    def undistort(self, pixels: F64) -> F64:
        """Pixels (n, 2) of the photo, to pixels of the pinhole view; NaN beyond what the lens can show."""
        photo = np.asarray(pixels, float).reshape(-1, 2)
        view = photo.copy()
        for _ in range(NEWTON_STEPS):
            right, down = ((self.distort(view + d) - self.distort(view - d)) / 1e-2 for d in ([5e-3, 0], [0, 5e-3]))
            slope = np.stack([right, down], 2) + 1e-12 * np.eye(2)
            view = view - np.linalg.solve(slope, (self.distort(view) - photo)[..., None])[..., 0]
        right_one = (np.abs(self.distort(view) - photo) < 1e-3).all(axis=1) & self._rising(view)
        return np.where(right_one[:, None], view, np.nan)

    def distort(self, pixels: F64) -> F64:
        """Pixels (n, 2) of the pinhole view, to pixels of the photo."""
        x, y = (np.asarray(pixels, float).reshape(-1, 2) - [self.cx, self.cy]).T / [[self.fx], [self.fy]]
        k1, k2, p1, p2 = self.distortion
        square = x * x + y * y
        radial = 1 + k1 * square + k2 * square**2
        u = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        v = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
        return np.stack([self.fx * u + self.cx, self.fy * v + self.cy], 1)

    def maps(self, width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """For `cv2.remap`: where in the photo each pixel of the view lies (H, W, 2), and whether the photo shows it.

        Far outside the picture the polynomial turns back and would show the photo's rim a second time; such pixels
        count as not shown.
        """
        column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        view = np.stack([column.ravel(), row.ravel()], 1)
        photo = self.distort(view)
        shown = ((photo >= 0.5) & (photo <= [width - 0.5, height - 0.5])).all(axis=1) & self._rising(view)
        size = (height, width)
        return (photo - 0.5).reshape(*size, 2).astype(np.float32), shown.reshape(size)

    def _rising(self, view: F64) -> NDArray[np.bool_]:
        """Whether the distorted radius still grows with the radius: before the first root of 1 + 3 k1 r² + 5 k2 r⁴."""
        k1, k2, _, _ = self.distortion
        turning = np.roots([5 * k2, 3 * k1, 1] if k2 else [3 * k1, 1] if k1 else [1])
        limits = turning[np.isreal(turning) & (turning.real > 0)].real
        square = (((view - [self.cx, self.cy]) / [self.fx, self.fy]) ** 2).sum(axis=1)
        return square < limits.min(initial=np.inf)


@dataclass(frozen=True, kw_only=True)
class SfmSettings:
    """Effort of the reconstruction."""

    camera: CameraModel = "SIMPLE_RADIAL"
    """COLMAP's model of the lens, one for all pictures."""
    threads: int = 2
    seed: int = 0
    exhaustive_up_to: int = 60
    """Every pair is matched up to so many pictures; beyond, each with the `overlap` pictures after it."""
    overlap: int = 12
    retry_below: float = 0.9
    """When a smaller share of the pictures registers, everything is done once more with more effort."""
    least_share: float = 0.5
    """Share of the pictures that must register."""
    robust: float = 0.6
    """Scale of the last adjustment's Cauchy loss over the mean reprojection error."""


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
    valid: NDArray[np.bool_]
    """(height, width): pixels that the photo shows and no mask covers."""
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
    lens: Lens
    """`lens.undistort` takes a pixel of the photo to a pixel of the view."""
    others: tuple[tuple[str, ...], ...] = ()
    """Pictures that fit together among themselves but not with the views, one group per model."""
    alone: tuple[str, ...] = ()
    """Pictures that fit to no other."""

    def transformed(self, target_from_this: F64, scale: float) -> "Reconstruction":
        """Scaled about the origin, then moved by the rigid transform (4, 4)."""
        return replace(
            self,
            points=self.points * scale @ target_from_this[:3, :3].T + target_from_this[:3, 3],
            views=tuple(replace(v, camera=_moved(v.camera, target_from_this, scale)) for v in self.views),
        )


def reconstruct(
    frames: Frames, work: Path, settings: SfmSettings, on_progress: Callable[[str, float], None]
) -> Reconstruction:
    """Poses and points of `frames`; `work` takes COLMAP's files. Raises `SceneError` when too few pictures register."""
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    models = _attempt(frames, work / "quick", settings, _Effort(), on_progress)
    if _registered(models) < settings.retry_below * len(frames.names):
        again = _attempt(frames, work / "thorough", settings, _THOROUGH, on_progress)
        models = max(models, again, key=_registered)
    registered = _registered(models)
    if registered < max(3, settings.least_share * len(frames.names)):
        raise SceneError(
            f"only {registered} of {len(frames.names)} pictures fit together; neighbours must overlap by two thirds "
            "and show texture: move slowly, add pictures in between, lay something patterned on a bare table"
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
    frames: Frames, work: Path, settings: SfmSettings, effort: _Effort, on_progress: Callable[[str, float], None]
) -> list[pycolmap.Reconstruction]:
    """All models, the one with the most pictures first."""
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
    fitted = next(iter(model.cameras.values()))
    lens = Lens.of(cast(CameraModel, fitted.model.name), fitted.params)
    maps, shown = lens.maps(frames.width, frames.height)
    images = sorted((i for i in model.images.values() if i.has_pose), key=lambda i: frames.names.index(i.name))
    row_of = {point: row for row, point in enumerate(model.points3D)}
    views = []
    for image in images:
        camera_from_sfm = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
        # The picture's edge is repeated where the undistorted view reaches beyond it.
        picture = cv2.remap(frames.read(image.name), maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        kept = cv2.remap(frames.valid(image.name).astype(np.float32), maps, None, cv2.INTER_LINEAR)
        camera = Camera(
            base_from_camera=invert(camera_from_sfm),
            width=frames.width,
            height=frames.height,
            fx=lens.fx,
            fy=lens.fy,
            cx=lens.cx,
            cy=lens.cy,
        )
        seen = np.array([row_of[p.point3D_id] for p in image.points2D if p.has_point3D()], np.intp)
        views.append(View(name=image.name, camera=camera, picture=picture, valid=shown & (kept > 0.999), seen=seen))
    points = list(model.points3D.values())
    return Reconstruction(
        views=tuple(views),
        pictures=len(frames.names),
        points=np.array([p.xyz for p in points]),
        colours=np.array([p.color for p in points], np.uint8),
        reprojection_px=float(model.compute_mean_reprojection_error()),
        lens=lens,
    )


def _moved(camera: Camera, target_from_this: F64, scale: float) -> Camera:
    pose = camera.base_from_camera.copy()
    pose[:3, 3] *= scale
    return replace(camera, base_from_camera=target_from_this @ pose)
