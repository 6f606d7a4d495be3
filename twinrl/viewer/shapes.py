"""This module gives viser what stands still in a scene: splats, table grid, frames, cameras, boxes, objects."""

import math

import numpy as np
import viser

from protos.schema import F64
from protos.space import Box
from twin.camera import Camera, pose_of
from twin.objects import ScannedObject
from twin.rotations import quaternion_from_matrix
from twin.scene import Scene
from twin.splats import Splats
from twin.tasks import Task

Colour = tuple[int, int, int]
CAPTURE, SIDE, WRIST, WORKSPACE = (150, 150, 150), (230, 120, 30), (200, 60, 160), (90, 90, 90)
REGIONS: tuple[Colour, ...] = ((40, 160, 80), (60, 110, 220), (200, 160, 40), (180, 60, 60))
"""Colours of a task's regions, in their order."""
GRID, CELL_M = (110, 110, 110), 0.1
LOWEST_M = 0.004
"""Height of what lies on the table, so that the table's splats do not hide it."""


def add_splats(server: viser.ViserServer, name: str, splats: Splats, pose: F64 | None = None) -> viser.SceneNodeHandle:
    """Adds splats under a name; they can be moved by the handle's position and wxyz."""
    upper = splats.covariances()
    base_from_splats = np.eye(4) if pose is None else pose
    return server.scene.add_gaussian_splats(
        name,
        centers=splats.means,
        covariances=upper[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3),
        rgbs=splats.colours,
        opacities=splats.opacities[:, None],
        position=base_from_splats[:3, 3],
        wxyz=quaternion_from_matrix(base_from_splats[:3, :3]),
    )


def add_surroundings(server: viser.ViserServer, scene: Scene) -> None:
    """Adds table grid (10 cm cells), the robot's base frame, workspace, and the side camera."""
    add_lines(server, "/table", _grid(scene.workspace), GRID)
    server.scene.add_frame("/base", axes_length=0.15, axes_radius=0.004)
    server.scene.add_label("/base/label", "robot base", position=(0, 0, 0.18))
    add_lines(server, "/workspace", _edges(scene.workspace), WORKSPACE)
    add_camera(server, "/cameras/side", scene.side.camera(256), SIDE, scale=0.09)
    server.scene.add_label("/cameras/side/label", "side camera")


def add_camera(server: viser.ViserServer, name: str, camera: Camera, colour: Colour, *, scale: float) -> None:
    """Adds a camera as a frustum `scale` metres deep."""
    pose = camera.base_from_camera
    server.scene.add_camera_frustum(
        name,
        fov=2 * math.atan(camera.height / 2 / camera.fy),
        aspect=camera.width / camera.height,
        scale=scale,
        thickness=0.0015,
        color=colour,
        position=pose[:3, 3],
        wxyz=quaternion_from_matrix(pose[:3, :3]),
    )


def add_regions(server: viser.ViserServer, task: Task) -> None:
    """Adds the regions in which a task's manipulated body may start."""
    for (name, box), colour in zip(task.space.regions.items(), REGIONS * len(task.space.regions), strict=False):
        add_box(server, f"/regions/{name}", box, colour, 0.35)
        corner = (box.x[1], box.y[1], box.z[1] + 0.02)
        server.scene.add_label(f"/regions/{name}/label", f"region {name}", position=np.subtract(corner, _middle(box)))


def add_box(server: viser.ViserServer, name: str, box: Box, colour: Colour, opacity: float) -> None:
    """Adds a filled box, at least `LOWEST_M` high."""
    size = [max(high - low, LOWEST_M) for low, high in (box.x, box.y, box.z)]
    server.scene.add_box(name, color=colour, dimensions=tuple(size), opacity=opacity, position=_middle(box))


def add_lines(server: viser.ViserServer, name: str, segments: F64, colour: Colour) -> None:
    """Adds line segments (n, 2, 3). Viser's own grid would hide the table's splats: it is a surface."""
    server.scene.add_line_segments(name, points=segments.astype(np.float32), colors=colour, thickness=0.0015)


def _grid(space: Box) -> F64:
    """Returns lines on the table every `CELL_M`, (n, 2, 3)."""
    (x0, x1), (y0, y1) = space.x, space.y
    along = [[(x, y0, LOWEST_M), (x, y1, LOWEST_M)] for x in _multiples(x0, x1)]
    across = [[(x0, y, LOWEST_M), (x1, y, LOWEST_M)] for y in _multiples(y0, y1)]
    return np.array(along + across, float)


def _multiples(low: float, high: float) -> F64:
    """Returns the multiples of `CELL_M` from `low` to `high`."""
    first, last = math.ceil(low / CELL_M - 1e-6), math.floor(high / CELL_M + 1e-6)
    return np.arange(first, last + 1, dtype=float) * CELL_M


def _edges(box: Box) -> F64:
    """Returns the twelve edges of a box (12, 2, 3)."""
    corners = np.array([[x, y, z] for x in box.x for y in box.y for z in box.z])
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8) if (corners[i] != corners[j]).sum() == 1]
    return corners[np.array(pairs)]


def add_object(server: viser.ViserServer, thing: ScannedObject) -> list[viser.SceneNodeHandle]:
    """Adds a scanned object where it stood; returns the handles of its collision shape."""
    pose = thing.base_from_object
    add_splats(server, f"/objects/{thing.name}/splats", thing.splats, pose)
    return [
        server.scene.add_mesh_simple(
            f"/objects/{thing.name}/part_{k}",
            vertices=part.vertices,
            faces=part.faces,
            wireframe=True,
            color=(20, 160, 220),
            position=pose[:3, 3],
            wxyz=quaternion_from_matrix(pose[:3, :3]),
        )
        for k, part in enumerate(thing.parts)
    ]


def wrist_camera(scene: Scene, position: F64, rotation: F64) -> Camera:
    """Returns the wrist camera with the tool at a pose in the base frame."""
    return scene.wrist.camera(256, pose_of(position, rotation))


def _middle(box: Box) -> tuple[float, float, float]:
    x, y, z = ((low + high) / 2 for low, high in (box.x, box.y, box.z))
    return x, y, max(z, LOWEST_M / 2)
