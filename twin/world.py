"""This module moves one arm over its table in small slices of time: the physics behind a simulated controller.

It shares model, images and tasks with the vector twin but knows no actions. Latency and gain of a lab belong to
whoever drives it; everything else of the lab is here, and what varies is drawn for every `place`. Positions are the
scene's; `object_pose` alone is in the arm's own coordinates, which a lab's calibration puts elsewhere.
"""

import math

import numpy as np

from protos.errors import InputError
from protos.schema import CONTROL_HZ, F64, U8, Configuration, Schema
from twin.kinematics import Kinematics
from twin.labs import Calibration, Lab
from twin.physics import TIMESTEP_S, Pose, make, retire, state_of, tool_poses
from twin.randomize import Conditions, Draws
from twin.render.compositor import TwinRenderer
from twin.rotations import yaw_of
from twin.scene import Scene
from twin.tasks import TOOL, Task, TaskState, resting

SLICE_STEPS = 4
"""Late images are as old as a whole number of slices of so many physics steps."""
SLICE_S = SLICE_STEPS * TIMESTEP_S
_CAMERAS = 2
"""Last word of the seeds of the cameras' jitter."""


class ArmWorld:
    """A world is one arm, its gripper and the task's bodies. Not safe for use from several threads at once."""

    def __init__(self, scene: Scene, task: Task, lab: Lab, *, schema: Schema, seed: int = 0) -> None:
        """Builds the world of a scanned scene as it is in a lab.

        The arm starts at rest in the middle of the task's start poses with its gripper open.
        """
        self.task, self._lab, domain = task, lab, lab.domain
        self._thought = Kinematics(scene.robot) if lab.calibration != Calibration() else None
        scene = lab.workspace(scene)
        self.robot = scene.robot
        self._physics = make("mujoco", scene.robot, task, domain, n=1)
        start = task.space.others[TOOL]
        middle = [(low + high) / 2 for low, high in (start.x, start.y, start.z)]
        self._targets = Kinematics(scene.robot).start_joints(middle)
        self._opening = self._wanted_opening = np.ones(1)
        first = task.space.sample(np.random.default_rng(0))
        self._physics.reset(np.zeros(1, int), self._targets, resting(task, task.body_poses(first), domain.middle))
        self._memory = math.ceil(self._camera_delay_s(max(domain.camera_delay_steps), 2.5) / SLICE_S)
        self._renderer = TwinRenderer(scene, self._physics, domain, schema, seed=seed, memory=self._memory)
        self._draws, self._seed, self._episode = Draws(1, domain, seed), seed, 0
        self._start_cameras(domain.middle)
        self._owed_s, self._steps = 0.0, 0
        self._has_vanishing = type(task).retired is not Task.retired

    def place(self, configuration: Configuration) -> None:
        """Puts objects and targets to the configuration's poses, at rest; the arm stays where it is."""
        conditions = self._draws.next(0)
        self._physics.equip(0, conditions)
        poses = self.task.body_poses(configuration)
        self._physics.place(np.zeros(1, int), resting(self.task, poses, conditions))
        self._episode += 1
        self._start_cameras(conditions)

    def set_joint_targets(self, q: F64) -> None:
        """Sets the joint angles (joints,) [rad] that the servos hold from now on."""
        if np.shape(q) != (len(self.robot.links),) or not np.isfinite(q).all():
            raise InputError(f"joint targets {q}: {len(self.robot.links)} finite angles needed")
        self._targets = np.asarray(q, float)[None]
        self._physics.command(self._targets, self._opening)

    def set_gripper(self, opening: float) -> None:
        """Sets the gripper from 0 closed to 1 open; the fingers follow with limited force, and the lab's speed."""
        if not 0 <= opening <= 1:
            raise InputError(f"gripper opening {opening}: 0 (closed) to 1 (open)")
        self._wanted_opening = np.array([float(opening)])
        if self._lab.drive.gripper_speed is None:
            self._opening = self._wanted_opening
        self._physics.command(self._targets, self._opening)

    def advance(self, seconds: float) -> None:
        """Lets time pass in whole physics steps of 5 ms; the remainder is carried over to the next call."""
        self._owed_s += seconds
        steps = int(self._owed_s / TIMESTEP_S + 1e-6)
        if steps > 0:
            self._move_fingers(steps * TIMESTEP_S)
            self._step(steps)
            if self._has_vanishing:
                retire(self._physics, self._state())
            self._owed_s -= steps * TIMESTEP_S

    def _step(self, steps: int) -> None:
        """Makes physics steps, and remembers where everything is at the beginning of every slice."""
        while steps > 0 and self._memory > 0:
            if self._steps % SLICE_STEPS == 0:
                self._renderer.remember()
            some = min(steps, SLICE_STEPS - self._steps % SLICE_STEPS)
            self._physics.step(some)
            self._steps, steps = self._steps + some, steps - some
        if steps > 0:
            self._physics.step(steps)

    def _move_fingers(self, seconds: float) -> None:
        if (speed := self._lab.drive.gripper_speed) is not None:
            way = np.clip(self._wanted_opening - self._opening, -speed * seconds, speed * seconds)
            self._opening = self._opening + way
            self._physics.command(self._targets, self._opening)

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
        """Returns x, y, z, yaw of a task body in the coordinates of the arm's controller.

        That is where a person sees it beside the fingers: what the controller says of its tool counts, not where the
        tool is.
        """
        if name not in self.task.bodies:
            raise InputError(f"body {name!r}: choose one of {', '.join(self.task.bodies)}")
        physics = self._physics
        if self._thought is None:
            return physics.body_pose(0, name)
        position, rotation = self._thought.forward(physics.joints)
        turn = rotation[0] @ physics.tool_rotation[0].T
        x, y, z = position[0] + turn @ (physics.body_position(name)[0] - physics.tool_position[0])
        return float(x), float(y), float(z), float(yaw_of(turn @ physics.body_rotation(name)[0]))

    def success(self) -> bool:
        """Tells whether the task is done at this moment; it counts after `success_steps` control steps in a row."""
        return bool(self.task.succeeded(self._state())[0])

    def render(self) -> tuple[U8, U8]:
        """Returns the side and the wrist image, (px, px, 3) each, as late as the lab's cameras are."""
        if self._memory > 0:
            sigma = float(np.clip(self._jitter.normal(), -2.5, 2.5))
            delay_s = self._camera_delay_s(self._conditions.camera_delay_steps, sigma)
            self._renderer.late(0, min(max(round(delay_s / SLICE_S), 0), self._memory))
        self._renderer.draw()
        return self._renderer.side[0].copy(), self._renderer.wrist[0].copy()

    def _state(self) -> TaskState:
        physics = self._physics
        return state_of(
            physics,
            commanded=physics.tool_position,
            commanded_rotation=physics.tool_rotation,
            closing=self._wanted_opening < 0.5,
            told=self._wanted_opening < 0.5,
        )

    def _camera_delay_s(self, steps: int, sigma: float) -> float:
        drive = self._lab.drive
        return steps / CONTROL_HZ + drive.camera_delay_s + sigma * drive.camera_jitter_s

    def _start_cameras(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._jitter = np.random.default_rng((self._seed, self._episode, _CAMERAS))
        self._renderer.start_episode(0, conditions)
