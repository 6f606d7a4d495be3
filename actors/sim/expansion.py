"""This module makes twin demonstrations of recorded ones: plans are driven in the twin, accepted episodes are kept.

    replay, "demo" ─► usable ─► Expander ─► PlanQueue.next ─► configuration, its plan ─► PlannedTwin ─► episode loop
                                                 rejected: counted by cell and reason ◄─┐                    │
    replay, "demo" ◄── deliver ◄── accepted ◄── PlanQueue.accept ◄── EpisodeFilter ◄────┴───── segments ◄────┘

`python -m actors.sim expand --settings expand.json` runs it.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from actors.interfaces import EpisodeResult
from actors.loop import EpisodeLoop
from actors.policies import NoPolicy
from actors.recorder import EpisodeRecorder
from actors.sim.settings import ExpansionPlan, ExpansionRunSettings, TwinWorld
from actors.sim.twins import load_scene, make_twin, twin_tags
from actors.sinks import Deliver, EpisodeFilter, demonstration_writer, succeeded
from protos.episode import Episode, Segment
from protos.errors import InputError, TwinRLError
from protos.files import write_durably
from protos.schema import F32, TCP_POSE, Configuration, Observation, Outcome, Step
from services.replay import read_episodes
from twin import tasks
from twin.env import VectorTwin
from twin.expand import Coverage, Demonstration, Expander, Plan, Reason, ToolPath, Tracker, body_poses, contacts
from twin.rotations import matrix_from_vector
from twin.tasks import Task, TaskState

log = logging.getLogger(__name__)
ACTOR = "twin-expand"
LINGER_STEPS = 12
"""Control steps after a plan's end in which the task may still get done."""


@dataclass(kw_only=True, eq=False)
class Attempt:
    """A plan that is being driven."""

    plan: Plan
    tracker: Tracker
    leashed: bool = False
    """True once the twin's leash held the tool back."""
    lingered: int = 0
    """Control steps since the plan's end."""


class PlanQueue:
    """Plans starts until every region has its episodes; `accept` judges the ended ones for an `EpisodeFilter`.

    At most `tries` plans are tried in all, `attempts` demonstrations on one configuration.
    """

    def __init__(
        self, task: Task, expander: Expander, wanted: Mapping[str, int], *, attempts: int, tries: int, seed: int
    ) -> None:
        self._task, self._expander, self._wanted = task, expander, wanted
        self._attempts, self._tries = attempts, tries
        self._rng = np.random.default_rng(seed)
        self._open: list[Attempt] = []
        self.coverage = Coverage(space=task.space)

    def next(self) -> Configuration | None:
        """Returns a configuration with a plan, in the region that lacks most and the cell that was tried least."""
        while (region := self._region()) is not None:
            configuration = self._task.space.sample(self._rng, cell=self._cell(region))
            for attempt in range(min(self._attempts, self._expander.choices)):
                plan = self._expander.plan(configuration, attempt)
                if isinstance(plan, Plan):
                    self._open.append(Attempt(plan=plan, tracker=Tracker(self._task, plan)))
                    return configuration
                self.coverage.reject(configuration.cell, plan)
        return None

    def report(self, result: EpisodeResult) -> None:
        """Ignores the result: `accept` has seen the whole episode."""

    def attempt_at(self, configuration: Configuration) -> Attempt:
        """Returns the attempt that `next` began with this very configuration."""
        return next(one for one in self._open if one.plan.configuration is configuration)

    def abandon(self, attempt: Attempt) -> None:
        """Counts an attempt that never came to an end, as in a twin whose physics broke."""
        if attempt in self._open:
            self._close(attempt, Reason.NOT_DONE)

    def accept(self, segments: Sequence[Segment]) -> bool:
        """Counts an ended episode; returns True when it becomes a demonstration."""
        attempt = self.attempt_at(segments[-1].configuration)
        reason = self._reason(attempt, segments)
        self._close(attempt, reason)
        return reason is None

    def _close(self, attempt: Attempt, reason: Reason | None) -> None:
        self._open.remove(attempt)
        cell = attempt.plan.configuration.cell
        if reason is None:
            self.coverage.accept(cell)
        else:
            self.coverage.reject(cell, reason)

    def _reason(self, attempt: Attempt, segments: Sequence[Segment]) -> Reason | None:
        if attempt.leashed:
            return Reason.LEASH
        if not succeeded(segments):
            return Reason.NOT_DONE
        poses = np.concatenate([segment.observation.proprio[:-1, TCP_POSE] for segment in segments]).astype(float)
        driven = ToolPath(
            positions=poses[:, :3],
            rotations=matrix_from_vector(poses[:, 3:]),
            closed=np.concatenate([segment.action[:, -1] < 0 for segment in segments]),
        )
        return self._expander.checks.collision(driven, body_poses(self._task, attempt.plan.configuration))

    def _region(self) -> str | None:
        """Returns the region that lacks most, those under way counted as kept; None when all is done."""
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
        """Starts the attempt that was planned for the configuration."""
        if slot in self._slots:
            self._queue.abandon(self._slots[slot])
        self._slots[slot] = self._queue.attempt_at(configuration)
        self._twin.reset(slot, configuration)

    def observe(self) -> Observation:
        """Returns an observation of every slot, and notes the state that the trackers see."""
        self._state = self._twin.state()
        return self._twin.observe()

    def override(self, slot: int, step: int, observation: Observation) -> F32:
        """Returns the tracker's action (7,)."""
        assert self._state is not None, "override() before observe()"
        return self._slots[slot].tracker.action(self._state, slot)

    def step(self, action: F32) -> Step:
        """Steps the twins (n, 7); truncates the episodes that were leashed or linger after their plan's end."""
        step = self._twin.step(action)
        ended = step.truncated.copy()
        for slot, attempt in self._slots.items():
            attempt.leashed = attempt.leashed or bool(self._twin.held_back[slot])
            attempt.lingered += attempt.tracker.is_done
            ended[slot] |= (attempt.leashed or attempt.lingered > LINGER_STEPS) and not step.terminated[slot]
        return replace(step, truncated=ended)


