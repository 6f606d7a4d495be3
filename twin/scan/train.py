"""This module trains splats by gradient descent on the difference between rendered and photographed views.

sparse points ─► start ─► splats ───────────────────┐
views (small) ──────────────────────────────────────┴─► render two views ─► L1 + MSE ─► Adam ─► … ─► Splats, PSNR

Everything is in the base frame, in metres. Every `hold_out`-th view is kept out of training and measures the result.

The splats that training starts from:

sparse points ──► more between neighbours ──────────────────────────────┐
views ─► cells of the image that no point falls into ─► a splat in the  ├─► means, quaternions, scales, …
         image's colour, at the depth of matched points close by ───────┘
         or, with none close by, on the table plane or a dome far behind

Structure from motion finds points where there is texture. Without the second row a plain wall would start empty and
training would cover it with blobs that hang in front of the camera.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from protos.schema import F64, U8, Bools
from twin.camera import Camera
from twin.scan.density import Density, DensitySettings
from twin.scan.progress import Progress, ScanStep
from twin.scan.rasterize import Drawn, render
from twin.scan.sfm import Reconstruction, View
from twin.splats import Splats


@dataclass(frozen=True, kw_only=True)
class SeedSettings:
    """Number and places of the splats that training starts from."""

    splats: int = 15_000
    cell: float = 1 / 40
    """Size of the cells that must not stay empty, as a share of the image's width."""
    close: float = 4.0
    """Matched points lend their depth to cells up to so many cells away."""
    dome: float = 4.0
    """Radius of the dome over the table, in median distances from a camera to the points."""
    spread: float = 0.6
    """Standard deviation of a splat over its distance to the neighbours."""
    opacity: float = 0.8
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of the training; the defaults reach what a 64 to 256 px policy camera needs in about ten seconds."""

    steps: int = 160
    batch: int = 2
    """Views per step, rendered side by side in threads."""
    width: int = 240
    """Training resolution [px]; the height follows the photos' shape."""
    coarse: float = 0.3
    """Share of the steps that are done first, at half the resolution and a quarter of the cost."""
    seeds: SeedSettings = field(default_factory=SeedSettings)
    density: DensitySettings = field(default_factory=DensitySettings)
    hold_out: int = 8
    """Every so many views one is kept out of training."""
    mse_share: float = 0.2
    learning_rates: tuple[float, float, float, float, float] = (3e-3, 8e-3, 4e-2, 0.15, 0.06)
    """Means (times the scene's size), quaternions, log scales, opacity logits, colour logits."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Trained splats in the base frame, and their quality on views that were kept out of training."""

    splats: Splats
    psnr_db: float
    """Mean over the held-out views, at training resolution."""
    held_out: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target is a view at training resolution, as tensors."""

    camera_from_base: Tensor  # (4, 4)
    intrinsics: Tensor  # (3, 3)
    image: Tensor  # (H, W, 3) 0..1
    weight: Tensor  # (H, W, 1) 1 where the photo counts


def train(scene: Reconstruction, settings: TrainSettings, on_progress: Progress) -> Trained:
    """Trains splats on a reconstruction that is placed in the base frame."""
    torch.set_num_threads(1)  # the views of a step already fill the cores
    torch.manual_seed(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    held = list(range(min(settings.hold_out // 2, len(scene.views) - 1), len(scene.views), settings.hold_out))
    descent = _Descent(scene, settings, device)
    with ThreadPoolExecutor(settings.batch) as pool:
        for step, batch in enumerate(_batches(scene.views, held, settings, device)):
            descent.step(batch, pool)
            if step % 10 == 0:
                on_progress(ScanStep.TRAINING, step / settings.steps)
    unseen = [target_of(scene.views[i], settings.width, device) for i in held]
    with torch.no_grad():
        psnr = float(np.mean([_psnr(_render(descent.parameters, one).image, one) for one in unseen]))
    names = tuple(scene.views[i].name for i in held)
    return Trained(splats=_splats(descent.parameters), psnr_db=psnr, held_out=names)


class _Descent:
    """The state of training: the splats' parameters, Adam with falling rates, and the density control."""

    def __init__(self, scene: Reconstruction, settings: TrainSettings, device: torch.device) -> None:
        first = start(scene, settings.seeds)
        self.parameters = [torch.tensor(p, dtype=torch.float32, device=device, requires_grad=True) for p in first]
        self._mse_share, self._steps = settings.mse_share, 0
        size = float(np.std(scene.points, axis=0).mean())
        rates = (settings.learning_rates[0] * size, *settings.learning_rates[1:])
        groups = [{"params": [p], "lr": rate} for p, rate in zip(self.parameters, rates, strict=True)]
        self._optimizer = torch.optim.Adam(groups, fused=True)
        self._schedule = torch.optim.lr_scheduler.ExponentialLR(self._optimizer, 0.1 ** (1 / settings.steps))
        self._density = _density(scene, settings, device)

    def step(self, batch: list[Target], pool: ThreadPoolExecutor) -> None:
        """Does one step down the mean loss of the views of `batch`."""
        parts = list(pool.map(partial(_gradients, self.parameters, self._mse_share), batch))
        for parameter, *gradients in zip(self.parameters, *(part for part, _ in parts), strict=True):
            parameter.grad = torch.stack(gradients).mean(0)
        for _, motion in parts:
            self._density.seen(motion, batch[0].image.shape[1])
        self._optimizer.step()
        self._schedule.step()
        self._steps += 1
        self.parameters = self._density.control(self.parameters, self._optimizer, self._steps)


