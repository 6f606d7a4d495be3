"""This module steps n twins of one task in one scene together: the vector environment.

    action ─► disturbance ─► latency ─► commanded tool pose ─IK─► response ─► joint servos ─► 20 physics steps ─► Step
                                                                                                   │
    observe ◄─ side and wrist images, proprioception ◄─────────────────────────────────────────────┘

`Step.executed` is the clipped action as commanded: what a policy must answer to move the same way. Disturbance, gain,
latency and response belong to the world. A reset draws the conditions of its episode, which depend on the seed, the
slot and the number of the slot's episode alone.
"""

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from protos.errors import InputError
from protos.schema import (
    ACTION_DIM,
    CONTROL_HZ,
    F32,
    F64,
    GRIPPER_ACTION,
    Bools,
    Configuration,
    Observation,
    Schema,
    Step,
)
from twin.kinematics import Kinematics
from twin.physics import TIMESTEP_S, broken, fault_of, make, proprio_of, retire, state_of
from twin.randomize import LATENCY_PARTS, Disturbance, Domain, Draws
from twin.render.compositor import TwinRenderer
from twin.robots import UR5E, Robot
from twin.rotations import (
    TOOL_DOWN,
    about_z,
    matrix_from_vector,
    turn_between,
    upright,
    within_angle,
    within_yaw,
)
from twin.scene import Scene, synthetic_scene
from twin.tasks import TOOL, Task, TaskState, resting

LEASH_M, LEASH_RAD = 0.06, 0.35
"""The commanded pose runs at most this far ahead of the tool: on every axis, and about any axis."""
CONTROL_STEPS = round(1 / CONTROL_HZ / TIMESTEP_S)


