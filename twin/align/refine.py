"""This module moves splats until their silhouettes fall on given masks (TwinRL, section 3.2, L_align).

    pose ─► move splats ─► coverage and its derivative in every view ─┐
     ▲                                        masks, blurred alike ───┴─► robust Gauss-Newton step ─┐
     └──────────────── coarse to fine: images a quarter, half and all of their size ◄─────────────┘

    L_align(T) = 1/N Σ_i ‖ I_i - Render(T · G, camera_i) ‖²      T* = argmin L_align

I_i are the masks, G the splats, T a rigid transform, with a scale if asked. Which of the two is the model and which the
scan is the caller's choice. Weights after Geman and McClure let pixels go whose mask disagrees for good: holes,
something in front of the robot. Levenberg-Marquardt damping takes only steps that lower the loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from protos.schema import F32, F64
from twin.align.silhouette import PARAMETERS, Cloud, moved, silhouette, silhouette_and_jacobian
from twin.camera import Camera
from twin.rotations import matrix_from_vector


@dataclass(frozen=True, kw_only=True)
class RefineSettings:
    """Settings of the search for the pose."""

    scale: bool = False
    """Switch to find the scale too; else it stays."""
    levels: tuple[int, ...] = (8, 4, 2, 1)
    """Factors by which the images are made smaller, one after the other."""
    least_px: int = 24
    """Least width and height of an image."""
    blur_px: float = 1.2
    """Standard deviation of the blur of masks and renders, in pixels of the level."""
    outlier: float = 0.35
    """Difference of coverage at which a pixel has lost most of its weight."""
    steps: int = 15
    """Largest number of steps per level."""
    still_px: float = 0.1
    """Motion of the splats in the level's images below which a level ends."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A view with the mask that should be seen, and the splats that should make it (views may differ in posture)."""

    camera: Camera
    mask: F32  # (height, width) 0..1
    cloud: Cloud


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """The transform x ↦ pose · (scale x)."""

    pose: F64  # (4, 4), rigid
    scale: float = 1.0

    def inverse(self) -> "Similarity":
        """Returns the inverse transform."""
        turn = self.pose[:3, :3].T
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, -turn @ self.pose[:3, 3] / self.scale
        return Similarity(pose=pose, scale=1 / self.scale)

    def apply(self, points: F64) -> F64:
        """Moves points (..., 3)."""
        return points @ (self.scale * self.pose[:3, :3]).T + self.pose[:3, 3]


@dataclass(frozen=True, kw_only=True)
class Refined:
    """The result of the refinement."""

    target_from_source: Similarity
    loss: float
    """Loss L_align at full size, without weights."""
    uncertain: float
    """Standard deviation of the splats' position in the direction that the masks hold least, target units."""
    steps: int


def refine(targets: Sequence[Target], start: Similarity, settings: RefineSettings) -> Refined:
    """Finds the transform that lays the splats' silhouettes on the masks."""
    at, steps = start, 0
    for level in settings.levels:
        problem = _Problem([_shrunk(target, level, settings) for target in targets], settings, robust=level <= 2)
        at, taken = _descend(problem, at, settings)
        steps += taken
    uncertain = problem.uncertain(at)
    return Refined(target_from_source=at, loss=mask_loss(targets, at), uncertain=uncertain, steps=steps)


def mask_loss(targets: Sequence[Target], at: Similarity) -> float:
    """Returns L_align as in the paper: mean over views and pixels, masks as they are."""
    drawn = [silhouette(moved(target.cloud, at.pose, at.scale), target.camera) for target in targets]
    return float(np.mean([np.mean((cover - t.mask) ** 2) for cover, t in zip(drawn, targets, strict=True)]))


