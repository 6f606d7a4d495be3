"""Tries a policy in the twin from every cell of the grid, without exploration.

The same episode loop as everywhere, with a list of configurations for a guide and nowhere to send segments. The lines
it writes are the report's heat-maps and, for the newest policy, the guide's success map. For many rollouts over many
processes there is `actors.sim.evaluation`.

    python -m actors.sim.evaluation --settings evaluate.json
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.guides import ListGuide, NoSink, write_lines
from actors.interfaces import EpisodeResult, Operator, Policy
from actors.loop import EpisodeLoop
from actors.policies import NoPolicy, StoredPolicy
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sim.ray_session import start_ray, warm_environment
from actors.sim.settings import EvaluationSettings, ProbeSettings
from actors.sim.twins import TwinExpert, make_twin
from protos.errors import TwinRLError
from protos.schema import Configuration, Source
from protos.space import ConfigurationSpace
from twin import tasks
from twin.env import VectorTwin


def evaluate(settings: EvaluationSettings) -> list[EpisodeResult]:
    """Runs `rollouts` episodes in every region; writes one line each to `settings.out`."""
    import torch

    from twin import tasks

    torch.set_num_threads(settings.threads)
    world = settings.world
    space = tasks.get(world.task).space
    rng = np.random.default_rng(world.seed)
    starts = [one for region in space.regions for one in space.spread(rng, region=region, rollouts=settings.rollouts)]
    twin = make_twin(world, n=min(settings.twins, len(starts)), seed=world.seed, threads=settings.threads)
    policy = StoredPolicy(settings.policy, twin.task.instruction, explore=0.0, seed=world.seed)
    results = try_from(starts, twin, policy)
    twin.close()
    write_lines(settings.out, results, space.manipulated)
    return results


def try_from(
    starts: Sequence[Configuration], twin: VectorTwin, policy: Policy, operator: Operator | None = None
) -> list[EpisodeResult]:
    """An episode from each start; results in order of finishing."""
    tags = EpisodeTags(
        actor="evaluation", incarnation="0", task=twin.task.name, scene="", instruction="", source=Source.TWIN
    )
    guide = ListGuide(starts)
    EpisodeLoop(twin, policy, guide, EpisodeRecorder(tags), NoSink(), operator).run(lambda: False)
    return guide.results


log = logging.getLogger(__name__)

TRIES = 3
"""Of a cell whose worker dies or hangs."""
POLL_S = 0.5


def starts_in(space: ConfigurationSpace, cell: int, rollouts: int, seed: int) -> list[Configuration]:
    """The starts of one cell, whoever asks."""
    rng = np.random.default_rng([seed, cell])
    return [space.sample(rng, cell=cell) for _ in range(rollouts)]


class ProbeWorker:
    """A Ray actor that tries one cell after the other."""

    def __init__(self, settings: ProbeSettings) -> None:
        self._settings = settings
        world = settings.world
        self._twin = make_twin(world, n=settings.rollouts_per_cell, seed=world.seed)
        task, folder = self._twin.task, settings.policy
        self._stored = folder and StoredPolicy(folder, task.instruction, explore=0.0, seed=world.seed)
        self._expert = None if folder else TwinExpert(self._twin)

    def ready(self) -> bool:
        """True once twins and policy are there."""
        return True

    def try_cell(self, cell: int) -> list[EpisodeResult]:
        """All rollouts of a cell, in order of finishing."""
        seed = int(np.random.SeedSequence([self._settings.world.seed, cell]).generate_state(1)[0])
        starts = starts_in(self._twin.task.space, cell, self._settings.rollouts_per_cell, self._settings.world.seed)
        self._twin.seed(seed)
        policy: Policy = NoPolicy()
        if self._stored:
            self._stored.seed(seed)
            policy = self._stored
        return try_from(starts, self._twin, policy, self._expert)


@dataclass(kw_only=True)
class Findings:
    """What a probe knows so far."""

    results: dict[int, list[EpisodeResult]] = field(default_factory=dict)
    """By cell."""
    failures: Counter[int] = field(default_factory=Counter)
    """Workers that died or hung while they tried a cell."""
    given_up: dict[int, str] = field(default_factory=dict)
    """Cells without results, and why."""

    def episodes(self) -> list[EpisodeResult]:
        """All results, cell by cell."""
        return [result for cell in sorted(self.results) for result in self.results[cell]]


class _Pool:
    """Workers and the cells that they are at; one that is not up yet, or finds no room in the cluster, has none."""

    def __init__(self, settings: ProbeSettings, findings: Findings) -> None:
        import ray

        self._ray, self._settings, self._findings = ray, settings, findings
        environment = warm_environment(settings.world)
        self._kind = ray.remote(num_cpus=settings.worker_cpus, runtime_env=environment)(ProbeWorker)
        self._starting: dict[Any, Any] = {}  # reference of `ready` -> worker
        self._idle: deque[Any] = deque()
        self._at: dict[Any, tuple[Any, int, float]] = {}  # reference of `try_cell` -> worker, cell, deadline
        for _ in range(settings.workers):
            self._start()

    @property
    def busy(self) -> bool:
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
        """A new process; unlike one that Ray restarts, it lets calls wait until it is up."""
        worker = self._kind.remote(self._settings)
        self._starting[worker.ready.remote()] = worker

    def _take_up(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
            self._idle.append(worker)
        except self._ray.exceptions.RayActorError as error:
            if error.actor_init_failed:  # a bad scene or policy, not an accident
                raise TwinRLError(f"probe: {str(error).strip().splitlines()[-1]}") from error
            self._start()

    def _take_results(self, reference: Any, waiting: deque[int]) -> None:
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
    """Tries every cell and writes one line per episode to `settings.out`; `show` hears of what is known so far.

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
