"""This module says what a twin needs of a physics engine, and builds the model that every engine starts from.

    reset(slots, joints, poses) ─► command(joints, opening) ─► step(20) ─► joints, tool_*, wrench, body_*
                                        ▲                                          │
                                        └──────────── every control step ──────────┘

* Slot i is one world; slots never touch each other.
* Everything is in the base frame, in metres, radians, newtons; quaternions are wxyz.
* Outputs describe the state after the last `reset`, `place` or `step`. `command` changes none of them. What is marked
  as a live view changes with the next of these calls: copy what must outlive it.
* A slot whose state is not finite shows NaN in its own outputs until its `reset`; the others are not affected.
* The same calls in the same order give the same numbers, whatever the number of threads.
* Not safe for use from several threads at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import mujoco
import numpy as np
from numpy.typing import NDArray

from protos.schema import F64
from twin.kinematics import Kinematics
from twin.randomize import OF_MODEL, Conditions, Domain
from twin.robots import FINGERS, Robot
from twin.robots.mjcf import robot_mjcf, servos_mjcf
from twin.rotations import matrix_from_quaternion, yaw_of
from twin.tasks import Task

Pose = tuple[float, float, float, float]
"""x, y, z [m] and yaw [rad] of a body."""
TIMESTEP_S = 0.005


def build_model(robot: Robot, task: Task, conditions: Conditions) -> mujoco.MjModel:
    """Compiles arm, gripper, table and a task's bodies; the table top is z = 0, the robot stands where it is mounted.

    Euler integration is a choice, not a default: with the implicit integrator a held object creeps 4 mm per control
    step between the fingers of an arm with stiff position servos, with Euler 0.3 mm.
    """
    left, right = FINGERS
    spec = mujoco.MjSpec.from_string(
        f"""<mujoco><compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP_S}" integrator="Euler" cone="elliptic" impratio="5" iterations="20">
    <flag autoreset="disable"/></option>
  <asset>{task.assets(conditions)}</asset>
  <worldbody>
    <geom name="table" type="box" size=".45 .55 .05" pos="-.35 0 -.05" friction=".6 .005 .0001"/>
    {task.mjcf(conditions)}
    {robot_mjcf(robot, conditions.friction)}
  </worldbody>
  <contact><exclude body1="{left}" body2="{right}"/></contact>
  <actuator>{servos_mjcf(robot, conditions.servo_stiffness)}</actuator>
  <sensor><force name="force" site="tcp"/><torque name="torque" site="tcp"/></sensor>
