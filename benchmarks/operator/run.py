"""This benchmark runs the scripted operator in drawn labs, in the stand-in's world inside one process.

Without a policy it demonstrates. With one, the policy meets every start twice, alone and with help: how often help was
for what would have succeeded is counted, not estimated. A start's world is the same both times, to its last delay.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from actors.guides import ListGuide
from actors.human import TakeoverSettings
from actors.interfaces import EpisodeResult, Policy
from actors.loop import EpisodeLoop
from actors.policies import NoPolicy, StoredPolicy
from actors.recorder import EpisodeRecorder, EpisodeTags
from actors.sinks import NoSink
from benchmarks.measure import hardware, table
from benchmarks.operator.inside import InsideRobot
from protos.errors import InputError
from protos.schema import Outcome, Schema, Source
from twin import labs, tasks
from twin.scene import Scene, synthetic_scene
from twin.tasks import Task

NO_IMAGES = Schema(side_px=16, wrist_px=16)
ALONE = ("lab", "task", "A", "B", "seconds per success", "CPU [s]")
HELPED = (
    *("lab", "task", "alone A", "alone B", "with help A", "with help B", "taken over"),
    *("of those, would have succeeded", "takeovers by reason", "gave back", "human steps"),
)


@dataclass(frozen=True, kw_only=True)
class OperatorBench:
    """Demonstrate in drawn labs, or help a policy there and count what it would have done alone; a table."""

    tasks: tuple[str, ...] = ()
    """Tasks; all by default."""
    labs: tuple[str, ...] = tuple(str(seed) for seed in range(1000, 1020))
    """Seeds or domains."""
    episodes: int = 20
    """Starts in each region, the same for every lab."""
    policy: Path | None = None
    """Folder of a policy, in which case one task is to be named."""
    scene: Path | None = None
    """Scene folder in which the policy has learned; a synthetic one by default."""
    schema: Schema = field(default_factory=Schema)
    takeover: TakeoverSettings = field(default_factory=TakeoverSettings)
    disturbance: float = 0.0
    """Strength of the noise on the demonstrator's motion."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise InputError(f"episodes={self.episodes}: at least 1")
        if self.policy is not None and len(self.tasks) != 1:
            raise InputError(f"tasks={self.tasks}: name the one task that the policy has learned")
        for name in self.tasks:
            tasks.get(name)


@dataclass(frozen=True)
class Practice:
    """The episodes of one lab, in the order of their starts, and what the operator did."""

    results: list[EpisodeResult]
    takeovers: Counter[str]
    returns: int
    cpu_s: float

    def successes(self, region: str) -> str:
        """Returns "19 of 20" for one region."""
        own = [won(result) for result in self.results if result.configuration.region == region]
        return f"{sum(own)} of {len(own)}"


def run(settings: OperatorBench) -> str:
    """Returns the table."""
    row, columns = (_alone, ALONE) if settings.policy is None else (_helped, HELPED)
    names = settings.tasks or tasks.names()
    rows = [row(settings, tasks.get(name), lab) for name in names for lab in settings.labs]
    return f"{table(columns, rows)}\n\n{hardware()}\n"


def won(result: EpisodeResult) -> bool:
    """Tells whether an episode succeeded."""
    return result.outcome is Outcome.SUCCESS


def demonstrate(settings: OperatorBench, task: Task, lab: str) -> Practice:
    """Runs the operator alone, without images."""
    takeover = TakeoverSettings(always=True)
    return meet(settings, task, lab, NoPolicy, takeover, disturbance=settings.disturbance, sees=False)


def practise(settings: OperatorBench, task: Task, lab: str, *, help_share: float) -> Practice:
    """Runs the policy with an operator who watches a share of the episodes."""
    folder = settings.policy
    assert folder is not None
    takeover = TakeoverSettings(**vars(settings.takeover) | {"watch": help_share})
    make = lambda: StoredPolicy(folder, task.instruction, explore=0.0, seed=settings.seed)  # noqa: E731
    return meet(settings, task, lab, make, takeover)


def meet(
    settings: OperatorBench,
    task: Task,
    lab: str,
    make: Callable[[], Policy],
    takeover: TakeoverSettings,
    *,
    disturbance: float = 0.0,
    sees: bool = True,
) -> Practice:
    """Lets a policy, or the operator alone, meet starts that are spread over the regions."""
    began = time.process_time()
    scene = synthetic_scene() if settings.scene is None else Scene.load(settings.scene)
    schema, place = settings.schema if sees else NO_IMAGES, labs.get(lab, task)
    robot = InsideRobot(scene, task, place, schema, seed=settings.seed, disturbance=disturbance, sees=sees)
    rng, operator = np.random.default_rng(settings.seed), robot.operator(takeover)
    starts = [
        one
        for region in task.space.regions
        for one in task.space.spread(rng, region=region, rollouts=settings.episodes)
    ]
    guide, recorder = ListGuide(starts), EpisodeRecorder(tags(task))
    EpisodeLoop(robot.environment, make(), guide, recorder, NoSink(), operator).run(lambda: False)
    return Practice(guide.results, operator.takeovers, operator.returns, time.process_time() - began)


def _alone(settings: OperatorBench, task: Task, lab: str) -> list[str]:
    found = demonstrate(settings, task, lab)
    steps = [result.steps for result in found.results if won(result)] or [0]
    return [
        lab,
        task.name,
        found.successes("A"),
        found.successes("B"),
        f"{np.median(steps) / 10:.1f} ({max(steps) / 10:.1f})",
        f"{found.cpu_s:.1f}",
    ]


def _helped(settings: OperatorBench, task: Task, lab: str) -> list[str]:
    alone, helped = (practise(settings, task, lab, help_share=share) for share in (0.0, 1.0))
    taken = [won(before) for before, after in zip(alone.results, helped.results, strict=True) if after.interventions]
    human, steps = (sum(getattr(each, name) for each in helped.results) for name in ("human_steps", "steps"))
    return [
        lab,
        task.name,
        *(practice.successes(region) for practice in (alone, helped) for region in ("A", "B")),
        f"{len(taken)} of {len(helped.results)}",
        f"{sum(taken)} of {len(taken)}",
        ", ".join(f"{reason} {count}" for reason, count in helped.takeovers.most_common()) or "none",
        str(helped.returns),
        f"{100 * human / steps:.0f} %",
    ]


def tags(task: Task) -> EpisodeTags:
    """Returns what the episodes of these benchmarks share."""
    return EpisodeTags(
        actor="operator",
        incarnation="bench",
        task=task.name,
        scene="",
        instruction=task.instruction,
        source=Source.REAL,
    )