class VectorTwin:
    """A vector twin is n twins that step together; it satisfies the actors' Environment protocol.

    Slots start at one arbitrary configuration; `reset` starts an episode.
    """

    def __init__(
        self,
        scene: Scene,
        task: Task,
        *,
        n: int,
        domain: Domain,
        seed: int,
        schema: Schema,
        threads: int = 1,
        physics: str = "mujoco",
        exact: bool = False,
    ) -> None:
        """Builds the twins. With `exact` every image is a full render, for evaluation."""
        self.n, self.task, self.domain = n, task, domain
        self.robot = scene.robot
        self._physics = make(physics, scene.robot, task, domain, n=n, threads=threads)
        self._kinematics = Kinematics(scene.robot)
        self._disturbed = [dim for dim in task.active_action_dims if dim != GRIPPER_ACTION]
        self._turns = [dim for dim in self._disturbed if dim >= 3]
        self._renderer = TwinRenderer(scene, self._physics, domain, schema, threads, exact=exact)
        self.seed(seed)
        self._latency, self._due, self._gain = np.zeros(n, int), np.zeros(n, int), np.ones((n, 1))
        self._queue = np.zeros((n, math.ceil(max(domain.latency_steps)) + 1, ACTION_DIM))
        self._parts = 1 if domain.is_prompt else LATENCY_PARTS
        self._position, self._rotation = np.zeros((n, 3)), np.zeros((n, 3, 3))
        self._opening = np.ones(n)
        self._joints = np.tile(self._kinematics.home, (n, 1))
        self._set_points, self._share = self._joints.copy(), np.ones((n, 1))
        self._steps, self._held = np.zeros(n, int), np.zeros(n, int)
        self.held_back: Bools = np.zeros(n, bool)  # the leash shortened the last step's command
        for slot in range(n):
            self.reset(slot, task.space.sample(np.random.default_rng(0)))

    def seed(self, seed: int) -> None:
        """Starts the world's random numbers (conditions, disturbance, appearance) anew."""
        self._draws = Draws(self.n, self.domain, seed)
        self._renderer.seed(seed)
        rng = np.random.default_rng(seed)
        self._disturbance = Disturbance(self.n, self.domain.disturbance, rng, channels=len(self._disturbed))

    def reset(self, slot: int, configuration: Configuration) -> None:
        """Starts an episode in one slot: bodies and tool at the configuration's poses, gripper open, all at rest."""
        if not 0 <= slot < self.n:
            raise InputError(f"slot {slot}: this environment has slots 0 to {self.n - 1}")
        x, y, z, yaw = self.task.pose(configuration, TOOL)
        joints = self._kinematics.start_joints((x, y, z), yaw)
        poses = self.task.body_poses(configuration)
        conditions = self._draws.next(slot)
        self._physics.equip(slot, conditions)
        self._physics.reset(np.array([slot]), joints, resting(self.task, poses, conditions))
        self._joints[slot] = self._set_points[slot] = joints[0]
        self._share[slot] = 1 - (1 - conditions.response) ** (1 / self._parts)
        self._position[slot], self._rotation[slot] = (x, y, z), about_z(yaw) @ TOOL_DOWN
        self._opening[slot] = 1.0
        self._queue[slot] = 0.0
        self._queue[slot, :, GRIPPER_ACTION] = 1.0
        parts = round(conditions.latency_steps * LATENCY_PARTS)
        self._latency[slot], self._due[slot] = divmod(parts, LATENCY_PARTS)
        self._gain[slot] = conditions.gain
        self._disturbance.reset(slot)
        self._renderer.start_episode(slot, conditions)
        self._steps[slot] = self._held[slot] = 0

    def observe(self) -> Observation:
        """Returns images and proprioception of every slot, in fresh arrays; NaN where the physics broke."""
        self._renderer.draw()
        proprio = proprio_of(self._physics, *self._commanded())
        proprio[broken(self._physics)] = np.nan
        return Observation(side=self._renderer.side.copy(), wrist=self._renderer.wrist.copy(), proprio=proprio)

    def fault(self, slot: int) -> str:
        """Says in one line what is wrong with a slot's physics; empty when nothing is."""
        return fault_of(self._physics, slot)

    def step(self, action: F32) -> Step:
        """Makes one control step (0.1 s) of every slot with actions (n, 7)."""
        if np.shape(action) != (self.n, ACTION_DIM) or not np.isfinite(action).all():
            raise InputError(
                f"actions of shape {np.shape(action)}: finite numbers of shape ({self.n}, {ACTION_DIM}) needed"
            )
        executed = np.clip(action, -1, 1).astype(np.float32)
        self._enqueue(executed)
        self._renderer.remember()
        for part in range(self._parts):
            if (due := self._due == part).any():
                self._move(self._queue[np.arange(self.n), self._latency], due)
            way = self._set_points + self._share * (self._joints - self._set_points)
            self._set_points = np.where(self._share < 1, way, self._joints)
            self._physics.command(self._set_points, self._opening)
            self._physics.step(CONTROL_STEPS // self._parts)
        self._steps += 1
        state = self.state()
        retire(self._physics, state)  # the state shows it: bodies are live views
        self._held = np.where(self.task.succeeded(state), self._held + 1, 0)
        success = self._held >= self.task.success_steps
        return Step(
            executed=executed,
            reward=success.astype(np.float32),
            terminated=success,
            truncated=(self._steps >= self.task.max_steps) & ~success,
            success=success.copy(),
        )

    def expert_action(self) -> F32:
        """Returns the actions (n, 7) of the task's expert, who sees the actions still under way."""
        return self.task.expert(self.state())

    def state(self) -> TaskState:
        """Returns the privileged state that success and the expert look at; a policy must not see it."""
        position, rotation = self._commanded()
        return state_of(
            self._physics,
            commanded=position,
            commanded_rotation=rotation,
            closing=self._opening < 0.5,
            told=self._queue[:, 0, GRIPPER_ACTION] <= 0,
        )

    def close(self) -> None:
        """Ends the drawing threads and the physics."""
        self._renderer.close()
        self._physics.close()

    def _commanded(self) -> tuple[F64, F64]:
        """Returns the tool positions (n, 3) and rotations (n, 3, 3) that all actions so far ask for."""
        under_way = np.arange(self._queue.shape[1]) < self._latency[:, None]
        pending = self._queue * under_way[:, :, None]
        metres, _ = self.task.action_scale
        rotation = self._rotation
        if self._turns:
            for place in reversed(range(pending.shape[1])):  # the oldest takes effect first
                rotation = self._turned(rotation, pending[:, place])
        return self._position + pending[:, :, :3].sum(1) * metres * self._gain, rotation

    def _enqueue(self, executed: F32) -> None:
        """Puts the newest action to place 0 of the queue; the one at place `latency` takes effect now."""
        self._queue[:, 1:] = self._queue[:, :-1].copy()
        self._queue[:, 0] = executed
        self._queue[:, 0, self._disturbed] = self._disturbance.applied(executed[:, self._disturbed])

    def _move(self, effective: F64, due: Bools) -> None:
        """Moves the commanded tool pose of the slots that are due, and the joint angles that it asks for."""
        metres, _ = self.task.action_scale
        box, tool = self.task.work_box, self._physics.tool_position
        # a slot whose physics blew up shows NaN until its reset; its commands stay finite
        tool = np.where(np.isfinite(tool), tool, self._position)
        wanted = self._position + effective[:, :3] * metres * self._gain
        self.held_back = np.where(due, np.abs(wanted - tool).max(axis=1) > LEASH_M, self.held_back)
        wanted = np.clip(wanted, tool - LEASH_M, tool + LEASH_M)
        wanted = np.clip(wanted, [box.x[0], box.y[0], box.z[0]], [box.x[1], box.y[1], box.z[1]])
        self._position = np.where(due[:, None], wanted, self._position)
        if self._turns:
            turned = self._leashed(self._turned(self._rotation, effective))
            self._rotation = np.where(due[:, None, None], turned, self._rotation)
        self._opening = np.where(due, np.where(effective[:, GRIPPER_ACTION] > 0, 1.0, 0.0), self._opening)
        joints = self._kinematics.inverse(self._joints, self._position, self._rotation)
        reach = self.robot.velocity_limits / CONTROL_HZ
        joints = np.clip(joints, self._joints - reach, self._joints + reach)
        self._joints = np.where(due[:, None], joints, self._joints)

    def _turned(self, rotation: F64, action: F64) -> F64:
        """Turns base_from_tcp (n, 3, 3) by actions (n, 7) about the base frame's axes, within tilt and yaw limit."""
        vector = np.zeros((self.n, 6))
        vector[:, self._turns] = action[:, self._turns] * self.task.action_scale[1] * self._gain
        return within_yaw(upright(matrix_from_vector(vector[:, 3:]) @ rotation, self.task.tilt_rad), rotation)

    def _leashed(self, rotation: F64) -> F64:
        """Limits a rotation to at most `LEASH_RAD` from the measured one."""
        measured = self._physics.tool_rotation
        measured = np.where(np.isfinite(measured), measured, self._rotation)
        ahead = turn_between(measured, rotation)
        return upright(matrix_from_vector(within_angle(ahead, LEASH_RAD)) @ measured, self.task.tilt_rad)


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Trials are the results of n episodes of a task's expert."""

    success: Bools  # (n,)
    steps: NDArray[np.int64]  # (n,) until success or the end
    cpu_s: float
    """CPU time of physics, expert and inverse kinematics, all episodes together."""

    @property
    def successes(self) -> int:
        """Number of episodes that succeeded."""
        return int(self.success.sum())


def trials(task: Task, domain: Domain, region: str, n: int, seed: int, *, robot: Robot = UR5E) -> Trials:
    """Runs n episodes of the task's expert, side by side, from starts spread evenly over the region's cells.

    Nothing is drawn: `trials(tasks.get("pick_and_place"), DOMAINS["twin"], "B", 100, seed=0).successes` takes seconds.
    """
    smallest = Schema(side_px=16, wrist_px=16)
    scene = replace(synthetic_scene(spacing_m=0.05), robot=robot)
    twin = VectorTwin(scene, task, n=n, domain=domain, seed=seed, schema=smallest)
    for slot, start in enumerate(task.space.spread(np.random.default_rng(seed), region=region, rollouts=n)):
        twin.reset(slot, start)
    success, steps = np.zeros(n, bool), np.zeros(n, int)
    begun = time.process_time()
    for _ in range(task.max_steps):
        steps += ~success
        success |= twin.step(twin.expert_action()).success
        if success.all():
            break
    twin.close()
    return Trials(success=success, steps=steps, cpu_s=time.process_time() - begun)
