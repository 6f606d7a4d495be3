"""This module says when weights are too old to act with.

An actor is too stale when a newer version than it can hold was announced long ago (many versions behind), and when the
stream of versions has been broken for so long that it cannot know how stale it is. It then holds, says why, and goes on
when it is fresh again.
"""

from dataclasses import dataclass
from typing import Protocol

from protos.errors import InputError


class Followed(Protocol):
    """A subscriber that knows its own staleness (`services.weights.WeightSubscriber`)."""

    def staleness(self) -> tuple[int, float]:
        """Returns the versions behind the newest announced, and the age of the version in use [s]."""
        ...

    def silent_s(self) -> float:
        """Returns the seconds since the stream of versions broke, 0 while it is open."""
        ...


@dataclass(frozen=True, kw_only=True)
class StalenessBound:
    """The bound beyond which no episode begins."""

    versions: int = 50
    """Most versions behind the newest announced."""
    silent_s: float = 60.0
    """Longest time without a connection to the weights service."""

    def __post_init__(self) -> None:
        if self.versions < 0:
            raise InputError(f"staleness.versions={self.versions}: 0 or more")
        if not self.silent_s > 0:
            raise InputError(f"staleness.silent_s={self.silent_s}: more than 0 seconds")

    def reason_to_hold(self, subscriber: Followed) -> str:
        """Returns why its weights are too stale, in one line; an empty string when they are not."""
        behind, _ = subscriber.staleness()
        if behind > self.versions:
            return f"weights: {behind} versions behind (bound {self.versions})"
        silent_s = subscriber.silent_s()
        if silent_s > self.silent_s:
            return f"weights: no connection for {silent_s:.0f} s (bound {self.silent_s:g} s)"
        return ""
