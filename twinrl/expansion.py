"""Expansion for people: where the demonstrations come from, where the twin's go, and what is told of it.

run, replay or dataset ─► demonstrations ─► actors.sim.expansion ─► dataset folder | buffer "demo" of a replay
                                                  └─► coverage: table, coverage.json, coverage.html
"""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from learner.datasets.episode import ActionScale
from learner.datasets.export import Format, make_writer
from learner.datasets.lerobot.layout import Pictures
from protos.episode import Episode, Segment
from protos.errors import InputError, Unreachable
from protos.schema import Schema
from services.replay import ReplaySettings, ReplayWriter
from twin.tasks import Task

FLUSH_S = 60.0
Deliver = Callable[[list[Segment]], None]


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A dataset folder, or a replay."""

    out: Path | None
    replay: ReplaySettings | None
    format: Format = "lerobot"
    pictures: Pictures = "video"

    def open(self, task: Task, schema: Schema, stack: ExitStack) -> Deliver:
        """What takes accepted episodes, as long as `stack` is open."""
        if (self.out is None) == (self.replay is None):
            raise InputError("name one destination: --out FOLDER for a dataset, or --to URL for a replay")
        if self.replay is not None:
            return _to_replay(self.replay, schema, stack)
        assert self.out is not None
        metres, radians = task.action_scale
        scale = ActionScale(metres=metres, radians=radians)
        writer, there = make_writer(self.format, self.out, schema, action_scale=scale, pictures=self.pictures)
        stack.enter_context(closing(writer))

        def write(segments: list[Segment]) -> None:
            episode = Episode.of(segments)
            if episode.name in there:
                raise InputError(
                    f"{self.out}: episode {episode.name} is there already; choose another --seed or folder"
                )
            writer.add(episode)

        return write


def _to_replay(replay: ReplaySettings, schema: Schema, stack: ExitStack) -> Deliver:
    writer = stack.enter_context(closing(ReplayWriter(replay, schema, actor="twin-expand", spool=None)))

    def write(segments: list[Segment]) -> None:
        for segment in segments:
            writer.add(segment, ("demo",))

    def sent() -> None:
        if unsent := writer.flush(FLUSH_S):
            raise Unreachable(f"{unsent} segments of twin demonstrations did not reach replay within {FLUSH_S:g} s")

    stack.callback(sent)
    return write
