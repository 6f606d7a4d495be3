"""This module is `twinrl expand`: a few demonstrations become many in the twin, spread over regions A and B.

    twinrl expand runs/demo --limit 5 --accept A 60 --accept B 30 --out twin-demos
    twinrl expand demos-lerobot --scene scene --task erase_whiteboard --to redis://learner.lab:6379

    run, replay or dataset ─► demonstrations ─► actors.sim.expansion ─┬─► dataset folder | buffer "demo" of a replay
                                                                      └─► coverage: table, coverage.json, .html

docs/expansion.md says how.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from actors.sim import ExpansionPlan, TwinWorld
from actors.sinks import Deliver, demonstration_writer
from learner.datasets import IMITATED, ActionScale, Choice, Format, ImageFormat, chosen, counted, make_writer
from protos.episode import Episode, Segment
from protos.errors import InputError
from protos.files import write_durably
from protos.folders import owned
from protos.schema import CONTROL_HZ, Schema, Source
from services.monitor import Addresses
from services.replay import ReplaySettings
from twin import tasks
from twin.expand import Coverage, ExpansionSettings
from twin.tasks import Task
from twinrl.export_origin import Opened, Origin, open_origin
from twinrl.run.progress import Progress
from twinrl.run.stored_replay import scene_of, twin_of

PAPER = {"A": 60, "B": 30}
"""Episodes per region that the paper adds to 30 demonstrations of a person."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A destination is a dataset folder, or a replay."""

    out: Path | None
    replay: ReplaySettings | None
    format: Format
    images: ImageFormat

    def open(self, task: Task, schema: Schema, stack: ExitStack) -> Deliver:
        """Returns a function that takes accepted episodes until `stack` closes."""
        if (self.out is None) == (self.replay is None):
            raise InputError("name one destination: --out FOLDER for a dataset, or --to URL for a replay")
        if self.replay is not None:
            return stack.enter_context(demonstration_writer(self.replay, schema, actor="twin-expand"))
        assert self.out is not None
        stack.enter_context(owned(self.out, "twinrl expand"))
        metres, radians = task.action_scale
        scale = ActionScale(metres=metres, radians=radians)
        writer = make_writer(self.format, self.out, schema, action_scale=scale, images=self.images)
        stack.enter_context(closing(writer))

        def write(segments: list[Segment]) -> None:
            episode = Episode.of(segments)
            if episode.name in writer.names:
                raise InputError(
                    f"{self.out}: episode {episode.name} is there already; choose another --seed or folder"
                )
            writer.add(episode)

        return write


@dataclass(frozen=True, kw_only=True)
class Expand:
    """Make twin demonstrations of recorded ones: moved with the objects, around obstacles, and tried in the twin."""

    origin: Annotated[Origin, tyro.conf.arg(name="")] = field(default_factory=Origin)
    scene: Path | None = None
    """Scene folder of the twin; a run's own by default."""
    task: str | None = None
    """Task of the twin; a run's own, or pick_and_place, by default."""
    domain: str | None = None
    """Dynamics and appearance of the twin, by name; a run's own, or "twin", by default."""
    region: tuple[str, ...] = ()
    """Expand demonstrations from these regions only."""
    world: Literal["twin", "real"] | None = None
    """Expand demonstrations of the twin or of the arm only."""
    outcomes: str = IMITATED
    """Expand demonstrations with these outcomes only; all takes every one."""
    limit: int | None = None
    """Expand at most so many demonstrations."""
    accept: dict[str, int] = field(default_factory=dict)
    """Region and number of twin demonstrations to make in it, once per region; 60 in A and 30 in B by default."""
    disturbance: float = 0.3
    """Motion noise that is corrected on the way, so that recoveries are shown."""
    twins: int = 16
    """Twins that run side by side."""
    how: ExpansionSettings = field(default_factory=ExpansionSettings)
    seed: int = 0
    out: Path | None = None
    """Dataset folder to write."""
    format: Format = "lerobot"
    images: ImageFormat = "video"
    """Storage of images in a LeRobotDataset: "video" is small, "png" is exact."""
    to: tuple[str, ...] = field(default=(), repr=False)
    """Replay whose buffer "demo" they go to instead of a folder, once per shard."""
    to_prefix: str = "twinrl"
    """First part of that replay's keys."""
    report: Path | None = None
    """Folder for coverage.json and coverage.html."""


