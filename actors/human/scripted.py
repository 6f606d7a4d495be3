"""A scripted operator watches an episode, takes over when the policy is in trouble, and gives back when it is not.

It stands in for a person in demonstrations and tests, and every report says so. It sees what a person at the table
sees: where the objects lie beside the fingers, where the tool is and how it answers; not what the simulator will do.

    watches ── trouble ──► acts as an expert ── unstuck ──► watches …        (`actors.human.watching`)

Nothing jumps when the arm changes hands: an action moves the commanded pose on from where it is, the fingers stay as
they were told, and the arm is given back only once they have done it. What its help takes does not count towards the
task's time, as a person's does not, and in one episode it helps for no longer than twice that time.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from actors.human.watching import TakeoverSettings, Watch
from protos.schema import F32, F64, GRIPPER, TCP_POSE, TCP_POSITION, TCP_VELOCITY, WRENCH, Observation
from twin.rotations import about_z, matrix_from_vector
from twin.tasks import Task, TaskState

MOST_RETURNS = 2
"""It gives the arm back so many times in an episode; who takes it over once more keeps it."""


class ObjectPoses(Protocol):
    """Measures where the objects are."""

    def objects(self) -> Mapping[str, tuple[float, float, float, float]]:
        """Returns body name -> (x, y, z, yaw) in the base frame [m, rad]."""
        ...


class Robot(Protocol):
    """The commanded state of the arm, which an operator with a hand on it knows."""

    is_by_person: bool
    """Set before a step of one who helps."""

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


class ScriptedOperator:
    """Operates one slot; satisfies `actors.interfaces.Operator`."""

    name = "scripted"

    def __init__(self, task: Task, robot: Robot, poses: ObjectPoses, settings: TakeoverSettings) -> None:
        self._task, self._robot, self._poses, self.settings = task, robot, poses, settings
        self._rng = np.random.default_rng(settings.seed)
        self._watch = Watch(task, settings)
        self._is_watching = False
        self._taken_over_at: float | None = None
        self._helped = self._returned = 0
        self.takeovers: Counter[str] = Counter()
        """Number of takeovers by their reason."""
        self.returns = 0
        """Number of times that it gave back."""

    def override(self, slot: int, step: int, observation: Observation) -> F32 | None:
        """Returns the expert's action (7,) while it helps, None while the policy acts."""
        assert slot == 0, f"slot {slot}: a person holds one arm"
        if step == 0:
            self._begin()
        if not (self.settings.always or self._is_watching):
            return None
        state = self._state(observation)
        if not self.settings.always:
            force_n = float(np.linalg.norm(observation.proprio[0, WRENCH][:3]))
            self._watch.look(step, state, force_n, helped=self._helped)
            self._decide()
            if self._taken_over_at is None:
                return None
            self._robot.is_by_person = True
            self._helped += 1
        return self._task.expert(state)[0]

    def _begin(self) -> None:
        self._is_watching = bool(self._rng.random() < self.settings.watch)
        self._watch.begin()
        self._taken_over_at, self._helped, self._returned = None, 0, 0

    def _decide(self) -> None:
        """Takes over, or gives back."""
        if self._helped >= 2 * self._task.max_steps:
            self._taken_over_at = None
        elif self._taken_over_at is None:
            if reason := self._watch.trouble():
                self._taken_over_at = self._watch.left
                self.takeovers[reason] += 1
        elif self._returned < MOST_RETURNS and self._watch.is_unstuck(self._taken_over_at):
            self._watch.restart()
            self._taken_over_at = None
            self._returned += 1
            self.returns += 1

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
