"""This module places the robot: it finds the rigid transform from the scaled reconstruction to the robot's base frame.

With a board, `base_from_board` in capture.toml gives it; typed points give it themselves. Without either the robot is
put where the demo needs it: the workspace centre (-0.5, 0) falls on the table point that the photos look at, and the
photos' mean viewing direction becomes +x, because the side camera looks along +x towards the robot. Photos taken all
around the table have no mean direction; then the side camera goes where a photo was taken. The table top is z = 0 in
all cases.
"""

import math
from dataclasses import dataclass

import numpy as np

from protos.errors import SceneError
from protos.schema import F64
from twin.rotations import about_z
from twin.scan.scale import Scale
from twin.scan.sfm import Reconstruction
from twin.scan.table import Plane
from twin.scene import SideCamera

WORKSPACE_XY = (-0.5, 0.0)
"""Centre of the workspace in the base frame [m]."""
PLAUSIBLE_M = (0.1, 10.0)
"""Plausible distances from the photographer to the middle of the table [m]."""
ONE_SIDED = 0.3
"""Length of the mean of the photos' level viewing directions, above which it counts as a direction."""
REFERENCE_TILT_DEG, REFERENCE_HEIGHT_M = 8.0, 0.02
"""Largest angle and distance between the plane of board or points and the table."""


@dataclass(frozen=True, kw_only=True)
class PlaceSettings:
    """Settings of the placement, used with a length only."""

    workspace_photo: str = ""
    """Photo in which `workspace_pixel` marks the workspace centre on the table; empty: where the photos look."""
    workspace_pixel: tuple[float, float] = (0.0, 0.0)
    yaw_deg: float = 0.0
    """Turn of the robot's base about the workspace centre, seen from above, counter-clockwise."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A placement maps metres_per_unit * SfM point to the base frame by the rigid transform `base_from_scaled`."""

    base_from_scaled: F64  # (4, 4) m
    note: str
    """Reason for the place, for the report."""


def place_by_reference(scale: Scale, table: Plane) -> Placement:
    """Places by board or points, which fix heading and origin; the table plane, which is much larger, fixes up."""
    assert scale.sfm_from_reference is not None and scale.base_from_reference is not None
    pose, base_from_reference = scale.sfm_from_reference, scale.base_from_reference
    tilt = math.degrees(math.acos(np.clip(pose[:3, 2] @ table.normal, -1, 1)))
    height = float(table.height(pose[:3, 3])) * scale.metres_per_unit
    if tilt > REFERENCE_TILT_DEG or abs(height) > REFERENCE_HEIGHT_M:
        raise SceneError(
            f"board or points lie {height * 1e3:.0f} mm above the table and are tilted by {tilt:.1f} deg (limits "
            f"{REFERENCE_HEIGHT_M * 1e3:.0f} mm, {REFERENCE_TILT_DEG:g} deg); lay the board flat on the table; "
            "points are in the robot's base frame, the table top at z = 0"
        )
    on_table = pose[:3, 3] - table.height(pose[:3, 3]) * table.normal
    x, y, _ = base_from_reference[:3, 3]
    yaw = math.atan2(base_from_reference[1, 0], base_from_reference[0, 0])
    return Placement(
        base_from_scaled=base_from_reference @ _frame(table, pose[:3, 0], on_table * scale.metres_per_unit),
        note=f"reference at x {x:g} m, y {y:g} m, yaw {yaw:g} rad; it is tilted by {tilt:.2f} deg against the table "
        f"and {height * 1e3:.1f} mm above it",
    )


