"""This module holds the sinks: where the segments of an episode loop go.

loop ─► NoSink                          nowhere (evaluation)
     ─► TwinSink, ArmSink               the replay, at once (training)
     ─► EpisodeFilter ─► Deliver        whole episodes that are accepted (demonstrations)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from protos.episode import Segment
from protos.errors import Unreachable
from protos.schema import Buffer, Outcome, Schema
from services.replay import ReplaySettings, ReplayWriter

Deliver = Callable[[list[Segment]], None]
"""Takes the segments of one whole episode."""
FLUSH_S = 60.0


class NoSink:
    """Drops every segment: a policy must not learn from its evaluation."""

    def add(self, segment: Segment) -> None:
        """Drops the segment."""


class TwinSink:
    """Writes every segment to "twin", at the pace that the learner allows."""

    def __init__(self, writer: ReplayWriter, stop: Callable[[], bool]) -> None:
        self._writer, self._stop = writer, stop

    def add(self, segment: Segment) -> None:
        """Writes the segment; blocks until the learner allows more, or `stop()` is true."""
        self._writer.add(segment, ("twin",))
        self._writer.wait_for_allowance("twin", self._stop)


class ArmSink:
    """Writes every segment to "real", and to "human" too when an operator acted in it."""

    def __init__(self, writer: ReplayWriter) -> None:
        self._writer = writer

    def add(self, segment: Segment) -> None:
        """Writes the segment."""
        buffers: Sequence[Buffer] = ("real", "human") if segment.human.any() else ("real",)
        self._writer.add(segment, buffers)


def succeeded(segments: Sequence[Segment]) -> bool:
    """Returns True for the segments of a successful episode."""
    return segments[-1].outcome is Outcome.SUCCESS


class EpisodeFilter:
    """Keeps the segments of each episode until it ends, and delivers the episode whole if it is accepted.

    `accept` is asked once per ended episode. The segments of one that never ends are dropped with the filter.
    """

    def __init__(self, deliver: Deliver, accept: Callable[[list[Segment]], bool] = succeeded) -> None:
        self._deliver, self._accept = deliver, accept
        self._open: dict[str, list[Segment]] = {}
        self.episodes = 0
        """Number of episodes delivered."""

    def add(self, segment: Segment) -> None:
        """Keeps the segment; delivers or drops its episode when it is the last one."""
        self._open.setdefault(segment.episode, []).append(segment)
        if segment.outcome is not Outcome.RUNNING:
            segments = self._open.pop(segment.episode)
            if self._accept(segments):
                self.episodes += 1
                self._deliver(segments)


@contextmanager
def demonstration_writer(replay: ReplaySettings, schema: Schema, *, actor: str) -> Iterator[Deliver]:
    """Yields a function that writes whole episodes to the buffer "demo".

    Everything delivered is flushed at the end, also after an error. Raises Unreachable when that takes a minute.
    """
    writer = ReplayWriter(replay, schema, actor=actor, spool=None)

    def deliver(segments: list[Segment]) -> None:
        for segment in segments:
            writer.add(segment, ("demo",))

    with closing(writer):
        try:
            yield deliver
        finally:
            unsent = writer.flush(FLUSH_S)
        if unsent:
            raise Unreachable(f"{unsent} segments of demonstrations did not reach the replay within {FLUSH_S:g} s")
