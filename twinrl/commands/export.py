"""This module is `twinrl export`: a run, a replay or a dataset becomes a LeRobotDataset v3.0 or an RLDS dataset.

    twinrl export runs/demo --out demo-lerobot --buffer demo --outcomes success
    twinrl export --replay rediss://learner.lab:6379 --prefix twinrl-demo --out demo-rlds --format rlds
    twinrl export demo-rlds --out demo-lerobot --images png

docs/data.md lists what the formats keep and lose.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import tyro

from learner.datasets import (
    ALL,
    Choice,
    ExpectedArrays,
    Format,
    ImageFormat,
    Tally,
    chosen,
    copy,
    counted,
    make_writer,
)
from protos.episode import Episode
from protos.errors import InputError
from protos.folders import contents, owned
from protos.problems import doing
from protos.schema import Source
from twinrl.export_origin import Opened, Origin, open_origin
from twinrl.run.progress import Progress

INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the episodes of a run, a replay or a dataset as LeRobotDataset v3.0 or RLDS.

    What is written survives a crash; the same command again goes on where it stopped.
    """

    origin: Annotated[Origin, tyro.conf.arg(name="")] = field(default_factory=Origin)
    out: Path
    """Folder to write."""
    format: Format = "lerobot"
    images: ImageFormat = "video"
    """Storage of images in a LeRobotDataset: "video" is small and plays everywhere, "png" is exact. RLDS has PNG."""
    region: tuple[str, ...] = ()
    """Episodes that start in these regions only."""
    outcomes: str = ALL
    """Episodes with these outcomes only, as "success,unknown"."""
    world: Literal["twin", "real"] | None = None
    """Episodes of the twin or of the arm only."""
    limit: int | None = None
    """Most episodes to write."""
    expected: Path | None = None
    """File for the episodes' arrays as they were read, for scripts/check_lerobot.py and scripts/check_rlds.py."""

    @property
    def choice(self) -> Choice:
        return Choice(
            regions=self.region,
            outcomes=self.outcomes,
            source=Source(self.world) if self.world else None,
            limit=self.limit,
        )


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Export, prog="twinrl export", args=arguments, config=(tyro.conf.UseAppendAction,))
    if command.expected is not None and contents(command.out):
        raise InputError(f"--expected: {command.out} is there already; the file holds the episodes of one whole export")
    if command.origin.source is not None and command.origin.source.resolve() == command.out.resolve():
        raise InputError(f"--out {command.out}: the episodes come from there; name a new folder")
    written, others = Tally(), Counter[str]()
    with ExitStack() as stack:
        stack.enter_context(owned(command.out, "twinrl export"))
        source = open_origin(command.origin, stack)
        try:
            with doing("exporting", command.out):
                passed = _write(command, source, stack, written, others)
        except KeyboardInterrupt:
            sys.stderr.write(f"Stopped after {written}; {command.out} is whole, and the same command goes on.\n")
            return INTERRUPTED
    sys.stdout.write(_summary(command, source, written, passed, counted(others)))
    return 0


def _write(command: Export, source: Opened, stack: ExitStack, written: Tally, others: Counter[str]) -> int:
    """Writes the chosen episodes and counts them, and others by outcome; returns how many were there already."""
    seen = Tally()
    with Progress(["export"]) as progress, progress.stage("export", total=source.total, unit=source.unit) as stage:

        def tell(episode: Episode) -> None:
            seen.add(episode)
            stage.update(getattr(seen, source.unit), written=written.episodes)

        episodes = chosen(source.episodes, command.choice, tell, others)
        first = next(episodes, None)
        if first is None:
            raise InputError(f"{source.name}: no episode is chosen; looked at {seen}")
        writer = make_writer(
            command.format,
            command.out,
            source.schema,
            action_scale=source.scale,
            images=command.images,
            hz=source.hz,
        )
        stack.enter_context(closing(writer))
        if command.expected is not None:
            writer = stack.enter_context(closing(ExpectedArrays(command.expected, writer)))
        return copy(chain([first], episodes), writer, written)


def _summary(command: Export, source: Opened, written: Tally, passed: int, others: str) -> str:
    kind = f"LeRobotDataset v3.0, {command.images}" if command.format == "lerobot" else "RLDS"
    lines = [f"{command.out}: {kind}, {written}"]
    if written.human:
        lines.append(f"  a person chose {written.human} of the steps")
    if passed:
        lines.append(f"  {passed} more episodes were there already")
    if others:
        lines.append(f"  left out for their outcome: {others}")
    if source.skipped:
        lines.append(f"  {sum(each.count for each in source.skipped)} episodes could not be read: {source.skipped[0]}")
    scale, schema = source.scale, source.schema
    lines.append(
        f"  images {schema.side_px} px and {schema.wrist_px} px; {source.hz:g} steps per second; an action of 1 is "
        f"{scale.metres:g} m, {scale.radians:g} rad per step"
    )
    return "\n".join(lines) + "\n"
