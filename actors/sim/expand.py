"""Twin demonstrations from recorded ones: plans are driven in the twin, and what it accepts becomes demonstrations.

replay, buffer "demo" ─► demonstrations ─► Expander ─► PlannedTwin, n slots ─► accepted episodes ─► replay, "demo"

python -m actors.sim expand --settings expand.json
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol

from actors.loop import EpisodeLoop
from actors.policies import NoPolicy
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sim.planned import Deliver, PlannedTwin, PlanQueue
from actors.sim.settings import ExpansionPlan, ExpansionRunSettings, TwinWorld
from protos.episode import Episode, Segment
from protos.errors import InputError, TwinRLError
from protos.files import write_durably
from protos.schema import F32, Configuration, Observation, Outcome, Source
from services.replay import ReplayWriter, read_episodes
from twin import tasks
from twin.env import VectorTwin
from twin.expand import Coverage, Demonstration, Expander, contacts
from twin.randomize import domain_named
from twin.scene import Scene
from twin.tasks.base import Task

log = logging.getLogger(__name__)
ACTOR = "twin-expand"
FLUSH_S = 30.0


class Recorded(Protocol):
    """What expansion reads of an episode, wherever it was kept."""

    @property
    def name(self) -> str: ...
    @property
    def configuration(self) -> Configuration: ...
    @property
    def observation(self) -> Observation: ...
    @property
    def action(self) -> F32: ...


def expand_in_twin(
    world: TwinWorld, demonstrations: Sequence[Demonstration], plan: ExpansionPlan, deliver: Deliver
) -> Coverage:
    """Drives plans until every region has the episodes it should have, or too many were tried.

    `deliver` gets the segments of each accepted episode, as soon as it ends. Raises InputError for demonstrations in
    which nothing is grasped, and for an unknown region.
    """
    scene, task = Scene.load(world.scene), tasks.get(world.task)
    for region in plan.episodes:
        if region not in task.space.regions:
            raise InputError(f"region {region!r}: choose one of {', '.join(task.space.regions)}")
    domain = replace(domain_named(world.domain, world.latency_steps), disturbance=plan.disturbance)
    wanted = sum(plan.episodes.values())
    expander = Expander(scene.robot, task, demonstrations, domain=domain, settings=plan.how, seed=world.seed)
    queue = PlanQueue(
        task,
        expander,
        plan.episodes,
        attempts=plan.how.attempts,
        tries=int(plan.how.tries_per_episode * wanted),
        seed=world.seed,
        deliver=deliver,
    )
    tags = EpisodeTags(
        actor=ACTOR,
        incarnation=str(world.seed),
        task=task.name,
        scene=scene.name,
        instruction=task.instruction,
        source=Source.TWIN,
    )
    n = max(min(plan.twins, wanted), 1)
    with closing(VectorTwin(scene, task, n=n, domain=domain, seed=world.seed, schema=world.schema)) as twin:
        planned = PlannedTwin(twin, queue)
        EpisodeLoop(planned, NoPolicy(), queue, EpisodeRecorder(tags), queue, planned).run(lambda: False)
    return queue.coverage


def usable(task: Task, recorded: Iterable[Recorded], plan: ExpansionPlan) -> list[Demonstration]:
    """Those episodes that can be expanded; each of the others is logged. Raises InputError when none can."""
    kept, refused = list[Demonstration](), list[InputError]()
    for one in recorded:
        try:
            made = Demonstration.of(one.name, one.configuration, one.observation.proprio, one.action)
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
    """Expands what is in the replay and writes it there. Raises TwinRLError when too few are accepted."""
    world, replay = settings.world, settings.replay
    demonstrations = usable(tasks.get(world.task), _recorded(settings), settings.plan)
    writer = ReplayWriter(replay, world.schema, actor=ACTOR, spool=None)

    def write(segments: list[Segment]) -> None:
        for segment in segments:
            writer.add(segment, ("demo",))

    with closing(writer):
        coverage = expand_in_twin(world, demonstrations, settings.plan, write)
        if unsent := writer.flush(FLUSH_S):
            raise TwinRLError(f"{unsent} segments of twin demonstrations did not reach replay within {FLUSH_S:g} s")
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
