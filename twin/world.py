"""This module moves one arm over its table in small slices of time: the physics behind a simulated controller.

It shares model, images and tasks with the vector twin but knows no actions. Latency and gain of a domain belong to
whoever drives it; everything else of the domain is here, and drawn for every `place`.
"""

import numpy as np

from protos.errors import InputError
from protos.schema import CONTROL_HZ, F64, U8, Configuration, Schema
from twin.kinematics import Kinematics
from twin.physics import TIMESTEP_S, Pose, make, retire, state_of, tool_poses
from twin.randomize import Domain, Draws
from twin.render.compositor import TwinRenderer
from twin.scene import Scene
from twin.tasks import TOOL, Task, TaskState, resting

CONTROL_STEPS = round(1 / CONTROL_HZ / TIMESTEP_S)


class ArmWorld:
    """A world is one arm, its gripper and the task's bodies. Not safe for use from several threads at once."""

    def __init__(self, scene: Scene, task: Task, domain: Domain, *, schema: Schema, seed: int = 0) -> None:
        """Builds the world; the arm starts at rest in the middle of the task's start poses with its gripper open."""
        self.task = task
        self.robot = scene.robot
        self._physics = make("mujoco", scene.robot, task, domain, n=1)
        start = task.space.others[TOOL]
        middle = [(low + high) / 2 for low, high in (start.x, start.y, start.z)]
        self._targets = Kinematics(scene.robot).start_joints(middle)
        self._opening = np.ones(1)
        first = task.space.sample(np.random.default_rng(0))
        self._physics.reset(np.zeros(1, int), self._targets, resting(task, task.body_poses(first), domain.middle))
        self._renderer = TwinRenderer(scene, self._physics, domain, schema, seed=seed)
        self._draws = Draws(1, domain, seed)
        self._owed_s, self._steps = 0.0, 0
        self._has_vanishing = type(task).retired is not Task.retired

    def place(self, configuration: Configuration) -> None:
        """Puts objects and targets to the configuration's poses, at rest; the arm stays where it is."""
        conditions = self._draws.next(0)
        self._physics.equip(0, conditions)
        poses = self.task.body_poses(configuration)
        self._physics.place(np.zeros(1, int), resting(self.task, poses, conditions))
        self._renderer.start_episode(0, conditions)

    def set_joint_targets(self, q: F64) -> None:
        """Sets the joint angles (joints,) [rad] that the servos hold from now on."""
        if np.shape(q) != (len(self.robot.links),) or not np.isfinite(q).all():
            raise InputError(f"joint targets {q}: {len(self.robot.links)} finite angles needed")
        self._targets = np.asarray(q, float)[None]
        self._physics.command(self._targets, self._opening)

    def set_gripper(self, opening: float) -> None:
        """Sets the gripper from 0 closed to 1 open; the fingers follow with limited force."""
        if not 0 <= opening <= 1:
            raise InputError(f"gripper opening {opening}: 0 (closed) to 1 (open)")
        self._opening = np.array([float(opening)])
        self._physics.command(self._targets, self._opening)

    def advance(self, seconds: float) -> None:
        """Lets time pass in whole physics steps of 5 ms; the remainder is carried over to the next call."""
        self._owed_s += seconds
        steps = int(self._owed_s / TIMESTEP_S + 1e-6)
        if steps > 0:
            if (self._steps + steps) // CONTROL_STEPS > self._steps // CONTROL_STEPS:
                self._renderer.remember()
            self._physics.step(steps)
            self._steps += steps
            if self._has_vanishing:
                retire(self._physics, self._state())
            self._owed_s -= steps * TIMESTEP_S

    @property
    def joints(self) -> F64:
        """Measured joint angles (joints,) [rad]."""
        return self._physics.joints[0]

    @property
    def joint_velocities(self) -> F64:
        """Measured joint velocities (joints,) [rad/s]."""
        return self._physics.joint_velocities[0]

    @property
    def tcp_pose(self) -> F64:
        """Position [m] and rotation vector [rad] (6,), base frame; the vector is `tool_vector`."""
        return tool_poses(self._physics)[0]

    @property
    def tcp_velocity(self) -> F64:
        """Velocity (6,) m/s and rad/s, base frame."""
        return self._physics.tool_velocity[0].astype(float)

    @property
    def wrench(self) -> F64:
        """Wrench (6,) N and Nm of the world on the tool, at the TCP, base frame."""
        return self._physics.wrench[0].astype(float)

    @property
    def opening(self) -> float:
        """Measured opening of the gripper, 0..1."""
        return float(self._physics.opening[0])

    def object_pose(self, name: str) -> Pose:
        """Returns x, y, z, yaw of a task body."""
        if name not in self.task.bodies:
            raise InputError(f"body {name!r}: choose one of {', '.join(self.task.bodies)}")
        return self._physics.body_pose(0, name)

    def success(self) -> bool:
        """Tells whether the task is done at this moment; it counts after `success_steps` control steps in a row."""
        return bool(self.task.succeeded(self._state())[0])

    def render(self) -> tuple[U8, U8]:
        """Returns the side and the wrist image, (px, px, 3) each."""
        self._renderer.draw()
        return self._renderer.side[0].copy(), self._renderer.wrist[0].copy()

    def _state(self) -> TaskState:
        physics = self._physics
        return state_of(
            physics,
            commanded=physics.tool_position,
            commanded_rotation=physics.tool_rotation,
            closing=self._opening < 0.5,
            told=self._opening < 0.5,
        )
