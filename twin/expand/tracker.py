"""This module drives the tool along a plan, one action per control step, from where the commands have brought it.

    plan ──pose k + 1──► action = what is missing from the commanded pose, clipped to 1
      ▲                                                          │
      └── k + 1 when the command is within a step of pose k ◄────┘

The tracker looks at the commanded pose, actions under way included, as the scripted expert does: a disturbance that
pushes the tool off its path is corrected by the very next action, and that correction is what gets recorded. A grasp
or a release waits until the measured tool is there.
"""

import numpy as np

from protos.schema import ACTION_DIM, F32, GRIPPER_ACTION
from twin.expand.expander import Plan
from twin.expand.path import angle_between
from twin.rotations import turn_between
from twin.tasks import Task, TaskState

ARRIVED_M, ARRIVED_RAD = 0.006, 0.06
"""The tool counts as there when the gripper is to act."""
WAIT_STEPS = 8
"""Timeout in control steps of the wait for the tool before the gripper acts."""
OPEN, CLOSE = 1.0, -1.0


class Tracker:
    """A tracker follows one plan in one slot."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self.plan, self._at, self._waited = plan, 0, 0
        self._metres, self._radians = task.action_scale

    def action(self, state: TaskState, slot: int) -> F32:
        """Returns the next action (7,)."""
        path = self.plan.path
        target = self._advance(state, slot)
        action = np.zeros(ACTION_DIM, np.float32)
        action[:3] = np.clip((path.positions[target] - state.commanded[slot]) / self._metres, -1, 1)
        if self._radians > 0:
            missing = turn_between(state.commanded_rotation[slot], path.rotations[target])
            action[3:6] = np.clip(missing / self._radians, -1, 1)
        action[GRIPPER_ACTION] = CLOSE if path.closed[target] else OPEN
        return action

    @property
    def is_done(self) -> bool:
        """True once the plan's last pose has been asked for."""
        return self._at == len(self.plan.path) - 1

    def _advance(self, state: TaskState, slot: int) -> int:
        """Returns the number of the pose to ask for now."""
        path, at = self.plan.path, self._at
        behind = np.abs(path.positions[at] - state.commanded[slot]).max() > self._metres
        if self._radians > 0:
            turn = angle_between(path.rotations[at], state.commanded_rotation[slot])
            behind = behind or bool(turn > self._radians)
        if at + 1 < len(path) and not behind and not self._waits(state, slot):
            self._at, self._waited = at + 1, 0
        return self._at

    def _waits(self, state: TaskState, slot: int) -> bool:
        """Tells whether the gripper is to act at the next pose and the tool is not there yet."""
        path, at = self.plan.path, self._at
        if path.closed[at + 1] == path.closed[at] or self._waited >= WAIT_STEPS:
            return False
        far = bool(np.linalg.norm(path.positions[at] - state.tool[slot]) > ARRIVED_M)
        if self._radians > 0:
            far = far or bool(angle_between(path.rotations[at], state.tool_rotation[slot]) > ARRIVED_RAD)
        self._waited += int(far)
        return far
