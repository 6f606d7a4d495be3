"""From any replay, or any dataset that can be read, to a dataset that others read.

    replay ─► services.replay.read_episodes ─┐
    dataset folder ─► open_dataset ──────────┴─► chosen ─► copy ─► LeRobotWriter | RldsWriter

Episodes go through one at a time, so neither side need fit into memory.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from learner.datasets.episode import ActionScale, Writer
from learner.datasets.json_files import read_json
from learner.datasets.lerobot.layout import INFO, Pictures
from learner.datasets.rlds.own import MARK
from protos.episode import Episode
from protos.errors import CorruptData, InputError
from protos.schema import Outcome, Schema, Source
from protos.settings import from_json

Format = Literal["lerobot", "rlds"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which episodes are meant; what is empty or None does not restrict."""

    regions: Sequence[str] = ()
    outcome: Outcome | None = None
    source: Source | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit={self.limit}: at least 1")

    def fits(self, episode: Episode) -> bool:
        """Whether an episode is meant, the limit aside."""
        return (
            (not self.regions or episode.configuration.region in self.regions)
            and self.outcome in (None, episode.outcome)
            and self.source in (None, episode.source)
        )


@dataclass(kw_only=True)
class Tally:
    """What went by."""

    episodes: int = 0
    steps: int = 0
    human: int = 0
    """Steps of them that a person chose."""
    outcomes: Counter[str] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, episode: Episode) -> None:
        """Counts one more."""
        self.episodes += 1
        self.steps += len(episode.action)
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


def chosen(episodes: Iterable[Episode], choice: Choice, tell: Callable[[Episode], None]) -> Iterator[Episode]:
    """Those that are meant, each name once: what an arm did may lie in several buffers. `tell` hears of all."""
    names = set[str]()
    for episode in episodes:
        tell(episode)
        if choice.fits(episode) and episode.name not in names:
            names.add(episode.name)
            yield episode
            if len(names) == choice.limit:
                return


def copy(episodes: Iterable[Episode], writer: Writer, there: Container[str], written: Tally) -> int:
    """Writes and counts episodes; returns how many were passed over because their names are `there`."""
    passed = 0
    for episode in episodes:
        if episode.name in there:
            passed += 1
            continue
        writer.add(episode)
        written.add(episode)
    return passed


def make_writer(
    kind: Format, folder: Path, schema: Schema, *, action_scale: ActionScale, pictures: Pictures = "video"
) -> tuple[Writer, Container[str]]:
    """A writer, and the names of the episodes that an earlier one has written to the folder.

    Raises InputError for a folder that holds something else.
    """
    if kind == "lerobot":
        from learner.datasets.lerobot.writer import LeRobotWriter

        lerobot = LeRobotWriter(folder, schema, action_scale=action_scale, pictures=pictures)
        return lerobot, lerobot.names
    from learner.datasets.rlds.writer import RldsWriter

    rlds = RldsWriter(folder, schema, action_scale=action_scale)
    return rlds, frozenset(rlds.names)


def stored_schema(path: Path) -> Schema | None:
    """Picture sizes of a dataset that TwinRL wrote; None for one of others."""
    if (path / INFO).is_file():
        from learner.datasets.lerobot import reader as lerobot

        return lerobot.stored_schema(path)
    if (path / MARK).is_file():
        try:
            return from_json(Schema, read_json(path / MARK)["schema"], MARK)
        except (KeyError, TypeError, InputError) as error:
            raise CorruptData(f"{path / MARK}: no picture sizes in it ({error})") from error
    return None
