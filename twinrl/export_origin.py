"""This module opens the source of `twinrl export` and `twinrl expand`: a run, a replay or a dataset."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

import tyro

from learner.datasets import ActionScale, Skipped, open_dataset, stored_schema
from protos.episode import Episode
from protos.errors import InputError
from protos.schema import BUFFERS, CONTROL_HZ, Buffer, Schema
from services.monitor import Addresses
from services.net import Credentials
from services.replay import ReplaySettings, find_schema, masked, read_episodes, totals
from twin import tasks
from twinrl.run.stored_replay import is_run, replay_of, run_settings

PAPER = Schema(side_px=256, wrist_px=128)
"""Image sizes of foreign datasets, unless given."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """An origin is a folder, or the addresses of a replay."""

    source: tyro.conf.Positional[Path | None] = None
    """A run folder, as runs/demo; or a dataset: a folder of RLDS, LeRobotDataset v3 or the paper's pickles, or a JSON
    file that describes one."""
    buffer: tuple[Buffer, ...] = ()
    """Buffers of the replay; all where none is named."""
    replay: tuple[str, ...] = field(default=(), repr=False)
    """Replay to read instead of a folder: unix://…, redis://… or rediss://…, once per shard."""
    prefix: str = "twinrl"
    """First part of the replay's keys; a run's is twinrl-<name>."""
    password_file: Path | None = None
    """File with the password of the user in the urls."""
    credentials: Credentials = field(default_factory=Credentials)
    """Certificates for rediss://."""
    side_px: int | None = None
    """Image size of a dataset's side camera; by default as stored, of other people's datasets 256."""
    wrist_px: int | None = None
    """Image size of the wrist camera; of other people's datasets 128."""
    metres: float | None = None
    """Displacement at an action of 1; by default as the task or the dataset says."""
    radians: float | None = None
    """Rotation at an action of 1."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An opened origin yields its episodes and says what they are."""

    name: str
    schema: Schema
    scale: ActionScale
    hz: float
    """Steps per second of the episodes."""
    skipped: Sequence[Skipped]
    """Episodes that were passed over so far, each with the reason."""
    episodes: Iterator[Episode]
    total: int
    """Number of `unit`s at most."""
    unit: Literal["steps", "episodes"]


def open_origin(origin: Origin, stack: ExitStack, *, hz: float | None = None) -> Opened:
    """Opens an origin until `stack` closes; a dataset is resampled to `hz`, None reads it as it was recorded.

    Raises InputError, Unreachable.
    """
    if (origin.source is None) == (not origin.replay):
        raise InputError("name one source: a run or dataset folder, as in runs/demo, or --replay")
    if origin.replay:
        addresses = Addresses(
            replay=origin.replay,
            prefix=origin.prefix,
            password_file=origin.password_file,
            credentials=origin.credentials,
        )
        replay = addresses.settings().replay
        assert replay is not None
        return _open_replay(origin, replay, find_schema(replay), name=f"replay at {masked(replay.urls[0])}")
    assert origin.source is not None
    if is_run(origin.source):
        schema = run_settings(origin.source).schema
        return _open_replay(origin, stack.enter_context(replay_of(origin.source)), schema, name=str(origin.source))
    return _open_dataset(origin, origin.source, hz)


def _open_replay(origin: Origin, replay: ReplaySettings, schema: Schema, *, name: str) -> Opened:
    if origin.side_px is not None or origin.wrist_px is not None:
        raise InputError(
            f"--side-px, --wrist-px: the images of a replay ({schema.side_px}, {schema.wrist_px}) stay as they are"
        )
    held = totals(replay)
    buffers = tuple(each for each in BUFFERS if held[each] and each in (origin.buffer or BUFFERS))
    if not buffers:
        there = ", ".join(f"{each} {count}" for each, count in held.items() if count) or "nothing"
        raise InputError(f"{name}: nothing in {', '.join(origin.buffer) or 'any buffer'}; transitions there: {there}")
    episodes = read_episodes(replay, schema, buffers, name="export")
    first = next(episodes, None)
    if first is None:
        raise InputError(f"{name}: no whole episode in {', '.join(buffers)}")
    scale = _scale_of(origin, first.task)
    return Opened(
        name=name,
        schema=schema,
        scale=scale,
        hz=CONTROL_HZ,
        skipped=(),
        episodes=(_checked(origin, each, scale) for each in chain([first], episodes)),
        total=sum(held[buffer] for buffer in buffers),
        unit="steps",
    )


def _open_dataset(origin: Origin, folder: Path, hz: float | None) -> Opened:
    if origin.buffer:
        raise InputError(f"--buffer {origin.buffer[0]}: a dataset has no buffers")
    sizes = stored_schema(folder) or PAPER
    schema = Schema(side_px=origin.side_px or sizes.side_px, wrist_px=origin.wrist_px or sizes.wrist_px)
    dataset = open_dataset(folder, schema, hz=hz)
    rate = hz or dataset.hz
    if rate is None:
        raise InputError(
            f"{folder}: the data do not say at which rate they were recorded; give their rate (hz) in a settings file "
            "(docs/data.md)"
        )
    stored = dataset.action_scale
    scale = ActionScale(
        metres=stored.metres if origin.metres is None else origin.metres,
        radians=stored.radians if origin.radians is None else origin.radians,
    )
    if scale != stored:
        dataset = open_dataset(folder, schema, action_scale=scale, hz=hz)
    return Opened(
        name=str(folder),
        schema=schema,
        scale=scale,
        hz=rate,
        skipped=dataset.skipped,
        episodes=iter(dataset),
        total=len(dataset),
        unit="episodes",
    )


def _scale_of(origin: Origin, task: str) -> ActionScale:
    """Returns the action scale: what is given, and what the task says of the rest."""
    known = tasks.get(task).action_scale if task in tasks.names() else (None, None)
    metres, radians = (
        stored if given is None else given for given, stored in zip((origin.metres, origin.radians), known, strict=True)
    )
    if metres is None or radians is None:
        raise InputError(f"task {task!r} is not known here: say what an action of 1 is by --metres and --radians")
    return ActionScale(metres=metres, radians=radians)


def _checked(origin: Origin, episode: Episode, scale: ActionScale) -> Episode:
    """Returns the episode. Raises InputError for a task with another action scale than the episodes before."""
    if _scale_of(origin, episode.task) != scale:
        raise InputError(f"task {episode.task!r} has another action scale than {scale}: export each task by itself")
    return episode
