"""Where the arm's segments go in the replay.

train         every segment to "real", and to "human" too when an operator acted in it
demonstrate   to "demo", once the episode is known to have succeeded
"""

from collections.abc import Sequence

from protos.episode import Segment
from protos.schema import Buffer, Outcome
from services.replay import ReplayWriter


class RealSink:
    """Everything the arm does while it trains."""

    def __init__(self, writer: ReplayWriter) -> None:
        self._writer = writer

    def add(self, segment: Segment) -> None:
        buffers: Sequence[Buffer] = ("real", "human") if segment.human.any() else ("real",)
        self._writer.add(segment, buffers)


class DemonstrationSink:
    """Successful episodes only; the segments of an episode wait until its end. `wanted` more are refused."""

    def __init__(self, writer: ReplayWriter, wanted: int) -> None:
        self._writer, self._wanted = writer, wanted
        self._waiting: list[Segment] = []
        self.episodes = 0

    def add(self, segment: Segment) -> None:
        self._waiting = [one for one in self._waiting if one.episode == segment.episode] + [segment]
        if segment.outcome is Outcome.SUCCESS and self.episodes < self._wanted:
            for one in self._waiting:
                self._writer.add(one, ("demo",))
            self.episodes += 1
