"""This module evaluates policies in the twin, without exploration: the same episode loop with a list of starts.

`evaluate` tries a policy from a spread of starts in this process. Its lines are the report's heat-maps and, for the
newest policy, the guide's success map. `probe` tries a policy, or the task's expert, from every cell of the grid by
many workers on Ray:

    cells 0 … n ──one at a time──► ProbeWorker × k (twins, policy) ──results of the cell──► lines, table, progress
       ▲                                │ dies or hangs
       └────────── done again ◄─────────┘

A cell is tried as a whole, with starts, twins and policy seeded by its number: the results are the same whatever the
number of workers, and whatever happened to them. A cell counts when its results are here, so none counts twice.

    python -m actors.sim evaluate --settings evaluate.json
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from actors.guides import ListGuide, write_lines
from actors.interfaces import EpisodeResult, Operator, Policy
from actors.loop import EpisodeLoop
from actors.policies import NoPolicy, StoredPolicy, named_policy
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sim.ray_session import start_ray, warm_environment
from actors.sim.settings import EvaluationSettings, ProbeSettings
from actors.sim.twins import TwinExpert, load_scene, make_twin
from actors.sinks import NoSink
from protos.errors import TwinRLError
from protos.schema import Configuration, Source
from protos.space import ConfigurationSpace
from twin import tasks
from twin.env import VectorTwin

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

log = logging.getLogger(__name__)

TRIES = 3
"""Attempts at a cell whose worker dies or hangs."""
POLL_S = 0.5


def evaluate(settings: EvaluationSettings) -> list[EpisodeResult]:
    """Runs `rollouts` episodes in every region; writes one line each to `settings.out`."""
    import torch

    torch.set_num_threads(settings.threads)
    world = settings.world
    space = tasks.get(world.task).space
    rng = np.random.default_rng(world.seed)
    starts = [one for region in space.regions for one in space.spread(rng, region=region, rollouts=settings.rollouts)]
    with closing(make_twin(world, n=min(settings.twins, len(starts)), threads=settings.threads)) as twin:
        policy = StoredPolicy(settings.policy, twin.task.instruction, explore=0.0, seed=world.seed)
        results = run_from(starts, twin, policy)
    write_lines(settings.out, results, space.manipulated)
    return results


def run_from(
    starts: Sequence[Configuration], twin: VectorTwin, policy: Policy, operator: Operator | None = None
) -> list[EpisodeResult]:
    """Runs an episode from each start; returns the results in order of finishing."""
    tags = EpisodeTags(
        actor="evaluation", incarnation="0", task=twin.task.name, scene="", instruction="", source=Source.TWIN
    )
    guide = ListGuide(starts)
    EpisodeLoop(twin, policy, guide, EpisodeRecorder(tags), NoSink(), operator).run(lambda: False)
    return guide.results


def starts_in(space: ConfigurationSpace, cell: int, rollouts: int, seed: int) -> list[Configuration]:
    """Returns the starts of one cell; the same for every caller."""
    rng = np.random.default_rng([seed, cell])
    return [space.sample(rng, cell=cell) for _ in range(rollouts)]


class ProbeWorker:
    """Tries one cell after the other; a Ray actor."""

    def __init__(self, settings: ProbeSettings) -> None:
        self._settings = settings
        world = settings.world
        self._twin = make_twin(world, n=settings.rollouts_per_cell)
        task, folder = self._twin.task, settings.policy
        self._stored = folder and StoredPolicy(folder, task.instruction, explore=0.0, seed=world.seed)
        self._named: Policy | None = None
        if settings.named:
            self._named = named_policy(settings.named, load_scene(world.scene), task, world.schema)
        self._expert = None if folder or settings.named else TwinExpert(self._twin)

    def ready(self) -> bool:
        """Returns True once twins and policy are there."""
        return True

    def try_cell(self, cell: int) -> list[EpisodeResult]:
        """Runs all rollouts of a cell; returns the results in order of finishing."""
        seed = int(np.random.SeedSequence([self._settings.world.seed, cell]).generate_state(1)[0])
        starts = starts_in(self._twin.task.space, cell, self._settings.rollouts_per_cell, self._settings.world.seed)
        self._twin.seed(seed)
        policy: Policy = self._named or NoPolicy()
        if self._stored:
            self._stored.seed(seed)
            policy = self._stored
        return run_from(starts, self._twin, policy, self._expert)


@dataclass(kw_only=True)
class Findings:
    """The results of a probe so far."""

    results: dict[int, list[EpisodeResult]] = field(default_factory=dict)
    """Results by cell."""
    failures: Counter[int] = field(default_factory=Counter)
    """Workers that died or hung while they tried a cell."""
    given_up: dict[int, str] = field(default_factory=dict)
    """Cells without results, and the reasons."""

    def episodes(self) -> list[EpisodeResult]:
        """Returns all results, cell by cell."""
        return [result for cell in sorted(self.results) for result in self.results[cell]]


class _Pool:
    """Keeps workers busy with cells; one that is not up yet, or finds no room in the cluster, has no cell."""

    def __init__(self, settings: ProbeSettings, findings: Findings) -> None:
        import ray

        self._ray, self._settings, self._findings = ray, settings, findings
        environment = warm_environment(settings.world)
        self._kind = ray.remote(num_cpus=settings.worker_cpus, runtime_env=environment)(ProbeWorker)
        self._starting: dict[ObjectRef[bool], ActorHandle] = {}  # call of `ready` -> worker
        self._idle: deque[ActorHandle] = deque()
        self._at: dict[ObjectRef[list[EpisodeResult]], tuple[ActorHandle, int, float]] = {}
        """Call of `try_cell` -> worker, cell, deadline."""
        for _ in range(settings.workers):
            self._start()

    @property
    def busy(self) -> bool:
        """True while cells are being tried."""
        return bool(self._at)

    def give(self, waiting: deque[int]) -> None:
        """Sends waiting cells to idle workers."""
        while waiting and self._idle:
            worker, cell = self._idle.popleft(), waiting.popleft()
            deadline = time.monotonic() + self._settings.cell_timeout_s
            self._at[worker.try_cell.remote(cell)] = (worker, cell, deadline)

    def collect(self, waiting: deque[int]) -> None:
        """Takes what is done; cells of workers that died or hang wait again."""
        expected = [*self._at, *self._starting]
        for reference in self._ray.wait(expected, num_returns=len(expected), timeout=POLL_S)[0]:
            if reference in self._starting:
                self._take_up(reference)
            else:
                self._take_results(reference, waiting)
        now = time.monotonic()
        for reference, (worker, cell, deadline) in list(self._at.items()):
            if now > deadline:
                del self._at[reference]
                self._ray.kill(worker)
                self._start()
                self._again(cell, f"no result within {self._settings.cell_timeout_s:.0f} s", waiting)

    def _start(self) -> None:
        """Starts a new process; unlike one that Ray restarts, it lets calls wait until it is up."""
        worker = self._kind.remote(self._settings)
        self._starting[worker.ready.remote()] = worker

    def _take_up(self, reference: "ObjectRef[bool]") -> None:
        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
            self._idle.append(worker)
        except self._ray.exceptions.RayActorError as error:
            if error.actor_init_failed:  # a bad scene or policy, not an accident
                raise TwinRLError(f"probe: {str(error).strip().splitlines()[-1]}") from error
            self._start()

    def _take_results(self, reference: "ObjectRef[list[EpisodeResult]]", waiting: deque[int]) -> None:
        worker, cell, _ = self._at.pop(reference)
        try:
            self._findings.results[cell] = self._ray.get(reference)
            self._idle.append(worker)
        except self._ray.exceptions.RayActorError:
            self._start()
            self._again(cell, "its worker died", waiting)

    def _again(self, cell: int, reason: str, waiting: deque[int]) -> None:
        self._findings.failures[cell] += 1
        if self._findings.failures[cell] < TRIES:
            log.warning("cell %d: %s; it is tried again", cell, reason)
            waiting.append(cell)
        else:
            self._findings.given_up[cell] = reason


def probe(
    settings: ProbeSettings,
    *,
    stop: Callable[[], bool] = lambda: False,
    show: Callable[[Findings], None] = lambda _: None,
) -> Findings:
    """Tries every cell and writes one line per episode to `settings.out`; `show` gets the findings so far.

    Raises TwinRLError when nothing could be tried; cells that were given up are in the findings.
    """
    space = tasks.get(settings.world.task).space
    findings, waiting = Findings(), deque(settings.cells or range(space.cells))
    start_ray(settings.ray_address)
    import ray

    try:
        pool = _Pool(settings, findings)
        while (waiting or pool.busy) and not stop():
            pool.give(waiting)
            pool.collect(waiting)
            show(findings)
    except ray.exceptions.RayTaskError as error:
        raise TwinRLError(f"probe: {error.cause or error}") from error
    finally:
        ray.shutdown()
    if findings.given_up and not findings.results:
        cell, reason = next(iter(findings.given_up.items()))
        raise TwinRLError(f"probe: no cell could be tried; cell {cell}: {reason}, {TRIES} times")
    write_lines(settings.out, findings.episodes(), space.manipulated)
    return findings
