"""This module says when a person at the table would help a policy, and when no longer.

    state, force ─► steps left ─┬─► stuck, or out of time ────────────┐
              └───► object, force ─► pushes it, presses, at the edge ─┴─► trouble: a reason to take over
                                └──► nearer by some steps, fingers settled, time enough ─► unstuck: gives back

The measure of progress is the time that an expert would need from here (`twin.tasks.expert.steps_left`). How late the
arm answers is seen while it moves: the way that it was told and has not made, over its speed. The watch looks at what a
person sees, knows nothing of the policy, and is the same whatever else helps the arm.
"""

from dataclasses import dataclass

import numpy as np

from protos.errors import InputError
from protos.schema import CONTROL_HZ, F64
from protos.settings import bounded
from twin.tasks import Task, TaskState
from twin.tasks.expert import reach, steps_left

ATTEMPTS = 2
"""An object that is lost is a new attempt, which gets its time anew; so many times in an episode."""
LOST_STEPS = 4.0
"""An attempt has failed when the time to go grows by more than this from one control step to the next."""
WAITS, HELD_WAITS, SPARE_STEPS = 4.0, 2.0, 4.0
"""An expert waits so many times for the arm to do what it was told, or only so often once it holds the object; it may
need some steps more than is estimated."""
SURE_M_S, LONGEST_LAG_S, LEARNED = 0.1, 1.0, 0.1
"""The arm's lag is seen while the tool is this fast; each sight counts for a tenth of what is believed."""
SETTLED_STEPS = 6
"""Control steps after which fingers that were told otherwise have done it."""
EDGE_M = 0.02
"""An object this near to where the tool cannot follow it is about to be lost."""


@dataclass(frozen=True, kw_only=True)
class TakeoverSettings:
    """Conditions under which the scripted operator acts."""

    always: bool = False
    """True for a demonstrator, who acts in every step."""
    watch: float = 1.0
    """Probability that it watches an episode at all."""
    stuck_s: float = 1.5
    """Time without progress after which it takes over: the time that an expert would still need falls by no step."""
    push_m: float = 0.03
    """An object that nobody holds is pushed so far from where it lay: the policy does harm."""
    press_n: float = 40.0
    """Force at the tool at which the policy does harm; the arm's own limit stops it at 80 N by default."""
    unstuck_steps: int = 5
    """It gives back when the time to go has fallen by so many control steps since it took over."""
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {"watch": (0.0, 1.0), "stuck_s": (0.1, 60.0), "push_m": (0.001, 1.0), "press_n": (1.0, 1000.0)}
        bounded(self, "takeover ", ranges)
        if self.unstuck_steps < 1:
            raise InputError(f"takeover unstuck_steps={self.unstuck_steps}: at least 1")


class Watch:
    """Watches one episode after another."""

    def __init__(self, task: Task, settings: TakeoverSettings) -> None:
        self._task, self._settings = task, settings
        self.lag_s = 0.1
        """Time by which the arm is believed to be late; what an episode taught is kept in the next."""
        self.begin()

    def begin(self) -> None:
        """Forgets the episode before."""
        self.left = self._best = np.inf
        """Control steps that an expert would need from here."""
        self._step = self._used = self._progressed_at = self._told_at = self._lost = 0
        self._force_n = 0.0
        self._is_held = False
        self._is_told_to_close = False
        self._lay: F64 | None = None
        self._place = np.zeros(2)

    def look(self, step: int, state: TaskState, force_n: float, *, helped: int = 0) -> None:
        """Takes what is to be seen before control step `step`: one slot, and the force at the tool [N].

        `helped` of the steps before were help, which does not count towards the task's time.
        """
        left = float(steps_left(self._task, state)[0])
        if left > self.left + LOST_STEPS and self._lost < ATTEMPTS:
            self._lost += 1
            self.restart(left)
        self._step, self._used, self.left, self._force_n = step, step - helped, left, force_n
        if left < self._best - 1:
            self._best, self._progressed_at = left, step
        if bool(state.told_to_close[0]) != self._is_told_to_close:
            self._is_told_to_close, self._told_at = not self._is_told_to_close, step
        self._place = state.bodies[self._task.space.manipulated][0, :2].copy()
        self._is_held = self._is_told_to_close and self._holds(state)
        if self._lay is None or self._is_held or step - self._told_at < SETTLED_STEPS:
            self._lay = self._place
        speed = float(np.linalg.norm(state.tool_velocity[0]))
        if speed > SURE_M_S:
            lag_s = float(np.linalg.norm(state.commanded[0] - state.tool[0])) / speed
            self.lag_s += LEARNED * (min(lag_s, LONGEST_LAG_S) - self.lag_s)

    def restart(self, left: float = np.inf) -> None:
        """Gives the policy its time anew."""
        self._best, self._progressed_at = left, self._step

    def trouble(self) -> str:
        """Returns the reason to take over now; empty while there is none."""
        settings = self._settings
        if self.left == 0:  # it is done
            return ""
        if self._force_n > settings.press_n:
            return "presses"
        if self._lay is not None and float(np.linalg.norm(self._place - self._lay)) > settings.push_m:
            return "pushes"
        if self._is_at_edge():
            return "edge"
        if self._step - self._progressed_at >= settings.stuck_s * CONTROL_HZ:
            return "stuck"
        return "" if self._has_time(0.0) else "late"

    def is_unstuck(self, taken_over_at: float) -> bool:
        """Tells whether the policy may go on, `taken_over_at` being the steps that were left when it was stopped."""
        is_nearer = self.left <= taken_over_at - self._settings.unstuck_steps
        is_settled = self._step - self._told_at >= SETTLED_STEPS and self._force_n < self._settings.press_n / 2
        return is_nearer and is_settled and not self._is_at_edge() and self._has_time(SPARE_STEPS)

    def _holds(self, state: TaskState) -> bool:
        return bool(reach(state, self._task.space.manipulated, self._task.hold).holding[0])

    def _has_time(self, spare: float) -> bool:
        waits = self.lag_s * CONTROL_HZ * (HELD_WAITS if self._is_held else WAITS)
        return self._used + self.left + waits + SPARE_STEPS + spare <= self._task.max_steps

    def _is_at_edge(self) -> bool:
        box = self._task.work_box
        return any(
            not low + EDGE_M <= value <= high - EDGE_M
            for value, (low, high) in zip(self._place, (box.x, box.y), strict=True)
        )
