"""This module has the splats of everything that moves: the arm's links, the gripper, the task's bodies."""

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from protos.errors import SceneError
from protos.schema import F32, F64
from twin import surfaces
from twin.kinematics import Kinematics
from twin.render import kernels
from twin.render.kernels import Layer, View, Workspace, eyes_of, shade
from twin.render.rasterizer import layer_of, tinted
from twin.robots import FINGERS, Robot
from twin.rotations import matrix_from_quaternion
from twin.splats import Splats, concatenate, merge_to
from twin.surfaces import LIGHT, Light
from twin.tasks import Task

SPACING_M = {"base": 0.05, "gripper": 0.016} | dict.fromkeys(FINGERS, 0.012)
"""Distance of neighbouring splats on the robot; the arm's links are seen from afar and get `ARM_SPACING_M`."""
ARM_SPACING_M = 0.035
SHADED_AT_M = (-0.54, 0.0, 0.16)
"""Tool position for which light and shade of the moving splats, which are fixed, are right."""
_THIN_M = 0.003
"""Height below which a cylinder lies on the table and only its top is drawn."""
SCANNED_SPLATS, SCANNED_VOXEL_M = 4000, 0.001
"""Largest number of splats of a scanned body where images must be cheap, and the smallest voxels for merging."""


@dataclass(frozen=True, kw_only=True)
class MovingSplats:
    """Moving splats and the body that carries each; those that the wrist camera sees come last."""

    splats: Splats
    body: NDArray[np.int32]  # (N,)
    first_wrist: int
    """Index of the first splat that the wrist camera draws."""


def moving_splats(
    model: mujoco.MjModel, robot: Robot, task: Task, *, thin: bool = False, light: Light = LIGHT
) -> MovingSplats:
    """Makes splats on every geom of every body, shaded as they are lit with the tool at `SHADED_AT_M`.

    A body that the task has scanned splats of is drawn with these instead, `thin` with at most `SCANNED_SPLATS`. The
    wrist camera draws only the fingers and the task's bodies: the palm is centimetres from the lens, where a projected
    Gaussian smears over the whole image.
    """
    rotations = _shading_rotations(model, robot)
    near = (*FINGERS, *task.bodies)
    bodies = [model.body(i).name for i in range(model.nbody)]
    ordered = [name for name in bodies if name not in near] + [name for name in bodies if name in near]
    parts: list[Splats] = []
    owners: list[NDArray[np.int32]] = []
    first_wrist = 0
    for name in ordered[1:]:  # the first body is the world
        body = model.body(name)
        spacing = task.splat_spacing(name) if name in task.bodies else SPACING_M.get(name, ARM_SPACING_M)
        rotation = rotations[body.id].reshape(3, 3)
        geoms = range(body.geomadr[0], body.geomadr[0] + body.geomnum[0])
        if name in task.splats:
            drawn = [_thinned(task.splats[name]) if thin else task.splats[name]]
        else:
            drawn = [_geom_splats(model, geom, spacing, rotation, light) for geom in geoms]
        for part in drawn:
            parts.append(part)
            owners.append(np.full(len(part), body.id, np.int32))
            first_wrist += 0 if name in near else len(part)
    return MovingSplats(splats=concatenate(parts), body=np.concatenate(owners), first_wrist=first_wrist)


def _thinned(splats: Splats) -> Splats:
    return merge_to(splats, SCANNED_SPLATS, SCANNED_VOXEL_M) if len(splats) > SCANNED_SPLATS else splats


def _shading_rotations(model: mujoco.MjModel, robot: Robot) -> F64:
    """Returns body rotations (bodies, 9) with the tool at `SHADED_AT_M`."""
    data = mujoco.MjData(model)
    for name, angle in zip(robot.joints, Kinematics(robot).start_joints(SHADED_AT_M)[0], strict=True):
        data.joint(name).qpos = angle
    mujoco.mj_kinematics(model, data)
    return data.xmat


def _geom_splats(model: mujoco.MjModel, geom: int, spacing: float, rotation: F64, light: Light) -> Splats:
    size, kind = model.geom_size[geom], model.geom_type[geom]
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        points, normals = surfaces.box(size, spacing)
    elif kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        points, normals = surfaces.capsule(size[0], size[1], spacing)
    elif kind == mujoco.mjtGeom.mjGEOM_MESH:
        points, normals = surfaces.mesh(*_mesh(model, int(model.geom_dataid[geom])), spacing)
    elif kind != mujoco.mjtGeom.mjGEOM_CYLINDER:
        raise SceneError(
            f"geom {geom} of type {mujoco.mjtGeom(kind).name}: boxes, capsules, cylinders, meshes are drawn"
        )
    elif size[1] < _THIN_M:
        points, normals = surfaces.disc(size[0], size[1], spacing)
    else:
        points, normals = surfaces.cylinder(size[0], size[1], spacing)
    turn = matrix_from_quaternion(model.geom_quat[geom])
    surface = points @ turn.T + model.geom_pos[geom], normals @ turn.T
    return surfaces.surface_splats(surface, spacing, model.geom_rgba[geom, :3], rotation, light=light)


def _mesh(model: mujoco.MjModel, mesh: int) -> tuple[F64, NDArray[np.int32]]:
    """Returns vertices (V, 3) in the geom's frame and triangles (F, 3)."""
    vertex, face = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
    vertices = model.mesh_vert[vertex : vertex + model.mesh_vertnum[mesh]].astype(float)
    return vertices, model.mesh_face[face : face + model.mesh_facenum[mesh]]


class PosedSplats:
    """The moving splats at the poses of one slot, in buffers of one thread."""

    def __init__(self, moving: MovingSplats) -> None:
        self._body, self._first_wrist = moving.body, moving.first_wrist
        self._local = self.plain = layer_of(moving.splats)
        means, covariances = np.empty_like(self._local.means), np.empty_like(self._local.covariances)
        self.layer = self._local._replace(means=means, covariances=covariances)
        """Splats in the base frame; harmonics are still in the bodies' frames."""
        self._positions, self._rotations = np.zeros((1, 3), np.float32), np.zeros((1, 3, 3), np.float32)

    def __len__(self) -> int:
        return len(self._body)

    def dressed(self, scales: F64, tints: F32) -> Layer:
        """Returns the splats of bodies scaled by (bodies, 3), with (bodies, 3) added to their colours."""
        size = scales[self._body]
        rows, columns = np.triu_indices(3)
        return tinted(self.plain, tints[self._body])._replace(
            means=(self.plain.means * size).astype(np.float32),
            covariances=(self.plain.covariances * (size[:, rows] * size[:, columns])).astype(np.float32),
        )

    def wear(self, local: Layer) -> None:
        """Takes `plain`, or what `dressed` returned, for the next poses."""
        self._local, self.layer = local, self.layer._replace(colours=local.colours)

    def pose(self, positions: F32, rotations: F32) -> None:
        """Moves every splat with its body: positions (bodies, 3), rotations (bodies, 3, 3) in the base frame."""
        self._positions, self._rotations = positions, rotations
        kernels.move(self._local, self._body, positions, rotations, self.layer)

    def footprints(self, view: View, width: int, height: int, work: Workspace, row: int, *, wrist: bool = False) -> int:
        """Appends the visible splats from `row` on, for the wrist camera only those near it; returns the new count."""
        first = self._first_wrist if wrist else 0
        count = kernels.project(self.layer, first, view, width, height, work, row)
        if self._local.sh.shape[1]:
            eyes = eyes_of(view, self._positions, self._rotations)
            shade(self._local, self._body, eyes, work, row, count)
        return count
