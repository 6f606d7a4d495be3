"""This module chooses, counts and copies episodes on their way into a dataset.

    episodes of a replay or a dataset ─► chosen ─► copy ─► Writer
                                           └─► Tally

Episodes pass one at a time, so neither side has to fit into memory.
"""

import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from learner.datasets.dataset import Writer
from learner.datasets.outcomes import ALL, named_outcomes
from learner.datasets.reading import identity, unique_name
from protos.episode import Episode
from protos.errors import InputError
from protos.schema import Source


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A choice restricts which episodes are taken; what is empty or None does not restrict."""

    regions: Sequence[str] = ()
    outcomes: str = ALL
    """Outcomes by name, as "success,unknown"."""
    source: Source | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit={self.limit}: at least 1")
        named_outcomes(self.outcomes)

    def fits(self, episode: Episode) -> bool:
        """Tells whether an episode is chosen, the limit aside."""
        return (
            (not self.regions or episode.configuration.region in self.regions)
            and episode.outcome in named_outcomes(self.outcomes)
            and self.source in (None, episode.source)
        )


@dataclass(kw_only=True)
class Tally:
    """A tally counts episodes and their steps, by outcome, region and source."""

    episodes: int = 0
    steps: int = 0
    human: int = 0
    """Steps whose action a person chose."""
    outcomes: Counter[str] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, episode: Episode) -> None:
        """Counts one more episode."""
        self.episodes += 1
        self.steps += episode.steps
        self.human += int(episode.human.sum())
        self.outcomes[episode.outcome.value] += 1
        self.regions[episode.configuration.region or "unknown"] += 1
        self.sources[episode.source.value] += 1

    def __str__(self) -> str:
        regions = Counter({f"region {name}": count for name, count in self.regions.items()})
        groups = [
            ", ".join(f"{name} {count}" for name, count in counter.most_common())
            for counter in (self.outcomes, regions, self.sources)
        ]
        return f"{self.episodes} episodes, {self.steps} steps" + (f" ({'; '.join(groups)})" if self.episodes else "")


def chosen(
    episodes: Iterable[Episode], choice: Choice, tell: Callable[[Episode], None], others: Counter[str]
) -> Iterator[Episode]:
    """Yields the chosen episodes, each once: an episode of an arm may lie in several buffers.

    `tell` is called with every episode that is looked at; `others` counts those with another outcome.
    """
    names, left = set[str](), set[str]()
    for episode in episodes:
        tell(episode)
        name = identity(unique_name(episode))
        if choice.fits(episode) and name not in names:
            names.add(name)
            yield episode
            if len(names) == choice.limit:
                return
        elif episode.outcome not in named_outcomes(choice.outcomes) and name not in left:
            left.add(name)
            others[episode.outcome.value] += 1


def copy(episodes: Iterable[Episode], writer: Writer, written: Tally) -> int:
    """Writes and counts episodes; returns how many were left out because the writer's folder has them already.

    Which episode is which is told by its content, not by the folder it comes from. Raises InputError for one that may
    be among those that an earlier version wrote, by the name of a folder alone.
    """
    there = {identity(name) for name in writer.names}
    left_out = 0
    for episode in episodes:
        name = unique_name(episode)
        if identity(name) in there:
            left_out += 1
            continue
        if episode.name in writer.names:
            raise InputError(
                f"an episode {episode.name!r} is there already, written by an earlier version that did not note its "
                "content, so it cannot be told from this one: export to a new folder"
            )
        writer.add(replace(episode, name=name, mark=""))
        written.add(episode)
        there.add(identity(name))
    return left_out


class ExpectedArrays:
    """A writer that also keeps the arrays it was given in an .npz file, as i/action, i/side and so on.

    scripts/check_lerobot.py and scripts/check_rlds.py compare the dataset with them.
    """

    def __init__(self, path: Path, writer: Writer) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer, self._file, self._count = writer, zipfile.ZipFile(path, "w"), 0

    @property
    def names(self) -> Set[str]:
        return self._writer.names

    def add(self, episode: Episode) -> None:
        self._writer.add(episode)
        seen = episode.observation
        arrays: dict[str, NDArray[np.generic]] = {
            "action": episode.action,
            "state": seen.proprio,
            "side": seen.side,
            "wrist": seen.wrist,
            "reward": episode.reward,
            "human": episode.human,
            "instruction": np.array(episode.instruction),
            "name": np.array(episode.name),
            "outcome": np.array(episode.outcome.value),
        }
        for name, array in arrays.items():
            with self._file.open(f"{self._count}/{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        self._count += 1

    def close(self) -> None:
        """Closes the .npz file; the other writer stays open."""
        self._file.close()
