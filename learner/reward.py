"""This module trains a reward classifier (`policy.reward`) on recorded episodes of both outcomes.

    episodes ─► some held out, whole ─┐
       └─► rows: solved | not | neither ─► Guard ─► classifier, images augmented
                                      └─► threshold at a stated rate of episodes with a false success

Solved are the observations in which a success was judged. Those shortly before, since the fingers last turned round,
are neither: a person presses a key after the fact. A row with other fingers than at the end is the guard's to refuse
and trains nothing: an object that is about to be let go looks like one that was.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from learner.augment import Augmentation, augment, draw, numpy_stream, torch_stream
from learner.datasets import unique_name
from learner.optimization import UncompiledAdamW
from policy.reward import Guard, RewardClassifier, RewardSettings, target_of, told_to_open
from protos.episode import Episode
from protos.errors import InputError
from protos.schema import F64, TCP_POSITION, Bools, Outcome
from protos.settings import bounded

JUDGED = (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMEOUT)
"""Outcomes that say whether the task was solved."""
LATE_STEPS = 20
"""A person judges within so many control steps after the fact."""
MARGIN_M = 0.01
"""The guard's box is wider than the places seen by this."""
ALIKE = 0.9
"""The fingers count where they are alike in this share of what was solved."""
LEAST_THRESHOLD = 0.5
LEAST = 4
"""Fewest successes, and fewest other episodes, of which some are held out."""
Verdict = Literal["agrees", "missed", "false success"]
SOLVED, NOT_SOLVED, NEITHER = 1, 0, -1
Labels = np.ndarray[tuple[int], np.dtype[np.int8]]


@dataclass(frozen=True, kw_only=True)
class RewardTraining:
    """These settings say how a classifier is trained and its threshold chosen."""

    steps: int = 400
    batch: int = 64
    learning_rate: float = 1e-3
    held_out: float = 0.3
    """Share of the episodes that the threshold is chosen on."""
    false_positives: float = 0.01
    """Share of those episodes in which a false success may be proposed."""
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(crop_pad=4, gain_jitter=0.1, shift_jitter=0.05)
    )
    seed: int = 0

    def __post_init__(self) -> None:
        spans = {"false_positives": (0.0, 0.1), "held_out": (0.1, 0.5), "steps": (1, 100_000), "batch": (8, 4096)}
        bounded(self, "reward ", spans)
        bounded(self, "reward ", {"learning_rate": (1e-6, 0.1)})


@dataclass(frozen=True, kw_only=True)
class TrainedReward:
    """A classifier, the names of the episodes that it knows, and what it made of those held out."""

    classifier: RewardClassifier
    known: tuple[str, ...]
    verdicts: tuple[tuple[Outcome, Verdict], ...]


