"""This module lets a reader pass over damaged episodes, and marks episodes by what is in them.

places and readers of episodes ─► readable ─┬─► Episode, Episode, …
                                            └─► Skipped: place and reason, one line of the log each
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from protos.episode import Episode
from protos.errors import CorruptData

log = logging.getLogger(__name__)
T = TypeVar("T")
_MARK_DIGITS = 16
_MARKED = re.compile(rf".*@(?P<mark>[0-9a-f]{{{_MARK_DIGITS}}})", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An episode that was passed over, or several in a row that cannot be told apart any more."""

    place: str
    """Path, and the episode or the byte in it."""
    why: str
    count: int = 1

    def __str__(self) -> str:
        folder = self.place.partition(": ")[0]
        return self.why if self.why.startswith(self.place) else f"{self.place}: {self.why.replace(f'{folder}/', '')}"


def readable(name: str, attempts: Iterable[tuple[str, Callable[[], T]]], skipped: list[Skipped]) -> Iterator[T]:
    """Yields what can be read of a dataset's episodes, given as place and reader; what cannot is put into `skipped`.

    Each is named in the log when it is met, and their number is told at the end. Raises CorruptData where nothing
    can be read and something had to be skipped.
    """
    count = 0
    for place, read in attempts:
        try:
            found = read()
        except CorruptData as error:
            skipped.append(Skipped(place=place, why=str(error)))
            log.warning("skipped: %s", skipped[-1])
            continue
        count += 1
        yield found
    lost = sum(each.count for each in skipped)
    if lost and not count:
        raise CorruptData(f"{name}: none of its {lost} episodes can be read; {skipped[0]}")
    if lost:
        log.warning("%s", summary(name, skipped, count))


def summary(name: str, skipped: list[Skipped], count: int) -> str:
    """Returns one line that says how many episodes were skipped beside `count` that were read, and the first one."""
    lost = sum(each.count for each in skipped)
    more = " and so on" if len(skipped) > 1 else ""
    return f"{name}: {lost} of {lost + count} episodes skipped: {skipped[0]}{more}"


def content_mark(*content: bytes | str | NDArray[np.generic]) -> str:
    """Returns the mark of an episode that others recorded, by what is in it.

    It is the same wherever the dataset lies and whatever its folder is called.
    """
    digest = hashlib.sha256()
    for part in content:
        data = part.encode() if isinstance(part, str) else part if isinstance(part, bytes) else part.tobytes()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:_MARK_DIGITS]


def unique_name(episode: Episode) -> str:
    """Returns the name of an episode among those of all sources: with its mark where it has one."""
    return f"{episode.name}@{episode.mark}" if episode.mark else episode.name


def identity(name: str) -> str:
    """Returns what in a unique name tells the episode from others: the mark, or the name that its actor gave."""
    marked = _MARKED.fullmatch(name)
    return marked["mark"] if marked else name
