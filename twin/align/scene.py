"""This module aligns a scene folder: it reads the scene, aligns it and writes it moved.

scene/ (scene.toml, static.ply, report.json) ─┐                 ┌─► static.ply, cameras in the base frame, robot gone
masks/ (an image per photo, white = robot) ───┴─► align ────────┼─► scene.toml [alignment], alignment.json
joint angles ─────────────────────────────────┘                  └─► alignment.png: outlines before and after
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import cKDTree

from protos.schema import F32, U8, Bools
from twin.align.alignment import Alignment, AlignSettings, Views, align, moved_camera, outline
from twin.align.refine import Similarity
from twin.align.robot import RobotModel, robot_model
from twin.align.views import FILE, CaptureCameras, on_masks, read_cameras, read_masks
from twin.camera import Camera
from twin.render import rasterize
from twin.scene import RobotAlignment, Scene
from twin.splats import Splats

MASK, BEFORE, AFTER = (60, 220, 60), (235, 60, 50), (60, 120, 255)
"""Colours of the outlines in alignment.png: mask, model before, model after."""
SOLID = 0.3
"""Opacity from which a splat counts as a point of the scan."""


@dataclass(frozen=True, kw_only=True)
class SceneAlignSettings:
    """Settings of the alignment of a scene folder."""

    masks: Path
    """Folder with a mask per photo, white where the robot is (07.png for 07.jpg)."""
    joints: tuple[float, ...]
    """Joint angles during the capture [rad], in the order of the robot's joints; its gripper is open."""
    robot: str = ""
    """A robot's name, or a URDF or MJCF file; default: the scene's robot."""
    mask_px: int = 360
    """Largest width and height at which masks are compared."""
    erase_m: float = 0.02
    """Distance to the model up to which splats are the robot's, like those on its masks, and leave the static scene."""
    align: AlignSettings = field(default_factory=AlignSettings)


def align_scene(folder: Path, out: Path, settings: SceneAlignSettings) -> Alignment:
    """Aligns the scene in `folder` and writes the result to `out`. Raises `SceneError` in one line."""
    scene, capture = Scene.load(folder), read_cameras(folder)
    views = read_masks(settings.masks, capture, settings.mask_px)
    model = robot_model(settings.robot or scene.robot)
    points = scene.static.means[scene.static.opacities > SOLID].astype(float)
    found = align(views, points, model, settings.joints, settings.align, splats=scene.static)
    moved = scene.static.transformed(found.base_from_scan.pose, found.base_from_scan.scale)
    keep = ~_robots(scene.static, moved, views, model, settings)
    note = RobotAlignment(
        method=found.method,
        views=len(found.views),
        residual_mm=found.residual_mm,
        residual_px=found.residual_px,
        uncertain_mm=found.uncertain_mm,
    )
    replace(scene, static=moved[keep], alignment=note).save(out)
    _write_report(folder, out, capture, found.base_from_scan)
    (out / "alignment.json").write_text(json.dumps(_plain(found), indent=2) + "\n", encoding="utf-8")
    image = overlay(scene.static, views, model, settings.joints, found.base_from_scan)
    cv2.imwrite(str(out / "alignment.png"), image[..., ::-1])
    return found


def _robots(static: Splats, moved: Splats, views: Views, model: RobotModel, settings: SceneAlignSettings) -> Bools:
    """Tells which splats show the robot: near its model, or on its masks and not far from it."""
    surface = model.surface(settings.joints).points
    distance = cKDTree(surface).query(moved.means)[0]
    share, seen = on_masks(static.means.astype(float), list(views.values()))
    masked = (share >= settings.align.robot_share) & (seen >= 2)
    table = moved.means[:, 2] < settings.erase_m / 2
    return (distance < settings.erase_m) & ~table | (masked & (distance < 3 * settings.erase_m))


def _write_report(folder: Path, out: Path, capture: CaptureCameras, base_from_scan: Similarity) -> None:
    """Writes the scan's report with its cameras in the new base frame."""
    report = json.loads((folder / FILE).read_text(encoding="utf-8"))
    moved = {name: moved_camera(camera, base_from_scan) for name, camera in capture.cameras.items()}
    report["cameras"] = {name: np.round(camera.base_from_camera, 6).tolist() for name, camera in moved.items()}
    report["placement"] = "base frame from the robot itself, see alignment.json"
    (out / FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _plain(found: Alignment) -> Mapping[str, object]:
    """Converts the alignment to JSON values, residuals per view included."""
    moved = {"moved_mm": found.moved_mm, "turned_deg": found.turned_deg}
    similarity = {"pose": found.base_from_scan.pose.tolist(), "scale": found.base_from_scan.scale}
    return asdict(found) | moved | {"base_from_scan": similarity}


def overlay(
    static: Splats, views: Views, model: RobotModel, joints: tuple[float, ...], base_from_scan: Similarity
) -> U8:
    """Draws the scan in up to four views with outlines: mask green, model before red, after blue."""
    chosen = [name for name, _ in zip(views, range(4), strict=False)]
    return np.concatenate([_outlined(static, *views[n], model, joints, base_from_scan) for n in chosen], axis=1)


def _outlined(
    static: Splats, camera: Camera, mask: F32, model: RobotModel, joints: tuple[float, ...], base_from_scan: Similarity
) -> U8:
    image = (np.clip(rasterize(static, camera).over(), 0, 1) * 255).astype(np.uint8)
    after = model.mask(joints, moved_camera(camera, base_from_scan))
    for shown, colour in ((mask > 0.5, MASK), (model.mask(joints, camera), BEFORE), (after, AFTER)):
        image[outline(shown)] = colour
    return image