def train_reward(episodes: Sequence[Episode], settings: RewardSettings, how: RewardTraining) -> TrainedReward:
    """Trains a classifier; `settings` say what it judges, their guard and threshold are found here.

    Raises InputError where there are too few episodes of either outcome, or nothing tells them apart.
    """
    training, held_out = split(episodes, how)
    settings = replace(settings, guard=fit_guard(training, settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        classifier = RewardClassifier(settings)
    _optimize(classifier, training, how)
    classifier.settings = replace(settings, threshold=choose_threshold(classifier, held_out, how.false_positives))
    return TrainedReward(
        classifier=classifier,
        known=tuple(sorted(unique_name(episode) for episode in episodes)),
        verdicts=tuple((episode.outcome, judged(classifier, episode)) for episode in held_out),
    )


def split(episodes: Sequence[Episode], how: RewardTraining) -> tuple[list[Episode], list[Episode]]:
    """Returns the episodes to train on and those held out, each with its share of successes; by name, not by order."""
    training: list[Episode] = []
    held_out: list[Episode] = []
    for what, wants in (("successes", True), ("failures and timeouts", False)):
        group = [one for one in episodes if one.outcome in JUDGED and (one.outcome is Outcome.SUCCESS) == wants]
        if len(group) < LEAST:
            raise InputError(f"{len(group)} {what}: at least {LEAST} are needed, some hundred are good")
        group.sort(key=lambda one: hashlib.sha256(f"{how.seed}/{unique_name(one)}".encode()).digest())
        cut = math.ceil(how.held_out * len(group))
        held_out += group[:cut]
        training += group[cut:]
    return training, held_out


def labels(episode: Episode, steps: int) -> Labels:
    """Returns for each observation (T + 1,) whether the task is solved; a success was judged in the last `steps`."""
    found = np.full(episode.steps + 1, NOT_SOLVED, np.int8)
    if episode.outcome is Outcome.SUCCESS:
        first = max(0, episode.steps + 1 - steps)
        turned = np.flatnonzero(np.diff(told_to_open(episode.action)))
        since = max(int(turned[-1]) + 1 if len(turned) else 0, first - LATE_STEPS)
        found[since:first] = NEITHER
        found[first:] = SOLVED
    return found


def fit_guard(episodes: Sequence[Episode], settings: RewardSettings) -> Guard:
    """Returns the guard whose box holds the tool in all solved observations, with the fingers of nearly all."""
    offsets: list[F64] = []
    opens: list[Bools] = []
    for episode in episodes:
        solved = labels(episode, settings.steps) == SOLVED
        offsets.append(_tool(episode)[solved] - target_of(episode.configuration, settings.target))
        opens.append(told_to_open(episode.action)[solved])
    places, told = np.concatenate(offsets), np.concatenate(opens)
    low, high = (tuple(np.round(edge, 4).tolist()) for edge in (places.min(0) - MARGIN_M, places.max(0) + MARGIN_M))
    share = told.mean()
    return Guard(low=low, high=high, opens=bool(share > 0.5) if max(share, 1 - share) >= ALIKE else None)


def choose_threshold(classifier: RewardClassifier, held_out: Sequence[Episode], rate: float) -> float:
    """Returns a threshold with which at most `rate` of the episodes have a false success; never below 0.5.

    It lies half-way between the highest chance that must not be proposed and the least of a success above it.
    Raises InputError where no success is above it.
    """
    wrong, right = [], []
    for episode in held_out:
        chances, found = classifier.lasting(episode), labels(episode, classifier.settings.steps)
        wrong.append(float(chances[found == NOT_SOLVED].max(initial=0.0)))
        if episode.outcome is Outcome.SUCCESS:
            right.append(float(chances[found != NOT_SOLVED].max(initial=0.0)))
    bound = sorted(wrong, reverse=True)[math.floor(rate * len(wrong))]
    above = [chance for chance in right if chance > max(bound, LEAST_THRESHOLD)]
    if not above:
        raise InputError(
            f"no threshold tells the {len(right)} held-out successes from other episodes (chances up to "
            f"{max(right, default=0):.2f} and {bound:.2f}): record more of both, or train longer (--train.steps)"
        )
    return max((bound + min(above)) / 2, LEAST_THRESHOLD)


def judged(classifier: RewardClassifier, episode: Episode) -> Verdict:
    """Compares what would have been proposed in an episode with its outcome, which must be one of `JUDGED`."""
    proposed = classifier.lasting(episode) >= classifier.settings.threshold
    found = labels(episode, classifier.settings.steps)
    if proposed[found == NOT_SOLVED].any():
        return "false success"
    return "missed" if episode.outcome is Outcome.SUCCESS and not proposed.any() else "agrees"


@dataclass(frozen=True)
class _Rows:
    """Labelled images of all training episodes, and the chance of each to be drawn."""

    side: Tensor
    wrist: Tensor
    label: Tensor
    weight: F64


def _rows(classifier: RewardClassifier, episodes: Sequence[Episode]) -> _Rows:
    """Returns what trains: half of what is drawn is solved, a quarter is not although the guard agrees."""
    settings = classifier.settings
    parts = []
    for episode in episodes:
        opens = told_to_open(episode.action)
        target = target_of(episode.configuration, settings.target)
        found = labels(episode, settings.steps)
        near = settings.guard.agrees(_tool(episode), target, opens)
        used = np.flatnonzero((found != NEITHER) & settings.guard.fingers(opens))
        kind = np.where(found == SOLVED, 2, near)[used]
        parts.append((episode.observation.side[used], episode.observation.wrist[used], kind))
    side, wrist, kind = (np.concatenate(column) for column in zip(*parts, strict=True))
    counts = np.bincount(kind.astype(int), minlength=3)
    shares = np.array([0.25, 0.25, 0.5]) * (counts > 0)
    weight = (shares / np.maximum(counts, 1))[kind.astype(int)]
    label = torch.from_numpy((kind == 2).astype(np.float32))
    return _Rows(torch.from_numpy(side), torch.from_numpy(wrist), label, weight / weight.sum())


def _optimize(classifier: RewardClassifier, episodes: Sequence[Episode], how: RewardTraining) -> None:
    generator, rows = torch_stream(how.seed, "reward", 0), _rows(classifier, episodes)
    optimizer = UncompiledAdamW(classifier.parameters(), lr=how.learning_rate, weight_decay=1e-3)
    choice = numpy_stream(how.seed, "reward rows", 0)
    for step in range(how.steps):
        for group in optimizer.param_groups:
            group["lr"] = how.learning_rate * 0.5 * (1 + math.cos(math.pi * step / how.steps))
        drawn = torch.from_numpy(choice.choice(len(rows.weight), how.batch, p=rows.weight))
        columns = draw(how.batch, how.augmentation, generator)
        side, wrist = (
            augment(images[drawn][:, None], camera, columns, how.augmentation)[:, 0]
            for camera, images in (("side", rows.side), ("wrist", rows.wrist))
        )
        loss = functional.binary_cross_entropy_with_logits(classifier(side, wrist), rows.label[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _tool(episode: Episode) -> F64:
    return episode.observation.proprio[:, TCP_POSITION].astype(float)
