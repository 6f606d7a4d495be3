"""This module writes bodies of a compiled MuJoCo model as URDF: links, joints, inertias, colliding shapes.

    MjModel ─ a body and everything below it ─► name.urdf + one .obj per mesh

Frames, masses and joint ranges are the model's. Servos, friction and what is only drawn have no place in URDF.
"""

import xml.etree.ElementTree as ET
from pathlib import Path

import mujoco
import numpy as np

from protos.errors import InputError
from protos.schema import F64
from twin.robots.mjcf import numbers
from twin.rotations import matrix_from_quaternion

_GEOM = mujoco.mjtGeom
_MASSLESS_KG, _MASSLESS_INERTIA = 1e-3, 1e-6
"""Given to links without mass: engines with maximal coordinates cannot have any."""


def subtree(model: mujoco.MjModel, root: str) -> list[int]:
    """Returns the ids of a body that stands on the world and of all below it, parents first."""
    return [body for body in range(1, model.nbody) if model.body_rootid[body] == model.body(root).id]


def colliding_geoms(model: mujoco.MjModel, body: int) -> list[int]:
    """Returns the geoms of one body that can touch something."""
    geoms = range(model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body])
    return [geom for geom in geoms if model.geom_contype[geom] or model.geom_conaffinity[geom]]


def write_urdf(model: mujoco.MjModel, root: str, folder: Path) -> Path:
    """Writes root.urdf, with its meshes beside it, for a body that stands on the world; returns its path."""
    robot = ET.Element("robot", name=root)
    for body in subtree(model, root):
        robot.append(_link(model, body, folder))
        if model.body(body).name != root:
            robot.append(_joint(model, body))
    path = folder / f"{root}.urdf"
    ET.ElementTree(robot).write(path, encoding="utf-8", xml_declaration=True)
    return path


def _link(model: mujoco.MjModel, body: int, folder: Path) -> ET.Element:
    link = ET.Element("link", name=model.body(body).name)
    inertial = ET.SubElement(link, "inertial")
    mass, moments = float(model.body_mass[body]), model.body_inertia[body]
    if mass == 0:
        mass, moments = _MASSLESS_KG, np.full(3, _MASSLESS_INERTIA)
    _origin(inertial, model.body_ipos[body], matrix_from_quaternion(model.body_iquat[body]))
    ET.SubElement(inertial, "mass", value=f"{mass:.9g}")
    axes = {"ixx": moments[0], "iyy": moments[1], "izz": moments[2], "ixy": 0, "ixz": 0, "iyz": 0}
    ET.SubElement(inertial, "inertia", {name: f"{value:.9g}" for name, value in axes.items()})
    for geom in colliding_geoms(model, body):
        _collision(link, model, geom, folder)
    return link


def _joint(model: mujoco.MjModel, body: int) -> ET.Element:
    index = int(model.body_jntadr[body])
    kind, name = "fixed", f"{model.body(body).name}_fixed"
    if index >= 0:
        kind = "revolute" if model.jnt_type[index] == mujoco.mjtJoint.mjJNT_HINGE else "prismatic"
        name = model.joint(index).name
    joint = ET.Element("joint", name=name, type=kind)
    ET.SubElement(joint, "parent", link=model.body(model.body_parentid[body]).name)
    ET.SubElement(joint, "child", link=model.body(body).name)
    _origin(joint, model.body_pos[body], matrix_from_quaternion(model.body_quat[body]))
    if index >= 0:
        low, high = model.jnt_range[index]
        effort = float(model.actuator(name).forcerange[1])
        ET.SubElement(joint, "axis", xyz=numbers(*model.jnt_axis[index]))
        ET.SubElement(joint, "limit", lower=f"{low:.9g}", upper=f"{high:.9g}", effort=f"{effort:.9g}", velocity="100")
    return joint


def _collision(link: ET.Element, model: mujoco.MjModel, geom: int, folder: Path) -> None:
    """Adds one `collision`, or three for a capsule: URDF knows cylinders and spheres."""
    size, place = model.geom_size[geom], model.geom_pos[geom]
    turn = matrix_from_quaternion(model.geom_quat[geom])
    match model.geom_type[geom]:
        case _GEOM.mjGEOM_BOX:
            _shape(link, place, turn, "box", size=numbers(*(2 * size)))
        case _GEOM.mjGEOM_SPHERE:
            _shape(link, place, turn, "sphere", radius=f"{size[0]:.9g}")
        case _GEOM.mjGEOM_CYLINDER:
            _shape(link, place, turn, "cylinder", radius=f"{size[0]:.9g}", length=f"{2 * size[1]:.9g}")
        case _GEOM.mjGEOM_CAPSULE:
            _shape(link, place, turn, "cylinder", radius=f"{size[0]:.9g}", length=f"{2 * size[1]:.9g}")
            for end in (-size[1], size[1]):
                _shape(link, place + end * turn[:, 2], turn, "sphere", radius=f"{size[0]:.9g}")
        case _GEOM.mjGEOM_MESH:
            _shape(link, place, turn, "mesh", filename=_write_mesh(model, int(model.geom_dataid[geom]), folder))
        case other:
            raise InputError(
                f"a geom of body {link.get('name')!r} is a {_GEOM(other).name}: URDF has boxes, spheres, cylinders, "
                "capsules and meshes"
            )


def _shape(link: ET.Element, position: F64, rotation: F64, kind: str, **attributes: str) -> None:
    collision = ET.SubElement(link, "collision")
    _origin(collision, position, rotation)
    ET.SubElement(ET.SubElement(collision, "geometry"), kind, attributes)


def _write_mesh(model: mujoco.MjModel, mesh: int, folder: Path) -> str:
    """Writes an .obj file and returns its name; MuJoCo moved the vertices into the mesh's inertial frame."""
    first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
    face, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    lines = [f"v {numbers(*vertex)}" for vertex in model.mesh_vert[first : first + count].astype(float)]
    lines += [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in model.mesh_face[face : face + faces]]
    name = f"{model.mesh(mesh).name}.obj"
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def _origin(parent: ET.Element, position: F64, rotation: F64) -> None:
    """Adds position and fixed-axis angles of URDF: rotation = Rz(yaw) Ry(pitch) Rx(roll)."""
    pitch = np.arctan2(-rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0]))
    if np.hypot(rotation[0, 0], rotation[1, 0]) > 1e-9:
        roll, yaw = np.arctan2(rotation[2, 1], rotation[2, 2]), np.arctan2(rotation[1, 0], rotation[0, 0])
    else:  # looking along z: only the sum or the difference of roll and yaw counts
        roll, yaw = 0.0, np.arctan2(-rotation[0, 1], rotation[1, 1])
    ET.SubElement(parent, "origin", xyz=numbers(*position), rpy=numbers(roll, pitch, yaw))
