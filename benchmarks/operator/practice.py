"""This benchmark practises in drawn labs inside one process: the arm's world, its operator and the learner take turns.

    policy ─► stand-in's world, with help ─► replay (embedded server) ─► updates ─┐
      ▲───────────────────────────────────────────────────────────────────────────┘

    twinrl bench practice --policy RUN/twin_rl/policy --scene RUN/scene --labs 1002 1003
    twinrl bench practice --policy RUN/twin_rl/policy --scene RUN/scene --labs 1002 --real-rl.utd 1

It tries settings of real RL in minutes where `twinrl bench method` takes an hour. The policy that acts is always the
newest, starts are uniform over the regions, no twin is beside the arm, and the critics are new.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from actors.guides import ListGuide
from actors.human import TakeoverSettings
from actors.interfaces import Decision, EpisodeResult
from actors.loop import EpisodeLoop
from actors.policies import NoPolicy
from actors.recorder import EpisodeRecorder
from actors.sinks import ArmSink, EpisodeFilter, demonstration_writer
from benchmarks.measure import hardware, table
from benchmarks.operator.inside import InsideRobot
from benchmarks.operator.run import OperatorBench, meet, tags
from learner.rl import RlAgent
from learner.rl.batches import WARMUP, Draws, Phase, columns
from learner.stage import RlSettings
from learner.stage.data import transition_reader, wait_until_caught_up
from policy.acting import BatchActor
from policy.checkpoint import load_policy
from policy.model import Policy
from protos.episode import Segment
from protos.errors import InputError
from protos.schema import Bools, Configuration, Observation, Schema
from services.replay import EmbeddedServer, ReplayReader, ReplaySettings, ReplayWriter
from twin import labs, tasks
from twin.scene import Scene, synthetic_scene
from twin.tasks import Task
from twinrl.run import beside_arm, real_stages
from twinrl.run.settings import DemonstrationPlan, RealRlPlan, ScanPlan

NORMALIZATION_ROWS = 4096
DRAW_TIMEOUT_S = 60.0
LATEST = 20
"""Episodes at the end of a practice whose help is counted by itself."""


@dataclass(frozen=True, kw_only=True)
class PracticeBench:
    """A policy practises on the arms of drawn labs, inside one process, and is tried now and then; a table."""

    policy: Path
    """Folder of the policy to begin with."""
    scene: Path | None = None
    """Scene folder in which it has learned; a synthetic one by default."""
    task: str = "pick_and_place"
    labs: tuple[str, ...] = ("1002", "1003")
    """Seeds or domains; those below 1000 are for judging alone."""
    demonstrations: int = DemonstrationPlan().real_a
    """Demonstrations of the arm, in region A."""
    real_rl: RealRlPlan = field(
        default_factory=lambda: RealRlPlan(twin_share=0.0, seed_twin_episodes=0, scan=ScanPlan(actors=0))
    )
    every: int = 1_000
    """Transitions between two trials."""
    rollouts: int = 15
    """Per region and trial."""
    seed: int = 0

    def __post_init__(self) -> None:
        tasks.get(self.task)
        for name in ("demonstrations", "every", "rollouts"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: at least 1")
        if self.real_rl.twin_share or self.real_rl.seed_twin_episodes or self.real_rl.scan.actors:
            raise InputError(
                "real_rl: no twin is beside this arm; twin_share, seed_twin_episodes, scan.actors must be 0"
            )


@dataclass(kw_only=True)
class Course:
    """The course of one practice."""

    trials: dict[int, str] = field(default_factory=dict)
    """Transitions of the arm → successes in the regions, as "12 / 9"."""
    results: list[EpisodeResult] = field(default_factory=list)
    robot_min: float = 0.0
    cpu_s: float = 0.0

    @property
    def helped(self) -> list[bool]:
        """Tells of each episode whether it had help."""
        return [result.interventions > 0 for result in self.results]


def run(settings: PracticeBench) -> str:
    """Returns the table."""
    courses = {lab: practise(settings, lab) for lab in settings.labs}
    steps = sorted({steps for course in courses.values() for steps in course.trials})
    named = (f"after {count:,}" for count in steps)
    columns = ("lab", *named, "episodes", "with help", f"of the last {LATEST}", "robot minutes", "CPU [s]")
    rows = [
        [
            lab,
            *(course.trials.get(count, "") for count in steps),
            str(len(course.results)),
            str(sum(course.helped)),
            str(sum(course.helped[-LATEST:])),
            f"{course.robot_min:.1f}",
            f"{course.cpu_s:.0f}",
        ]
        for lab, course in courses.items()
    ]
    regions = " / ".join(tasks.get(settings.task).space.regions)
    return f"Successes of {settings.rollouts}, {regions}.\n\n{table(columns, rows)}\n\n{hardware()}\n"


def practise(settings: PracticeBench, lab: str) -> Course:
    """Runs one practice."""
    torch.set_num_threads(1)  # it acts on one observation
    began, task, plan = time.process_time(), tasks.get(settings.task), settings.real_rl
    course = Course()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "replay") as server:
        replay = ReplaySettings(urls=(server.url,))
        _demonstrate(settings, task, lab, replay)
        with _learning(settings, replay) as learner, closing(_writer(replay)) as writer:
            course.trials[0] = learner.tried(task, lab)
            learner.warm_up()
            robot = _robot(settings, task, lab, settings.seed + 1)
            operator = None if plan.operator == "none" else robot.operator(TakeoverSettings(seed=settings.seed))
            guide, recorder = ListGuide(_starts(settings, task)), EpisodeRecorder(tags(task))
            sink = _Sink(ArmSink(writer), learner)
            acting = Newest(learner.policy, task.instruction, explore=plan.explore, seed=settings.seed)
            loop = EpisodeLoop(robot.environment, acting, guide, recorder, sink, operator)
            for due in [*range(settings.every, plan.env_steps, settings.every), plan.env_steps]:
                loop.run(lambda due=due: learner.seen >= due)  # type: ignore[misc]
                course.trials[due] = learner.tried(task, lab)
            course.results, course.robot_min = guide.results, robot.arm.time_s / 60
    course.cpu_s = time.process_time() - began
    return course


class Newest:
    """Acts with the policy that learns, as it is."""

    def __init__(self, policy: Policy, instruction: str, *, explore: float, seed: int) -> None:
        self._actor = BatchActor(policy, instruction)
        self._explore, self._generator = explore, torch.Generator().manual_seed(seed)
        self.window = self._actor.window

    def ready(self) -> str:
        return ""

    def act(self, observation: Observation, pad: Bools | None = None) -> Decision:
        action, embedding = self._actor.act(observation, pad, explore=self._explore, generator=self._generator)
        return Decision(action=action, embedding=embedding, version=0, backbone_id=self._actor.backbone_id)


class Learner:
    """Makes the updates that the transitions seen so far pay for."""

    def __init__(self, settings: PracticeBench, rl: RlSettings, policy: Policy, reader: ReplayReader) -> None:
        self._settings, self._rl, self._reader = settings, rl, reader
        self.policy, self.seen = policy, 0
        """The policy that learns, and the transitions of the arm so far."""
        self._agent = RlAgent(policy, rl.update, seed=settings.seed)
        self._draws = Draws(reader, rl.batch, seed=settings.seed, prefetch=False, timeout_s=DRAW_TIMEOUT_S)
        self._updates = 0

    def warm_up(self) -> None:
        """Trains the critics on demonstrations alone."""
        self._agent.fit_normalization(columns(self._draws.sample(NORMALIZATION_ROWS, "normalization")))
        for k in range(self._settings.real_rl.warmup_updates):
            self._agent.update(columns(self._draws.warmup(k)), WARMUP)

    def take(self, transitions: int) -> None:
        """Learns from transitions that were just written."""
        self.seen += transitions
        loop = self._rl.loop
        total = int(loop.utd * loop.env_steps)
        while self._updates < int(loop.utd * (self.seen - loop.start_after)) and self._reader.counts().get("real"):
            phase = Phase(progress=min(1.0, self._updates / total))
            self._agent.update(columns(self._draws.online(self._updates)), phase)
            self._updates += 1

    def tried(self, task: Task, lab: str) -> str:
        """Returns the successes of the policy alone, from the same starts each time."""
        settings, seed = self._settings, self._settings.seed + 2
        bench = OperatorBench(episodes=settings.rollouts, scene=settings.scene, seed=seed)
        alone = lambda: Newest(self.policy, task.instruction, explore=0.0, seed=seed)  # noqa: E731
        results = meet(bench, task, lab, alone, TakeoverSettings(watch=0.0))
        return " / ".join(results.successes(region).split()[0] for region in task.space.regions)


class _Sink:
    """Writes segments as an arm does, and lets the learner learn from each."""

    def __init__(self, arm: ArmSink, learner: Learner) -> None:
        self._arm, self._learner = arm, learner

    def add(self, segment: Segment) -> None:
        self._arm.add(segment)
        self._learner.take(len(segment.action))


@contextmanager
def _learning(settings: PracticeBench, replay: ReplaySettings) -> Iterator[Learner]:
    plan, policy = settings.real_rl, load_policy(settings.policy)
    rl = RlSettings(
        replay=replay,
        policy=settings.policy,
        stage="real_rl",
        batch=beside_arm.batch(plan),
        loop=real_stages.pace(plan),
        update=real_stages.update(plan),
        seed=settings.seed,
    )
    with closing(transition_reader(policy, rl)) as reader:
        reader.start()
        wait_until_caught_up(reader, lambda: False)
        yield Learner(settings, rl, policy, reader)


def _demonstrate(settings: PracticeBench, task: Task, lab: str, replay: ReplaySettings) -> None:
    """Writes demonstrations of the arm in region A, as its operator makes them."""
    seed = settings.seed + 3
    robot = _robot(settings, task, lab, seed, disturbance=DemonstrationPlan().disturbance)
    rng = np.random.default_rng(seed)
    starts = ListGuide([task.space.sample(rng, region="A") for _ in range(2 * settings.demonstrations)])
    operator = robot.operator(TakeoverSettings(always=True))
    with demonstration_writer(replay, Schema(), actor="demonstrator") as deliver:
        kept = EpisodeFilter(deliver)
        loop = EpisodeLoop(robot.environment, NoPolicy(), starts, EpisodeRecorder(tags(task)), kept, operator)
        loop.run(lambda: kept.episodes >= settings.demonstrations)


def _starts(settings: PracticeBench, task: Task) -> list[Configuration]:
    """Returns more starts than a practice can use, in the regions by turns."""
    rng, regions = np.random.default_rng(settings.seed), tuple(task.space.regions)
    return [task.space.sample(rng, region=regions[i % len(regions)]) for i in range(settings.real_rl.env_steps)]


def _robot(settings: PracticeBench, task: Task, lab: str, seed: int, *, disturbance: float = 0.0) -> InsideRobot:
    scene = synthetic_scene() if settings.scene is None else Scene.load(settings.scene)
    return InsideRobot(scene, task, labs.get(lab, task), Schema(), seed=seed, disturbance=disturbance)


def _writer(replay: ReplaySettings) -> ReplayWriter:
    return ReplayWriter(replay, Schema(), actor="arm", spool=None)