def _shrunk(target: Target, level: int, settings: RefineSettings) -> Target:
    """Returns the view at a `level`-th of its size, its mask blurred."""
    camera = target.camera
    level = max(1, min(level, min(camera.width, camera.height) // settings.least_px))
    camera = camera.resized(round(camera.width / level), round(camera.height / level))
    mask = cv2.resize(target.mask, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    return Target(camera=camera, mask=_blurred(mask, settings.blur_px), cloud=target.cloud)


def _blurred(image: F32, sigma: float) -> F32:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


class _Quadratic(NamedTuple):
    """A quadratic model of the loss near one pose: loss + gradient · p + ½ pᵀ curvature p."""

    loss: float
    gradient: F64  # (k,)
    curvature: F64  # (k, k)
    outline_px: float
    """Number of pixels on outlines, all views."""


class _Problem:
    """The robust loss at one level and its quadratic models."""

    def __init__(self, views: Sequence[Target], settings: RefineSettings, *, robust: bool) -> None:
        self._views, self._blur = views, settings.blur_px
        self._outlier2 = settings.outlier**2 if robust else math.inf
        self.free = PARAMETERS if settings.scale else PARAMETERS - 1
        means = np.concatenate([view.cloud.means for view in views])
        self._middle = means.mean(axis=0)
        self._reach = float(np.percentile(np.linalg.norm(means - self._middle, axis=1), 90))

    def model(self, at: Similarity) -> _Quadratic:
        """Returns the Gauss-Newton model in the seven parameters of `silhouette_and_jacobian`, weights held (IRLS)."""
        loss, outline, gradient, curvature = 0.0, 0.0, np.zeros(self.free), np.zeros((self.free, self.free))
        pixels = sum(view.mask.size for view in self._views)
        for view in self._views:
            cloud = moved(view.cloud, at.pose, at.scale)
            coverage, jacobian = silhouette_and_jacobian(cloud, view.camera, self.pivot(at))
            residual = (_blurred(coverage, self._blur) - view.mask).ravel()
            J = np.stack([_blurred(row, self._blur).ravel() for row in jacobian[: self.free]])
            square = residual**2
            trust = 1 / (1 + square / self._outlier2)
            weighted = J * trust**2
            loss += float((square * trust).sum()) / pixels
            outline += float((4 * coverage * (1 - coverage)).sum())
            gradient += (weighted @ residual).astype(float) / pixels
            curvature += (weighted @ J.T).astype(float) / pixels
        return _Quadratic(loss, gradient, curvature, outline)

    def pivot(self, at: Similarity) -> F64:
        """Returns the middle of the splats: turning about it moves them least."""
        return at.apply(self._middle)

    def lever(self, at: Similarity) -> F64:
        """Returns the motion of the outer splats (k,) per unit of each parameter, target units."""
        return np.array([1.0] * 3 + [self._reach * at.scale] * (self.free - 3))

    def uncertain(self, at: Similarity) -> float:
        """Returns the root of the largest eigenvalue of the pose's covariance, as motion of the splats, target units.

        Blurred noise is shared by neighbours: of about 4π σ² pixels one counts.
        """
        model, lever = self.model(at), self.lever(at)
        pixels = sum(view.mask.size for view in self._views)
        variance = model.loss * pixels / max(model.outline_px, 1.0) * 4 * math.pi * self._blur**2
        information = model.curvature * pixels / np.outer(lever, lever)
        return math.sqrt(max(variance, 1e-6) / max(np.linalg.eigvalsh(information)[0], 1e-9))

    def pixel_m(self, at: Similarity) -> float:
        """Returns the width of a pixel at the splats, in the target's unit of length."""
        depths = [view.camera.project(self.pivot(at))[2] / view.camera.fx for view in self._views]
        return float(np.median(np.abs(depths)))


def _descend(problem: _Problem, at: Similarity, settings: RefineSettings) -> tuple[Similarity, int]:
    """Runs Levenberg-Marquardt until steps are tiny; returns the pose and the number of steps tried."""
    model, damping, taken = problem.model(at), 1e-3, 0
    while taken < settings.steps:
        taken, lever = taken + 1, problem.lever(at)
        ridge = damping * np.diag(model.curvature) + 1e-9 * lever**2
        move = np.asarray(np.linalg.solve(model.curvature + np.diag(ridge), -model.gradient), float)
        proposed = nudged(at, move, problem.pivot(at))
        new = problem.model(proposed)
        if new.loss < model.loss:
            at, model, damping = proposed, new, damping / 5
        else:
            damping *= 8
        if np.abs(move * lever).max() < settings.still_px * problem.pixel_m(at):
            break
    return at, taken


def nudged(at: Similarity, move: F64, pivot: F64) -> Similarity:
    """Returns `at`, followed by x ↦ exp(s) R(w) (x - pivot) + pivot + t."""
    turn, grow = matrix_from_vector(move[3:6]), math.exp(move[6]) if len(move) > 6 else 1.0
    pose = np.eye(4)
    pose[:3, :3] = turn @ at.pose[:3, :3]
    pose[:3, 3] = grow * turn @ (at.pose[:3, 3] - pivot) + pivot + move[:3]
    return Similarity(pose=pose, scale=at.scale * grow)
