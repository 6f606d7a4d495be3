"""This module steps n arms with their tables in MuJoCo, on the CPU.

Outputs (tool pose, body poses, wrench) describe the state after the last `step` or `place`; MuJoCo leaves them stale
after writes to the state, so every change here ends with a forward pass over positions.
"""

from collections.abc import Mapping

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from protos.schema import F64
from twin.physics.interface import Physics, build_model
from twin.randomize import Conditions, Domain
from twin.robots import FINGERS, Robot
from twin.rotations import about_z, quaternion_from_matrix
from twin.tasks import Task

_POS, _NONE = int(mujoco.mjtStage.mjSTAGE_POS.value), int(mujoco.mjtStage.mjSTAGE_NONE.value)
_GRAVITY = 9.81


class MujocoPhysics(Physics):
    """One MuJoCo batch holds the n worlds; its arrays are bound once and read as live views."""

    def __init__(self, robot: Robot, task: Task, domain: Domain, n: int, threads: int = 1) -> None:
        super().__init__(robot, task, domain, n)
        self._batch = Batch(self.model, n, threads)
        self._models = [self.model] * n
        bind = self._batch.bind
        self._qpos, self._qvel, self._ctrl = bind("qpos"), bind("qvel"), bind("ctrl")
        self._mocap_pos, self._mocap_quat = bind("mocap_pos"), bind("mocap_quat")
        self.body_positions, self.body_rotations = bind("xpos"), bind("xmat")
        self._site, self._site_rotation, self._sensors = bind("site_xpos"), bind("site_xmat"), bind("sensordata")
        self._arm = np.array([self.model.joint(name).qposadr[0] for name in robot.joints])
        self._arm_rates = np.array([self.model.joint(name).dofadr[0] for name in robot.joints])
        self._fingers = np.array([self.model.joint(name).qposadr[0] for name in FINGERS])
        self._centre = robot.gripper.com_from_tcp_m
        self._weight_n = robot.gripper.mass_kg * _GRAVITY

    def equip(self, slot: int, conditions: Conditions) -> None:
        """Compiles a model of the slot's own."""
        if not self._varies:
            return
        self._models[slot] = build_model(self.robot, self.task, conditions)
        self._batch.set_models(self._models)
        self._note_sizes(slot, conditions)

    def place(self, slots: NDArray[np.intp], poses: Mapping[str, F64]) -> None:
        """Puts bodies, at rest, to their poses: free ones by their joint, fixed ones by their mocap body."""
        for name, pose in poses.items():
            quaternion = quaternion_from_matrix(about_z(pose[:, 3]))
            if name in self.task.free_bodies:
                joint = self.model.joint(name)
                position, velocity = int(joint.qposadr[0]), int(joint.dofadr[0])
                self._qpos[slots, position : position + 3] = pose[:, :3]
                self._qpos[slots, position + 3 : position + 7] = quaternion
                self._qvel[slots, velocity : velocity + 6] = 0
            else:
                mocap = int(self.model.body(name).mocapid[0])
                self._mocap_pos[slots, mocap] = pose[:, :3]
                self._mocap_quat[slots, mocap] = quaternion
        self._batch.forward(np.asarray(slots, np.int32), stage=_POS)

    def reset(self, slots: NDArray[np.intp], joints: F64, poses: Mapping[str, F64]) -> None:
        """Starts anew; the set points become the same, so the arm stays where it is until the next `command`."""
        self._batch.reset(np.asarray(slots, np.int32), stage=_NONE)
        self._qpos[np.ix_(slots, self._arm)] = joints
        self._qpos[np.ix_(slots, self._fingers)] = self.robot.gripper.travel_m
        self._ctrl[slots, : len(self._arm)] = joints
        self._ctrl[slots, len(self._arm) :] = self.robot.gripper.travel_m
        self.place(slots, poses)

    def command(self, joints: F64, opening: NDArray[np.floating]) -> None:
        """Writes the servos' set points."""
        self._ctrl[:, : len(self._arm)] = joints
        self._ctrl[:, len(self._arm) :] = np.minimum(np.maximum(opening, 0), 1)[:, None] * self.robot.gripper.travel_m

    def step(self, steps: int) -> None:
        """Makes `steps` physics steps in every slot."""
        self._batch.step(nstep=steps, stage=_POS)

    @property
    def joints(self) -> F64:
        return self._qpos[:, self._arm]

    @property
    def joint_velocities(self) -> F64:
        return self._qvel[:, self._arm_rates]

    @property
    def tool_position(self) -> F64:
        return self._site[:, 0]

    @property
    def tool_rotation(self) -> F64:
        return self._site_rotation[:, 0].reshape(self.n, 3, 3)

    @property
    def opening(self) -> F64:
        return np.clip(self._qpos[:, self._fingers].sum(1) / self.robot.gripper.stroke_m, 0, 1)

    @property
    def wrench(self) -> F64:
        """Wrench (n, 6): what the flange's force and torque sensors and the gripper's weight leave for the world."""
        R = self.tool_rotation
        held_by_flange = R @ self._sensors.reshape(self.n, 2, 3).transpose(0, 2, 1)  # (n, 3, force and torque)
        x, y, _ = (R @ self._centre).T
        # forces on the gripper cancel: flange + weight + world = 0; the weight's moment is centre x weight
        world = -np.concatenate([held_by_flange[:, :, 0], held_by_flange[:, :, 1]], 1)
        world[:, 2] += self._weight_n
        world[:, 3] += self._weight_n * y
        world[:, 4] -= self._weight_n * x
        return np.where(self._sensors.any(1, keepdims=True), world, 0.0)

    def close(self) -> None:
        """Does nothing: MuJoCo's memory goes with the object."""
