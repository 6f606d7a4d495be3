"""This module holds what an inspection reads of a dataset, before a mapping says what its numbers mean.

    lerobot_tables, rlds_records ─► Raw: cameras, features, rate ─► RawEpisode, RawEpisode, … ─► survey

Images are not decoded: what they look like is told by headers. An episode may be damaged; its problem is told.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from protos.schema import F64


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera of a dataset, as its description and the header of its first file tell."""

    name: str
    storage: str
    """"video", or images in the tables."""
    width: int = 0
    height: int = 0
    codec: str = ""
    hz: float | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class RawEpisode:
    """An episode's numbers as they are stored."""

    place: str
    steps: int
    numbers: Mapping[str, F64] = field(default_factory=dict)  # (n, k) by feature; NaN is left in
    stamps: F64 | None = None  # (n,) [s]
    instruction: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A raw dataset is described by its files alone."""

    format: str
    name: str
    episodes: int
    hz: float | None
    """Rate that the description states."""
    cameras: tuple[Camera, ...]
    names: Mapping[str, tuple[str, ...]]
    """Names of the numbers of each feature that holds several, where the description has them, else empty."""
    outcome_features: tuple[str, ...]
    """Features that tell how an episode ended."""
    read: Callable[[int], Iterator[RawEpisode]]
    """Reads the first so many episodes."""