def _batches(
    views: Sequence[View], held: list[int], settings: TrainSettings, device: torch.device
) -> Iterator[list[Target]]:
    """Yields the views of every step, in random order but each as often as any other; small images first."""
    rest = [i for i in range(len(views)) if i not in held]
    rng, wanted = np.random.default_rng(settings.seed), settings.steps * settings.batch
    order = np.concatenate([rng.permutation(rest) for _ in range(wanted // len(rest) + 1)])[:wanted]
    first = math.ceil(settings.coarse * settings.steps)
    for steps, width in ((range(first), settings.width // 2), (range(first, settings.steps), settings.width)):
        shown = {i: target_of(views[i], width, device) for i in rest}
        for step in steps:
            yield [shown[i] for i in order[step * settings.batch : (step + 1) * settings.batch]]


def _density(scene: Reconstruction, settings: TrainSettings, device: torch.device) -> Density:
    camera = small(scene.views[0].camera, settings.width)
    eyes = np.stack([view.camera.base_from_camera[:3, 3] for view in scene.views])
    where = torch.tensor(eyes, dtype=torch.float32, device=device)
    return Density(settings.density, settings.steps, camera.fx, camera.width, where)


def small(camera: Camera, width: int) -> Camera:
    """Returns the camera at training resolution."""
    return camera.resized(width, round(camera.height * width / camera.width))


def shrunk(view: View, camera: Camera) -> tuple[U8, Bools]:
    """Returns a view's image and its valid pixels on the grid of the smaller `camera`."""
    size = (camera.width, camera.height)
    share = cv2.resize(view.valid.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return cv2.resize(view.image, size, interpolation=cv2.INTER_AREA), share > 0.999


def target_of(view: View, width: int, device: torch.device) -> Target:
    """Makes the target of a view at training resolution."""
    camera = small(view.camera, width)
    photo, valid = shrunk(view, camera)
    arrays = (camera.camera_from_base, camera.intrinsics, photo / 255, valid[..., None])
    pose, matrix, image, weight = (torch.tensor(array, dtype=torch.float32, device=device) for array in arrays)
    return Target(camera_from_base=pose, intrinsics=matrix, image=image, weight=weight)


def _render(parameters: list[Tensor], target: Target) -> Drawn:
    means, quaternions, scales, opacities, colours = parameters
    height, width = target.image.shape[:2]
    activated = (means, quaternions, scales.exp(), opacities.sigmoid(), colours.sigmoid())
    return render(*activated, target.camera_from_base, target.intrinsics, width, height)


def _gradients(parameters: list[Tensor], mse_share: float, target: Target) -> tuple[tuple[Tensor, ...], Tensor]:
    """Returns the gradients of the loss by each parameter, and by the splats' places in the image (`Drawn.motion`)."""
    drawn = _render(parameters, target)
    error = (drawn.image - target.image) * target.weight
    loss = ((1 - mse_share) * error.abs() + mse_share * error**2).mean()
    return torch.autograd.grad(loss, parameters), drawn.motion()


def _psnr(image: Tensor, target: Target) -> float:
    error = (image.clamp(0, 1) - target.image)[target.weight[..., 0] > 0]
    return -10 * math.log10(float((error**2).mean()))


def _splats(parameters: list[Tensor]) -> Splats:
    means, quaternions, scales, opacities, colours = (p.detach().cpu() for p in parameters)
    return Splats.of(
        means=means.numpy(),
        quaternions=torch.nn.functional.normalize(quaternions, dim=1).numpy(),
        scales=scales.exp().numpy(),
        opacities=opacities.sigmoid().numpy(),
        colours=colours.sigmoid().numpy(),
    )


def start(scene: Reconstruction, settings: SeedSettings) -> tuple[F64, F64, F64, F64, F64]:
    """Returns means (n, 3) [m], quaternions (n, 4), log scales (n, 3), opacity logits (n,), colour logits (n, 3)."""
    rng = np.random.default_rng(settings.seed)
    filled, paint = _fill(scene, settings)
    room = max(settings.splats - len(scene.points), settings.splats // 2)
    if len(filled) > room:
        chosen = rng.choice(len(filled), room, replace=False)
        filled, paint = filled[chosen], paint[chosen]
    rounds = max(1, round((settings.splats - len(filled)) / len(scene.points)))
    points, colours = _interpolated(scene.points, scene.colours / 255, rounds, rng)
    points = np.concatenate([filled, points])[: settings.splats]
    colours = np.concatenate([paint, colours])[: settings.splats]
    gaps = cKDTree(points).query(points, 4)[0][:, 1:].mean(axis=1)
    radius = settings.spread * np.clip(gaps, 1e-4, np.percentile(gaps, 99))
    turned = np.array([1.0, 0, 0, 0]) + rng.normal(0, 0.1, (len(points), 4))
    inner = 0.01 + 0.98 * colours
    opacity = math.log(settings.opacity / (1 - settings.opacity))
    return (
        points,
        turned,
        np.log(radius)[:, None].repeat(3, axis=1),
        np.full(len(points), opacity),
        np.log(inner / (1 - inner)),
    )


def _interpolated(points: F64, colours: F64, rounds: int, rng: np.random.Generator) -> tuple[F64, F64]:
    """Adds to the points `rounds` - 1 times as many, between each and one of its nearest neighbours."""
    neighbours = cKDTree(points).query(points, min(8, len(points)))[1]
    places, paints = [points], [colours]
    for k in range(rounds - 1):
        other = neighbours[:, 1 + k % (neighbours.shape[1] - 1)]
        share = rng.uniform(0.3, 0.7, (len(points), 1))
        places.append(points * share + points[other] * (1 - share))
        paints.append((colours + colours[other]) / 2)
    return np.concatenate(places), np.concatenate(paints)


def _fill(scene: Reconstruction, settings: SeedSettings) -> tuple[F64, F64]:
    """Returns points and colours for the empty cells, view by view; points of one view fill cells of the next."""
    middle = np.median(scene.points, axis=0)
    eyes = np.stack([view.camera.base_from_camera[:3, 3] for view in scene.views])
    dome = settings.dome * float(np.median(np.linalg.norm(eyes - middle, axis=1)))
    places, paints = np.empty((0, 3)), np.empty((0, 3))
    for view in scene.views:
        place, paint = _fill_view(view, scene.points[view.seen], np.concatenate([scene.points, places]), dome, settings)
        places, paints = np.concatenate([places, place]), np.concatenate([paints, paint])
    return places, paints


def _fill_view(view: View, matched: F64, known: F64, dome: float, settings: SeedSettings) -> tuple[F64, F64]:
    camera = view.camera
    side = settings.cell * camera.width
    columns, rows = math.ceil(camera.width / side), math.ceil(camera.height / side)
    u, v, z = camera.project(known).T
    inside = (z > 0) & (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
    empty = np.ones((rows, columns), bool)
    empty[(v[inside] / side).astype(int), (u[inside] / side).astype(int)] = False
    row, column = np.nonzero(empty)
    pixels = np.minimum((np.c_[column, row] + 0.5) * side, [camera.width - 0.5, camera.height - 0.5])
    shows = view.valid[pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
    pixels = pixels[shows]
    if not len(pixels) or len(matched) < 3:
        return np.empty((0, 3)), np.empty((0, 3))
    shown = camera.project(matched)
    distance, index = cKDTree(shown[:, :2]).query(pixels, 3)
    weight = 1 / np.maximum(distance, 1)
    depth = (weight * shown[index, 2]).sum(axis=1) / weight.sum(axis=1)
    local = np.c_[(pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy], np.ones(len(pixels))]
    eye, rays = camera.base_from_camera[:3, 3], local @ camera.base_from_camera[:3, :3].T
    with np.errstate(divide="ignore"):
        table = np.where(rays[:, 2] < 0, -eye[2] / rays[:, 2], np.inf)
    behind = np.minimum(table, dome / np.linalg.norm(rays, axis=1))
    depth = np.where(distance[:, 0] <= settings.close * side, depth, behind)
    return eye + rays * depth[:, None], _mean_colours(view, pixels, int(side))


def _mean_colours(view: View, pixels: F64, side: int) -> F64:
    """Returns the mean colour (n, 3) 0..1 of the valid pixels of a square around each of `pixels`."""
    weight = view.valid.astype(np.float32)
    total = cv2.blur(weight, (side, side))
    smooth = cv2.blur(view.image * weight[..., None], (side, side)) / np.maximum(total, 1e-6)[..., None]
    return smooth[pixels[:, 1].astype(int), pixels[:, 0].astype(int)].astype(float) / 255