def main(arguments: Sequence[str]) -> int:
    command = tyro.cli(Expand, prog="twinrl expand", args=arguments, config=(tyro.conf.UseAppendAction,))
    plan = ExpansionPlan(
        episodes=command.accept or PAPER, disturbance=command.disturbance, twins=command.twins, how=command.how
    )
    began = time.process_time()
    with ExitStack() as stack:
        source = open_origin(command.origin, stack, hz=CONTROL_HZ)
        task, domain = twin_of(command.origin.source, command.task, command.domain)
        world = TwinWorld(
            scene=_scene(command),
            task=task,
            domain=domain,
            schema=source.schema,
            seed=command.seed,
        )
        coverage, used = _expand(command, plan, source, world, stack)
    _report(command, coverage, task)
    sys.stdout.write(_summary(coverage, used, time.process_time() - began) + "\n")
    from actors.sim.expansion import check_complete

    check_complete(coverage, plan)
    return 0


def _expand(
    command: Expand, plan: ExpansionPlan, source: Opened, world: TwinWorld, stack: ExitStack
) -> tuple[Coverage, int]:
    """Runs the expansion; returns its coverage and the number of demonstrations that were expanded."""
    from actors.sim.expansion import expand_in_twin, usable

    task = tasks.get(world.task)
    choice = Choice(
        regions=command.region,
        outcomes=command.outcomes,
        source=Source(command.world) if command.world else None,
        limit=command.limit,
    )
    others = Counter[str]()
    demonstrations = usable(task, chosen(source.episodes, choice, lambda _: None, others), plan)
    if others:
        sys.stdout.write(f"demonstrations left out for their outcome: {counted(others)}\n")
    addresses = Addresses(replay=command.to, prefix=command.to_prefix)
    replay = addresses.settings().replay if command.to else None
    destination = Destination(out=command.out, replay=replay, format=command.format, images=command.images)
    deliver = destination.open(task, source.schema, stack)
    with Progress(["expand"]) as progress:
        wanted = sum(plan.episodes.values())
        with progress.stage("expand", total=wanted, unit="episodes") as stage:
            count = 0

            def told(segments: list[Segment]) -> None:
                nonlocal count
                deliver(segments)
                count += 1
                stage.update(count)

            coverage = expand_in_twin(world, demonstrations, plan, told)
    return coverage, len(demonstrations)


def _scene(command: Expand) -> Path:
    folder = command.scene
    if folder is None and command.origin.source is not None:
        folder = scene_of(command.origin.source)
    if folder is None or not folder.is_dir():
        raise InputError("--scene: name the scene folder of the twin; `twinrl scan` makes one")
    return folder


def _report(command: Expand, coverage: Coverage, task: str) -> None:
    if command.report is None:
        return
    from twinrl.report.coverage import coverage_page

    write_durably(command.report / "coverage.json", [json.dumps(coverage.to_json(), indent=1).encode()])
    write_durably(command.report / "coverage.html", [coverage_page(coverage, task).encode()])


def _summary(coverage: Coverage, demonstrations: int, cpu_s: float) -> str:
    told = coverage.to_json()
    return (
        f"{told['accepted']} twin demonstrations from {demonstrations}, {told['accepted']} of {told['tried']} tries "
        f"accepted ({100 * coverage.rate:.0f} %), {cpu_s:.0f} CPU-s\n{coverage.table()}"
    )