</mujoco>"""
    )
    for name in task.bodies:
        scale = conditions.scale(free=name in task.free_bodies)
        if (scale != 1).any():
            _resize(spec, name, scale)
    return spec.compile()


def _resize(spec: mujoco.MjSpec, body: str, scale: F64) -> None:
    """Scales the geoms of a body by (3,) along its axes, in place; `scale` is the same along x and y.

    Every geom stays of its kind: where it leans and the scales differ, its sizes are those along its own axes.
    """
    meshes = set()
    for geom in spec.body(body).geoms:
        geom.pos = geom.pos * scale
        if geom.type == mujoco.mjtGeom.mjGEOM_MESH:
            meshes.add(geom.meshname)
        elif np.isfinite(geom.fromto[0]):
            _resize_between(geom, scale)
        else:
            along = np.linalg.norm(scale[:, None] * matrix_from_quaternion(geom.quat), axis=0)
            geom.size = _sizes(geom.type, geom.size, along)
    for name in meshes:
        mesh = spec.mesh(name)
        mesh.scale = mesh.scale * scale


def _sizes(kind: mujoco.mjtGeom, size: F64, along: F64) -> F64:
    """Returns a geom's sizes (3,) scaled by (3,) along its own axes; a capsule's length is from tip to tip."""
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return size * along[[0, 2, 2]]
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        radius = size[0] * along[0]
        return np.array([radius, (size[0] + size[1]) * along[2] - radius, 0.0])
    return size * along


def _resize_between(geom: mujoco.MjsGeom, scale: F64) -> None:
    """Scales a capsule or a cylinder that is given by the ends of its axis."""
    ends = geom.fromto.reshape(2, 3)
    way = ends[1] - ends[0]
    length = np.linalg.norm(way)
    along = np.array([scale[0], scale[0], np.linalg.norm(scale * way) / length])
    radius, half, _ = _sizes(geom.type, np.array([geom.size[0], length / 2, 0.0]), along)
    axis = scale * way / np.linalg.norm(scale * way)
    middle = scale * ends.mean(0)
    geom.fromto = np.concatenate([middle - half * axis, middle + half * axis])
    geom.size = np.array([radius, 0.0, 0.0])


class Physics(ABC):
    """n worlds of one robot and one task are stepped together; `joints` counts the arm's joints."""

    body_positions: F64
    """(n, bodies, 3) m, in the model's order; a live view."""
    body_rotations: F64
    """base_from_body (n, bodies, 9), row by row, in the model's order; a live view."""

    def __init__(self, robot: Robot, task: Task, domain: Domain, n: int) -> None:
        self.n, self.robot, self.task = n, robot, task
        self._varies = domain.varies(*OF_MODEL)
        self.model = build_model(robot, task, domain.middle)
        """Bodies, their order and their shapes in the middle of the domain, whatever engine moves them."""
        self.scales: F64 = np.ones((n, self.model.nbody, 3))
        """Size of every slot's bodies over that in the task, along the body's axes."""
        self._kinematics = Kinematics(robot)
        for slot in range(n):
            self._note_sizes(slot, domain.middle)

    @abstractmethod
    def equip(self, slot: int, conditions: Conditions) -> None:
        """Gives one slot the conditions of its next episode; a `reset` or `place` of its bodies must follow.

        Of those that are the same in every episode of the domain nothing is done.
        """

    def _note_sizes(self, slot: int, conditions: Conditions) -> None:
        for name in self.task.bodies:
            self.scales[slot, self.model.body(name).id] = conditions.scale(free=name in self.task.free_bodies)

    @abstractmethod
    def reset(self, slots: NDArray[np.intp], joints: F64, poses: Mapping[str, F64]) -> None:
        """Starts anew: the arm at rest at joints (len(slots), joints), the gripper open, every body at its pose.

        `poses` maps names to (len(slots), 4) x, y, z, yaw.
        """

    @abstractmethod
    def place(self, slots: NDArray[np.intp], poses: Mapping[str, F64]) -> None:
        """Puts bodies, at rest, to poses name -> (len(slots), 4) x, y, z, yaw; everything else stays."""

    @abstractmethod
    def command(self, joints: F64, opening: NDArray[np.floating]) -> None:
        """Sets all slots' set points until the next call: joints (n, joints) [rad], gripper opening (n,) 0..1."""

    @abstractmethod
    def step(self, steps: int) -> None:
        """Makes `steps` physics steps of `TIMESTEP_S` in every slot."""

    @property
    @abstractmethod
    def joints(self) -> F64:
        """Measured joint angles (n, joints) [rad]."""

    @property
    @abstractmethod
    def joint_velocities(self) -> F64:
        """Measured joint velocities (n, joints) [rad/s]."""

    @property
    @abstractmethod
    def tool_position(self) -> F64:
        """Position of the TCP (n, 3) [m], a live view."""

    @property
    @abstractmethod
    def tool_rotation(self) -> F64:
        """Rotation base_from_tcp (n, 3, 3), a live view."""

    @property
    def tool_velocity(self) -> F64:
        """Velocity (n, 6) m/s and rad/s, from the joint velocities and the Jacobian."""
        return self._kinematics.tool_velocity(self.joints, self.joint_velocities)

    @property
    @abstractmethod
    def opening(self) -> F64:
        """Measured opening of the gripper (n,), 0 closed .. 1 open."""

    @property
    @abstractmethod
    def wrench(self) -> F64:
        """Force [N] and torque [Nm] of the world on the tool (n, 6), at the TCP, in the base frame.

        The gripper's own weight is taken out, as the controller of an arm does with its payload setting; its inertia
        is not. The value is that of the last physics step, zero right after a reset.
        """

    def body_position(self, name: str) -> F64:
        """Returns a body's position (n, 3) [m], a live view."""
        return self.body_positions[:, self.model.body(name).id]

    def body_rotation(self, name: str) -> F64:
        """Returns base_from_body (n, 3, 3), a live view."""
        return self.body_rotations[:, self.model.body(name).id].reshape(self.n, 3, 3)

    def body_pose(self, slot: int, name: str) -> Pose:
        """Returns x, y, z, yaw of one body."""
        x, y, z = (float(value) for value in self.body_position(name)[slot])
        return x, y, z, float(yaw_of(self.body_rotation(name)[slot]))

    @abstractmethod
    def close(self) -> None:
        """Gives back what the engine holds; nothing else may be called afterwards."""
