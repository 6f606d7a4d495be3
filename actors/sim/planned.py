"""Twins that drive plans, for the episode loop: its world and operator, its guide and sink.

PlanQueue.next ─► configuration, its attempt ─► PlannedTwin.reset ─► override: the tracker's action
    ▲                                                                    │
    └── outcome, collision, leash ◄── PlanQueue.add ◄── segments ◄───────┘
                 accepted ─► deliver(segments)          rejected ─► counted by cell and reason
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from actors.interfaces import EpisodeResult
from protos.episode import Segment
from protos.schema import F32, TCP_POSE, Configuration, Observation, Outcome, Step
from twin.env import VectorTwin
from twin.expand import Coverage, Expander, Plan, Reason, Tracker
from twin.expand.demonstration import body_poses
from twin.expand.path import ToolPath
from twin.rotations import matrix_from_vector
from twin.tasks.base import Task, TaskState

LINGER_STEPS = 12
"""Control steps after a plan's end in which the task may still get done."""
Deliver = Callable[[list[Segment]], None]


@dataclass(kw_only=True, eq=False)
class Attempt:
    """A plan that is being driven."""

    plan: Plan
    tracker: Tracker
    segments: list[Segment] = field(default_factory=list)
    leashed: bool = False
    lingered: int = 0


class PlanQueue:
    """Guide and sink at once: plans starts until every region has its episodes, and keeps only those that hold."""

    def __init__(
        self,
        task: Task,
        expander: Expander,
        wanted: Mapping[str, int],
        *,
        attempts: int,
        tries: int,
        seed: int,
        deliver: Deliver,
    ) -> None:
        """At most `tries` plans are tried in all, `attempts` demonstrations on one configuration."""
        self._task, self._expander, self._wanted = task, expander, wanted
        self._attempts, self._tries, self._deliver = attempts, tries, deliver
        self._rng = np.random.default_rng(seed)
        self._open: list[Attempt] = []
        self.coverage = Coverage(space=task.space)

    def next(self) -> Configuration | None:
        """A configuration with a plan, in the region that lacks most and the cell that was tried least."""
        while (region := self._region()) is not None:
            configuration = self._task.space.sample(self._rng, cell=self._cell(region))
            for attempt in range(min(self._attempts, self._expander.choices)):
                plan = self._expander.plan(configuration, attempt)
                if isinstance(plan, Plan):
                    self._open.append(Attempt(plan=plan, tracker=Tracker(self._task, plan)))
                    return configuration
                self.coverage.reject(configuration.cell, plan.reason)
        return None

    def attempt_at(self, configuration: Configuration) -> Attempt:
        """The attempt that `next` began with this very configuration."""
        return next(one for one in self._open if one.plan.configuration is configuration)

    def abandon(self, attempt: Attempt) -> None:
        """Counts an attempt that never came to an end, as in a twin whose physics broke."""
        if attempt in self._open:
            self._close(attempt, Reason.NOT_DONE)

    def add(self, segment: Segment) -> None:
        attempt = self.attempt_at(segment.configuration)
        attempt.segments.append(segment)
        if segment.outcome is not Outcome.RUNNING:
            self._close(attempt, self._reason(attempt, segment.outcome))

    def report(self, result: EpisodeResult) -> None:
        """Nothing: `add` has seen the episode whole."""

    def _close(self, attempt: Attempt, reason: Reason | None) -> None:
        self._open.remove(attempt)
        cell = attempt.plan.configuration.cell
        if reason is not None:
            self.coverage.reject(cell, reason)
        else:
            self.coverage.accept(cell)
            self._deliver(attempt.segments)

    def _reason(self, attempt: Attempt, outcome: Outcome) -> Reason | None:
        if attempt.leashed:
            return Reason.LEASH
        if outcome is not Outcome.SUCCESS:
            return Reason.NOT_DONE
        poses = np.concatenate([segment.observation.proprio[:-1, TCP_POSE] for segment in attempt.segments]).astype(
            float
        )
        driven = ToolPath(
            positions=poses[:, :3],
            rotations=matrix_from_vector(poses[:, 3:]),
            closed=np.concatenate([segment.action[:, -1] < 0 for segment in attempt.segments]),
        )
        return self._expander.checks.collision(driven, body_poses(self._task, attempt.plan.configuration))

    def _region(self) -> str | None:
        """The region that lacks most, those under way counted as kept; None when all is done."""
        if sum(map(self.coverage.tried, range(self._task.space.cells))) >= self._tries:
            return None
        under_way = [one.plan.configuration.region for one in self._open]
        missing = {
            region: n - self.coverage.accepted_in(region) - under_way.count(region)
            for region, n in self._wanted.items()
        }
        region = max(missing, key=lambda name: missing[name])
        return region if missing[region] > 0 else None

    def _cell(self, region: str) -> int:
        under_way = [one.plan.configuration.cell for one in self._open]
        cells = self._rng.permutation(self.coverage.cells_of(region))
        return int(min(cells, key=lambda cell: self.coverage.tried(int(cell)) + under_way.count(int(cell))))


class PlannedTwin:
    """The twins and their operator: acts in every step, and ends an episode whose plan has come to nothing."""

    def __init__(self, twin: VectorTwin, queue: PlanQueue) -> None:
        self.n, self._twin, self._queue = twin.n, twin, queue
        self._slots: dict[int, Attempt] = {}
        self._state: TaskState | None = None

    def reset(self, slot: int, configuration: Configuration) -> None:
        if slot in self._slots:
            self._queue.abandon(self._slots[slot])
        self._slots[slot] = self._queue.attempt_at(configuration)
        self._twin.reset(slot, configuration)

    def observe(self) -> Observation:
        self._state = self._twin.state()
        return self._twin.observe()

    def override(self, slot: int, step: int, observation: Observation) -> F32:
        assert self._state is not None, "override() before observe()"
        return self._slots[slot].tracker.action(self._state, slot)

    def step(self, action: F32) -> Step:
        step = self._twin.step(action)
        ended = step.truncated.copy()
        for slot, attempt in self._slots.items():
            attempt.leashed = attempt.leashed or bool(self._twin.held_back[slot])
            attempt.lingered += attempt.tracker.is_done
            ended[slot] |= (attempt.leashed or attempt.lingered > LINGER_STEPS) and not step.terminated[slot]
        return replace(step, truncated=ended)
