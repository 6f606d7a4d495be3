"""This module is `twinrl reward`: a classifier that proposes when a task at the arm is solved is trained and checked.

    twinrl reward train runs/lab --out reward          a run, a replay or a dataset, as `twinrl export` reads
    twinrl reward check runs/lab-2 --reward reward     on episodes that it has not seen

docs/teleoperation.md says which episodes it needs and how the arm's program asks.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated

import tyro

from learner.datasets import unique_name
from learner.reward import JUDGED, RewardTraining, judged, train_reward
from policy.reward import Guard, RewardSettings, load_reward, save_reward
from protos.episode import Episode
from protos.errors import InputError
from protos.folders import owned
from protos.problems import doing
from protos.settings import positive, to_json
from twin import tasks
from twinrl.cli import choose
from twinrl.commands.reward.tables import described, summary
from twinrl.export_origin import Opened, Origin, open_origin

WORDS = {"train": "train a classifier on episodes of both outcomes", "check": "compare one with other episodes"}


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Recorded episodes of one task."""

    origin: Annotated[Origin, tyro.conf.arg(name="")] = field(default_factory=Origin)
    task: str = ""
    """Task of the episodes, where a dataset does not say it."""
    limit: int = 400
    """Most episodes to read; their images are held in memory."""

    def __post_init__(self) -> None:
        positive(self, "limit")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a classifier of both cameras' images, find its guard and threshold, and write all to a folder."""

    source: Annotated[Episodes, tyro.conf.arg(name="")] = field(default_factory=Episodes)
    out: Path
    """Folder to write."""
    train: RewardTraining = field(default_factory=RewardTraining)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Compare what a classifier would have proposed with how episodes ended that it has not seen."""

    source: Annotated[Episodes, tyro.conf.arg(name="")] = field(default_factory=Episodes)
    reward: Path
    """Folder that `twinrl reward train` wrote."""


def main(arguments: Sequence[str]) -> int:
    word = choose(arguments, WORDS, prog="twinrl reward", about="Judge success by what both cameras show.")
    if word is None:
        return 0
    prog, given, config = f"twinrl reward {word}", arguments[1:], (tyro.conf.UseAppendAction,)
    if word == "train":
        text = _train(tyro.cli(Train, prog=prog, args=given, config=config))
    else:
        text = _check(tyro.cli(Check, prog=prog, args=given, config=config))
    sys.stdout.write(text)
    return 0


def _train(command: Train) -> str:
    with ExitStack() as stack:
        stack.enter_context(owned(command.out, "twinrl reward train"))
        opened, episodes = _read(command.source, stack)
        task = tasks.get(_task(command.source, episodes))
        settings = RewardSettings(
            task=task.name,
            target=task.fixed_bodies[0],
            schema=opened.schema,
            steps=task.success_steps,
            guard=Guard(low=(0.0,) * 3, high=(0.0,) * 3, opens=None),
        )
        with doing("training", command.out):
            trained = train_reward(episodes, settings, command.train)
        save_reward(command.out, trained.classifier, known=trained.known, training=to_json(command.train))
    found = trained.classifier.settings
    return (
        f"saved {command.out}: proposes from {found.threshold:.3f} on, {found.steps} control steps in a row\n"
        f"  guard: {described(found.guard)}\n"
        f"  on {len(trained.verdicts)} of {len(episodes)} episodes, held out to choose the threshold:\n"
        f"{summary(trained.verdicts)}"
    )


def _check(command: Check) -> str:
    classifier, manifest = load_reward(command.reward)
    settings, known = classifier.settings, frozenset(map(str, manifest.get("known", ())))
    with ExitStack() as stack:
        opened, episodes = _read(command.source, stack)
    named = command.source.task or episodes[0].task or settings.task
    if (named, opened.schema) != (settings.task, settings.schema):
        raise InputError(f"{command.reward}: judges {settings.task!r} by {settings.schema}; {opened.name} has others")
    others = [episode for episode in episodes if unique_name(episode) not in known]
    verdicts = [(episode.outcome, judged(classifier, episode)) for episode in others]
    text = f"{command.reward} on {len(others)} episodes of {opened.name}"
    if len(others) < len(episodes):
        text += f"; {len(episodes) - len(others)} more are left out: it was trained with them"
    return f"{text}\n{summary(verdicts)}"


def _task(source: Episodes, episodes: Sequence[Episode]) -> str:
    name = source.task or episodes[0].task
    if not name:
        raise InputError(f"the episodes do not say what was done: give --task, one of {', '.join(tasks.names())}")
    return name


def _read(source: Episodes, stack: ExitStack) -> tuple[Opened, list[Episode]]:
    """Returns the episodes whose outcome is known. Raises InputError where there is none."""
    opened = open_origin(source.origin, stack)
    left_out = Counter[str]()
    episodes: list[Episode] = []
    for episode in islice(opened.episodes, source.limit):
        if episode.outcome in JUDGED and (not episodes or episode.task == episodes[0].task):
            episodes.append(episode)
        else:
            left_out[episode.outcome.value] += 1
    if not episodes:
        raise InputError(f"{opened.name}: no episode says whether it succeeded ({dict(left_out) or 'there is none'})")
    return opened, episodes
