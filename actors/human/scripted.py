"""A scripted operator watches an episode, takes over when it stalls, and finishes it as an expert would.

It stands in for a person in demonstrations and tests, and every report says so. It sees what a person at the table
sees: where the objects lie and where the tool is and goes. A takeover lasts until the episode ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from protos.errors import InputError
from protos.schema import F32, F64, GRIPPER, TCP_POSE, TCP_POSITION, TCP_VELOCITY, Observation
from twin.rotations import about_z, matrix_from_vector
from twin.tasks import Task, TaskState


class ObjectPoses(Protocol):
    """Measures where the objects are."""

    def objects(self) -> Mapping[str, tuple[float, float, float, float]]:
        """Returns body name -> (x, y, z, yaw) in the base frame [m, rad]."""
        ...


class Robot(Protocol):
    """The commanded state of the arm, which an operator with a hand on it knows."""

    @property
    def commanded(self) -> F64:
        """Commanded TCP position (3,), base frame [m]."""
        ...

    @property
    def commanded_rotation(self) -> F64:
        """Commanded base_from_tcp (3, 3)."""
        ...

    @property
    def is_closing(self) -> bool:
        """True while the gripper is commanded to close."""
        ...


@dataclass(frozen=True, kw_only=True)
class TakeoverSettings:
    """Conditions under which the scripted operator acts."""

    always: bool = False
    """True for a demonstrator, who acts in every step."""
    watch: float = 1.0
    """Probability that it watches an episode at all."""
    takeover_at: float = 0.45
    """Share of the longest episode after which an unfinished one is taken over."""
    stall_steps: int = 15
    """Control steps without progress after which the episode is taken over earlier."""
    progress_m: float = 0.01
    """Least progress: tool to object, and object to target, together this much nearer than ever before."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("watch", "takeover_at"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: a share from 0 to 1")
        if self.stall_steps < 1:
            raise InputError(f"stall_steps={self.stall_steps}: at least 1 control step")


class ScriptedOperator:
    """Operates one slot; satisfies `actors.interfaces.Operator`."""

    name = "scripted"

    def __init__(self, task: Task, robot: Robot, poses: ObjectPoses, settings: TakeoverSettings) -> None:
        self._task, self._robot, self._poses, self.settings = task, robot, poses, settings
        self._rng = np.random.default_rng(settings.seed)
        self._acts = self._watches = False
        self._nearest = np.inf
        self._progressed_at = 0

    def override(self, slot: int, step: int, observation: Observation) -> F32 | None:
        """Returns the expert's action (7,) once the episode is taken over, None before."""
        assert slot == 0, f"slot {slot}: a person holds one arm"
        if step == 0:
            self._begin()
        if not (self._acts or self._watches):
            return None
        state = self._state(observation)
        self._acts = self._acts or self._stalls(step, state)
        return self._task.expert(state)[0] if self._acts else None

    def _begin(self) -> None:
        self._acts = self.settings.always
        self._watches = bool(self._rng.random() < self.settings.watch)
        self._nearest, self._progressed_at = np.inf, 0

    def _stalls(self, step: int, state: TaskState) -> bool:
        """Returns True when time is getting short, or tool and objects have made no progress for a while."""
        thing = state.bodies[self._task.space.manipulated]
        ways = [np.linalg.norm(state.tool - thing)]
        # a mark that has vanished is progress: one way less
        ways += [np.linalg.norm(thing - state.bodies[name]) for name in self._task.fixed_bodies if state.has(name)[0]]
        if (left := float(sum(ways))) < self._nearest - self.settings.progress_m:
            self._nearest, self._progressed_at = left, step
        is_late = step >= self.settings.takeover_at * self._task.max_steps
        return is_late or step - self._progressed_at >= self.settings.stall_steps

    def _state(self, observation: Observation) -> TaskState:
        proprio, seen = observation.proprio.astype(float), self._poses.objects()
        return TaskState(
            tool=proprio[:, TCP_POSITION],
            tool_rotation=matrix_from_vector(proprio[:, TCP_POSE][:, 3:]),
            tool_velocity=proprio[:, TCP_VELOCITY][:, :3],
            commanded=self._robot.commanded[None],
            commanded_rotation=self._robot.commanded_rotation[None],
            opening=proprio[:, GRIPPER],
            closing=np.array([self._robot.is_closing]),
            told_to_close=np.array([self._robot.is_closing]),
            bodies={name: np.array([pose[:3]]) for name, pose in seen.items()},
            rotations={name: about_z(pose[3])[None] for name, pose in seen.items()},
        )
