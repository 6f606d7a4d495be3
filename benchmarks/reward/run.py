"""This benchmark trains a reward classifier on attempts at the stand-in and lets it judge others that it never saw.

Training and judged attempts come from worlds of different seeds, so that starts, noise and sizes differ. Truth is the
simulator's: the outcome of every attempt. A false success is a proposal in any control step of a failed attempt, or in
one before the object of a success is let go; the few steps from then to the simulator's verdict count for neither.
"""

import time
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.measure import hardware, table
from benchmarks.reward.attempts import KINDS, Kind, attempts
from learner.reward import RewardTraining, Verdict, judged, train_reward
from policy.reward import Guard, RewardClassifier, RewardSettings
from protos.episode import Episode
from protos.errors import InputError
from protos.schema import Outcome, Schema
from twin import labs, tasks
from twin.scene import synthetic_scene
from twinrl.report.inputs import Rate

MIX: tuple[Kind, ...] = ("exact", "exact", "exact", "beside", "empty", "exact", "beside", "exact", "beside", "astray")
"""Kinds of attempts, in turns: half of them are to succeed."""
COLUMNS = ("lab", "judged by", "attempts", "agree", "false successes", "of", "missed", "of")
WITHOUT_GUARD = Guard(low=(-10.0,) * 3, high=(10.0,) * 3, opens=None)


@dataclass(frozen=True, kw_only=True)
class RewardBench:
    """Train the reward classifier on attempts at the stand-in; judge others beside the simulator's truth; tables."""

    task: str = "pick_and_place"
    labs: tuple[str, ...] = ("standin",)
    """Seeds or domains; each gets a classifier of its own."""
    schema: Schema = field(default_factory=Schema)
    episodes: int = 120
    """Attempts to train on and to choose the threshold with."""
    judged: int = 200
    """Attempts to judge."""
    beside_m: tuple[float, float] = (0.045, 0.09)
    """Distances by which an object that is put beside its target misses it."""
    near_m: tuple[float, float] = (0.025, 0.045)
    """Distances about the edge of success, in attempts of which the result is told apart."""
    train: RewardTraining = field(default_factory=RewardTraining)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("episodes", "judged"):
            if getattr(self, name) < 2 * len(MIX):
                raise InputError(f"{name}={getattr(self, name)}: at least {2 * len(MIX)}")


def run(settings: RewardBench) -> str:
    """Returns the tables."""
    parts = [_lab(settings, lab) for lab in settings.labs]
    rows = [row for found, _ in parts for row in found]
    return "\n\n".join([table(COLUMNS, rows), *(note for _, note in parts), hardware()]) + "\n"


def _lab(settings: RewardBench, lab: str) -> tuple[list[tuple[object, ...]], str]:
    """Returns the rows of one lab, and what was trained there in a line."""
    began = time.process_time()
    task = tasks.get(settings.task)

    def made(count: int, seed: int, kinds: tuple[Kind, ...], far: tuple[float, float]) -> list[tuple[Kind, Episode]]:
        turns = [kinds[k % len(kinds)] for k in range(count)]
        place, scene = labs.get(lab, task), synthetic_scene()
        return attempts(scene, task, place, settings.schema, turns, beside_m=far, seed=settings.seed + seed)

    training = [episode for _, episode in made(settings.episodes, 1_000, MIX, settings.beside_m)]
    judges = RewardSettings(
        task=task.name,
        target=task.fixed_bodies[0],
        schema=settings.schema,
        steps=task.success_steps,
        guard=WITHOUT_GUARD,
    )
    recorded_s = time.process_time() - began
    trained = train_reward(training, judges, settings.train)
    trained_s = time.process_time() - began - recorded_s
    others = made(settings.judged, 2_000, MIX, settings.beside_m)
    edge = made(settings.judged // 5, 3_000, ("beside",), settings.near_m)
    classifier = trained.classifier
    rows = [
        (lab, "classifier and guard", *_row(classifier, [episode for _, episode in others])),
        *((lab, f"… {kind}", *_row(classifier, [one for its, one in others if its == kind])) for kind in KINDS),
        (lab, "… at the edge of success", *_row(classifier, [episode for _, episode in edge])),
    ]
    found = classifier.settings
    note = (
        f"Lab {lab}: threshold {found.threshold:.3f}, guard {found.guard}; CPU {recorded_s:.0f} s for {len(training)} "
        f"attempts, {trained_s:.0f} s to train."
    )
    return rows, note


def _row(classifier: RewardClassifier, episodes: list[Episode]) -> tuple[object, ...]:
    verdicts = Counter[Verdict](judged(classifier, episode) for episode in episodes)
    solved = sum(episode.outcome is Outcome.SUCCESS for episode in episodes)
    rate = Rate(successes=verdicts["agrees"], trials=len(episodes))
    low, high = rate.interval()
    share = f"{100 * rate.share:.1f} % ({100 * low:.1f} – {100 * high:.1f})"
    return len(episodes), share, verdicts["false success"], len(episodes), verdicts["missed"], solved