def place_by_views(
    scene: Reconstruction, scale: Scale, table: Plane, settings: PlaceSettings, shrink: float
) -> Placement:
    """Places the workspace where the photos look and the robot on its far side. Raises `SceneError`."""
    centre, note = _workspace(scene, table, settings, shrink)
    heading, why = _heading(scene, table, centre, scale.metres_per_unit)
    distance = scale.metres_per_unit * float(
        np.median([np.linalg.norm(view.camera.base_from_camera[:3, 3] - centre) for view in scene.views])
    )
    if not PLAUSIBLE_M[0] <= distance <= PLAUSIBLE_M[1]:
        raise SceneError(
            f"with this length the camera was {distance:.3g} m from the middle of the table ({PLAUSIBLE_M[0]:g} to "
            f"{PLAUSIBLE_M[1]:g} m is plausible); check that --length is in metres and both pixels show the table top"
        )
    table_from_scaled = _frame(table, heading, centre * scale.metres_per_unit)
    base_from_table = np.eye(4)
    base_from_table[:3, :3] = about_z(-math.radians(settings.yaw_deg))
    base_from_table[:3, 3] = (*WORKSPACE_XY, 0)
    return Placement(base_from_scaled=base_from_table @ table_from_scaled, note=f"{note}; {why}")


def _heading(scene: Reconstruction, table: Plane, centre: F64, metres_per_unit: float) -> tuple[F64, str]:
    """Returns the direction (3,) that becomes +x, and the reason."""
    forward = _level(np.stack([view.camera.base_from_camera[:3, 2] for view in scene.views]), table)
    if np.linalg.norm(forward.mean(axis=0)) > ONE_SIDED:
        return forward.mean(axis=0), "+x is the photos' mean viewing direction"
    eyes = np.stack([view.camera.base_from_camera[:3, 3] for view in scene.views])
    inward = _level(centre - eyes, table)
    x, _, z = SideCamera().eye
    side = centre + ((x - WORKSPACE_XY[0]) * inward + z * table.normal) / metres_per_unit
    best = int(np.argmin(np.linalg.norm(side - eyes, axis=1)))
    return inward[best], f"photos from all around, so the side camera stands near that of {scene.views[best].name}"


def _level(directions: F64, table: Plane) -> F64:
    """Lays directions (n, 3) flat on the table, of unit length."""
    flat = directions - (directions @ table.normal)[:, None] * table.normal
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def _workspace(scene: Reconstruction, table: Plane, settings: PlaceSettings, shrink: float) -> tuple[F64, str]:
    """Returns the workspace centre on the table (3,) in SfM units, and how it was found."""
    if settings.workspace_photo:
        view = next((v for v in scene.views if v.name == settings.workspace_photo), None)
        if view is None:
            names = ", ".join(v.name for v in scene.views)
            raise SceneError(f"workspace photo {settings.workspace_photo!r}: choose a registered photo: {names}")
        point = table.hit(view.camera, scene.lens.undistort(np.array([settings.workspace_pixel]) * shrink))[0]
        note = f"workspace at pixel {settings.workspace_pixel} of {settings.workspace_photo}"
    else:
        on_table = scene.points[np.abs(table.height(scene.points)) < 3 * table.spread]
        middle = np.median(on_table, axis=0)
        reach = np.percentile(np.linalg.norm(on_table - middle, axis=1), 95)
        aims = np.array([table.hit(v.camera, np.array([[v.camera.cx, v.camera.cy]]))[0] for v in scene.views])
        aims = aims[np.linalg.norm(aims - middle, axis=1) < reach]  # NaN, of a photo aimed above the table, is not
        if 2 * len(aims) > len(scene.views):
            point, note = np.median(aims, axis=0), "workspace where the photos look"
        else:
            point, note = middle, "workspace amid the table's points, for most photos look past the table"
    if not np.isfinite(point).all():
        raise SceneError(f"{note}: that ray does not meet the table; choose a pixel that shows the table top")
    return point - table.height(point) * table.normal, note


def _frame(table: Plane, heading: F64, origin: F64) -> F64:
    """Returns frame_from_scaled (4, 4): z up from the table, x along the heading, origin at `origin` [m]."""
    x = heading - (heading @ table.normal) * table.normal
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(table.normal, x), table.normal])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ origin
    return pose
