"""The episodes of a fine-tuning, all in memory: those of the replay, then those of the dataset folders."""

from collections.abc import Sequence

from learner.datasets import Dataset
from learner.settings import SftSettings
from learner.sft.demonstrations import Demonstration
from learner.stage.position import EpisodeNames
from learner.stage.sources import Stop, selected_episodes
from protos.errors import InputError
from protos.status import StatusFile


def gather(
    settings: SftSettings, datasets: Sequence[Dataset], resume: EpisodeNames | None, stop: Stop
) -> tuple[Sequence[Demonstration], EpisodeNames | None]:
    """Returns those of the replay, oldest first, then those of the folders in their own order; and the replay's names.

    Raises InputError when their observations take more than `memory_bytes`.
    """
    found: list[Demonstration] = []
    names: EpisodeNames | None = None
    if settings.replay is not None:
        episodes, names = selected_episodes(settings, stop, resume)
        found += episodes
    held = _within(settings, sum(map(_size, found)), f"the replay's {len(found)} episodes")
    status = StatusFile()
    for dataset in datasets:
        for count, episode in enumerate(dataset, start=1):
            if stop():
                return found, names
            found.append(episode)
            read = f"{count} of the {len(dataset)} episodes of {dataset.name}"
            held = _within(settings, held + _size(episode), read)
            status.write(doing=f"reading {dataset.name}", episodes=len(found))
    return found, names


def _within(settings: SftSettings, held: int, read: str) -> int:
    """`held` bytes, when so many are allowed."""
    if held > settings.memory_bytes:
        raise InputError(
            f"memory_bytes={settings.memory_bytes}: with {read} there are {held:,} bytes of observations; raise it "
            "where there is memory for all of them, or learn from fewer episodes or smaller pictures"
        )
    return held


def _size(episode: Demonstration) -> int:
    seen = episode.observation
    return seen.side.nbytes + seen.wrist.nbytes + seen.proprio.nbytes
