"""This module gives points, splats and exact masks of a robot's surface for given joint angles, from its model.

    name | URDF or MJCF file ─► MuJoCo model ─► joint angles ─► points, normals ─► splats
                                                          └─► rays through every pixel ─► mask

Any model will do that MuJoCo compiles: its joints, in order, are the joint angles asked for. Of a URDF MuJoCo keeps the
collision shapes; with <mujoco><compiler discardvisual="false"/></mujoco> in it the visual ones too. Masks are cast
against the geoms themselves, meshes included; they share nothing with the splats.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from protos.errors import InputError, SceneError
from protos.problems import first_line
from protos.schema import F64, Bools
from twin import robots, surfaces
from twin.camera import Camera
from twin.robots import FINGERS, Robot
from twin.robots.mjcf import robot_mjcf
from twin.splats import Splats

SPACING_M = 0.012
"""Distance of neighbouring splats, a few pixels of the images that are compared."""
TIGHT, INSET = 0.75, 0.33
"""Size of the splats relative to those of images, and their depth below the surface in spacings.

At an outline many splats overlap edge-on, and their sum reaches beyond it; smaller and a little deeper they end where
the surface does, to about a tenth of a pixel (measured against cast masks).
"""


class Surface(NamedTuple):
    """Points on the robot in its base frame."""

    points: F64  # (N, 3) m
    normals: F64  # (N, 3)


class RobotModel:
    """A robot posed by joint angles. It must not be used from several threads at once."""

    def __init__(self, model: mujoco.MjModel, name: str, fingers: Sequence[float] = ()) -> None:
        """`fingers` are the positions of the last joints, which belong to an open gripper and are not asked for."""
        self.name = name
        self._model, self._data, self._fingers = model, mujoco.MjData(model), tuple(fingers)
        self.joints = tuple(model.joint(i).name for i in range(model.njnt - len(self._fingers)))

    def surface(self, joints: ArrayLike, spacing_m: float = SPACING_M) -> Surface:
        """Returns points and normals all over the robot at joint angles (n,)."""
        self._pose(joints)
        parts = [self._geom_surface(geom, spacing_m) for geom in range(self._model.ngeom)]
        return Surface(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def splats(self, joints: ArrayLike, spacing_m: float = SPACING_M) -> Splats:
        """Returns splats on the robot's surface at joint angles (n,), base frame."""
        points, normals = self.surface(joints, spacing_m)
        inner = Surface(points - INSET * spacing_m * normals, normals)
        splats = surfaces.surface_splats(inner, spacing_m, (1.0, 1.0, 1.0))
        return replace(splats, scales=(TIGHT * splats.scales).astype(np.float32))

    def mask(self, joints: ArrayLike, camera: Camera) -> Bools:
        """Returns an exact mask (height, width): whether the ray through a pixel's centre meets the robot."""
        self._pose(joints)
        columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
        x, y = (columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy
        rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ camera.base_from_camera[:3, :3].T
        geom, distance = np.empty(len(rays), np.int32), np.empty(len(rays))
        eye = np.ascontiguousarray(camera.base_from_camera[:3, 3])
        rays = np.ascontiguousarray(rays).ravel()
        mujoco.mj_multiRay(
            self._model, self._data, eye, rays, None, True, -1, geom, distance, None, len(geom), mujoco.mjMAXVAL
        )
        return (geom >= 0).reshape(camera.height, camera.width)

    def _pose(self, joints: ArrayLike) -> None:
        angles = np.asarray(joints, float)
        if angles.shape != (len(self.joints),) or not np.isfinite(angles).all():
            raise InputError(
                f"joint angles {np.array2string(angles, threshold=8)}: {self.name} has {len(self.joints)} joints "
                f"({', '.join(self.joints)}); give one finite value for each"
            )
        self._data.qpos[:] = [*angles, *self._fingers]
        mujoco.mj_forward(self._model, self._data)

    def _geom_surface(self, geom: int, spacing: float) -> tuple[F64, F64]:
        points, normals = _local_surface(self._model, geom, spacing)
        turn = self._data.geom_xmat[geom].reshape(3, 3)
        return points @ turn.T + self._data.geom_xpos[geom], normals @ turn.T


def robot_model(robot: Robot | str) -> RobotModel:
    """Returns the model of a robot known by name, or of a URDF or MJCF file. Raises `InputError` or `SceneError`."""
    if isinstance(robot, str) and robot in robots.names():
        robot = robots.get(robot)
    if isinstance(robot, Robot):
        mjcf = f"<mujoco><compiler angle='radian'/><worldbody>{robot_mjcf(robot, 1.0)}</worldbody></mujoco>"
        fingers = [robot.gripper.travel_m] * len(FINGERS)
        return RobotModel(mujoco.MjModel.from_xml_string(mjcf), robot.name, fingers)
    path = Path(robot)
    if path.suffix not in (".urdf", ".xml") or not path.is_file():
        raise InputError(
            f"robot {robot!r}: choose one of {', '.join(robots.names())}, or give a .urdf or .xml (MJCF) file"
        )
    try:
        model = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise SceneError(f"{path}: MuJoCo cannot compile it: {first_line(error)}") from error
    if not np.isin(model.jnt_type, _HINGES).all():
        raise SceneError(f"{path}: only hinge and slide joints can be posed; it has a ball or free joint")
    return RobotModel(model, path.stem)


_HINGES = [int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)]


def _local_surface(model: mujoco.MjModel, geom: int, spacing: float) -> tuple[F64, F64]:
    """Returns points and normals of one geom in its own frame."""
    size, kind = model.geom_size[geom], mujoco.mjtGeom(model.geom_type[geom])
    match kind:
        case mujoco.mjtGeom.mjGEOM_BOX:
            return surfaces.box(size, spacing)
        case mujoco.mjtGeom.mjGEOM_CAPSULE:
            return surfaces.capsule(size[0], size[1], spacing)
        case mujoco.mjtGeom.mjGEOM_CYLINDER:
            return surfaces.cylinder(size[0], size[1], spacing)
        case mujoco.mjtGeom.mjGEOM_SPHERE:
            return surfaces.capsule(size[0], 0.0, spacing)
        case mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            face, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
            return mesh_surface(model.mesh_vert[first : first + count], model.mesh_face[face : face + faces], spacing)
        case _:
            raise SceneError(f"geom {geom} is a {kind.name}; boxes, capsules, cylinders, spheres and meshes are drawn")


def mesh_surface(vertices: ArrayLike, faces: NDArray[np.int32], spacing: float) -> tuple[F64, F64]:
    """Spreads points evenly over a triangle mesh, about one per `spacing` squared; returns them and their normals."""
    corners = np.asarray(vertices, float)[faces]  # (F, 3, 3)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1) / 2
    corners, cross, area = corners[area > 0], cross[area > 0], area[area > 0]
    count = max(6, math.ceil(area.sum() / spacing**2))
    # equal steps along the summed area, and a lattice of low discrepancy within the triangle
    place = (np.arange(count) + 0.5) / count * area.sum()
    triangle = np.searchsorted(np.cumsum(area), place).clip(max=len(area) - 1)
    u, v = (np.arange(count)[:, None] * np.array([0.7548776662466927, 0.5698402909980532]) % 1).T
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    a, b, c = np.moveaxis(corners[triangle], 1, 0)
    points = a + u[:, None] * (b - a) + v[:, None] * (c - a)
    return points, cross[triangle] / (2 * area[triangle, None])