def expand_in_twin(
    world: TwinWorld, demonstrations: Sequence[Demonstration], plan: ExpansionPlan, deliver: Deliver
) -> Coverage:
    """Drives plans until every region has the episodes it should have, or too many were tried.

    `deliver` gets the segments of each accepted episode, as soon as it ends. Raises InputError for demonstrations in
    which nothing is grasped, and for an unknown region.
    """
    task = tasks.get(world.task)
    for region in plan.episodes:
        if region not in task.space.regions:
            raise InputError(f"region {region!r}: choose one of {', '.join(task.space.regions)}")
    wanted = sum(plan.episodes.values())
    with closing(make_twin(world, n=max(min(plan.twins, wanted), 1), disturbance=plan.disturbance)) as twin:
        scene = load_scene(world.scene)
        expander = Expander(scene.robot, task, demonstrations, domain=twin.domain, settings=plan.how, seed=world.seed)
        tries = int(plan.how.tries_per_episode * wanted)
        queue = PlanQueue(task, expander, plan.episodes, attempts=plan.how.attempts, tries=tries, seed=world.seed)
        planned, sink = PlannedTwin(twin, queue), EpisodeFilter(deliver, queue.accept)
        recorder = EpisodeRecorder(twin_tags(task, scene.name, actor=ACTOR, incarnation=str(world.seed)))
        EpisodeLoop(planned, NoPolicy(), queue, recorder, sink, planned).run(lambda: False)
    return queue.coverage


def usable(task: Task, recorded: Iterable[Episode], plan: ExpansionPlan) -> list[Demonstration]:
    """Returns those episodes that can be expanded; each of the others is logged. Raises InputError when none can."""
    kept, refused = list[Demonstration](), list[InputError]()
    for one in recorded:
        try:
            made = Demonstration.of(one)
            contacts(made, task, plan.how.contact_radius_m)
        except InputError as error:
            log.warning("left out: %s", error)
            refused.append(error)
        else:
            kept.append(made)
    if not refused and not kept:
        raise InputError(f"no successful episode of {task.name} to expand")
    if not kept:
        raise InputError(f"none of {len(refused)} successful episodes can be expanded; the first: {refused[0]}")
    return kept


def expand(settings: ExpansionRunSettings) -> Coverage:
    """Expands the demonstrations of a replay and writes them there.

    Raises TwinRLError when too few are accepted, Unreachable when the replay does not take them.
    """
    world = settings.world
    demonstrations = usable(tasks.get(world.task), _recorded(settings), settings.plan)
    with demonstration_writer(settings.replay, world.schema, actor=ACTOR) as deliver:
        coverage = expand_in_twin(world, demonstrations, settings.plan, deliver)
    if settings.report is not None:
        write_durably(settings.report, [json.dumps(coverage.to_json()).encode()])
    log.info("%d twin demonstrations from %d\n%s", coverage.kept, len(demonstrations), coverage.table())
    check_complete(coverage, settings.plan)
    return coverage


def check_complete(coverage: Coverage, plan: ExpansionPlan) -> None:
    """Raises TwinRLError where a region has fewer episodes than it should have."""
    for region, wanted in plan.episodes.items():
        if (kept := coverage.accepted_in(region)) < wanted:
            reasons = ", ".join(f"{count} {reason.value}" for reason, count in coverage.reasons.most_common(3))
            raise TwinRLError(
                f"region {region}: {kept} of {wanted} twin demonstrations accepted, then the limit of "
                f"{plan.how.tries_per_episode:g} tries per episode was reached ({reasons}); record demonstrations "
                "nearer to it, or raise --how.tries-per-episode"
            )


def _recorded(settings: ExpansionRunSettings) -> Iterator[Episode]:
    """Yields the task's successful episodes of the chosen source in the buffer "demo", as they are now."""

    def wanted(episode: Episode) -> bool:
        of_task = episode.task == settings.world.task and episode.source is settings.source
        return of_task and episode.outcome is Outcome.SUCCESS

    return read_episodes(settings.replay, settings.world.schema, ("demo",), where=wanted, name=ACTOR)
