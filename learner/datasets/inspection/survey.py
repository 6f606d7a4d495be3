"""This module inspects a dataset: it reads raw numbers, guesses what they mean, and then tries the reader itself.

    files ─► Raw ──────► numbers ─► columns ─► evidence ──┐
    settings, with what the evidence adds ─► the reader ──┴─► Report

What is skipped and how episodes end is the reader's own word: it reads the same episodes, with small images.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from learner.datasets.dataset import ACTION_NAMES, STATE_NAMES, UNKNOWN_SCALE, ActionScale
from learner.datasets.inspection.guesses import Side, Understood, mapping_kind, needed, understood
from learner.datasets.inspection.raw import Raw, RawEpisode
from learner.datasets.inspection.remarks import remarks
from learner.datasets.inspection.report import Column, Lengths, Pose, Rate, Report
from learner.datasets.opening import described, opened, rlds_folder
from learner.datasets.settings import DataSettings, ForeignMapping, LeRobotMapping, RldsMapping
from protos.episode import Episode
from protos.errors import InputError, TwinRLError
from protos.schema import F64, Schema
from protos.settings import to_json

SMALL = Schema(side_px=16, wrist_px=16)
_MOST_NUMBERS = 40_000_000
"""Limit of the numbers that are held, 320 MB."""
_OURS = (("twinrl/outcome",), ("episode_metadata/outcome",))


@dataclass(kw_only=True)
class Trial:
    """A trial is what the reader makes of the episodes."""

    outcomes: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    scale: ActionScale | None = None
    hz: float | None = None
    problem: str = ""


def inspect_dataset(path: Path, *, episodes: int = 100) -> Report:
    """Inspects the first `episodes` of a dataset folder, of a released pickle, or of what a JSON file describes.

    Reads only. Raises InputError where no dataset is recognised, CorruptData where its description is damaged.
    """
    if episodes < 1:
        raise InputError(f"episodes={episodes}: at least 1")
    settings = described(path)
    raw, mapping = _raw(settings)
    ours = raw is not None and raw.outcome_features[:1] in _OURS and mapping is None
    if raw is None:
        dataset = opened(settings, SMALL)
        raw, mapping, ours = _raw_of(dataset.format, dataset.name, len(dataset), dataset, dataset.hz), None, True
    held = list(_within(raw.read(episodes)))
    found = understood(raw, held, mapping)
    unusable = mapping is None and not ours and found.action.columns is None
    extra = {} if ours or unusable else needed(found, raw, mapping)
    with _quiet():
        trial = Trial() if unusable else _tried(settings, extra, mapping, episodes)
    return _report(path, raw, held, found, trial, settings=settings, mapping=mapping, extra=extra, ours=ours)


def inspect_episodes(path: Path, source: Iterable[Episode], scale: ActionScale, hz: float, *, episodes: int) -> Report:
    """Inspects episodes of a replay, whose actions are in [−1, 1] with a known scale."""
    taken = list(islice(source, episodes))
    raw = _raw_of("replay", path.name, len(taken), taken, hz)
    held = list(_within(raw.read(episodes)))
    trial = Trial(outcomes=Counter(each.outcome.value for each in taken), scale=scale)
    return _report(path, raw, held, understood(raw, held, None), trial, ours=True)


def _raw_of(kind: str, name: str, count: int, source: Iterable[Episode], hz: float | None) -> Raw:
    """Returns a raw dataset of episodes that a reader has made already."""

    def read(most: int) -> Iterator[RawEpisode]:
        for episode in islice(source, most):
            seen = episode.observation.proprio[:-1].astype(np.float64)
            numbers = {"observation.state": seen, "action": episode.action.astype(np.float64)}
            yield RawEpisode(place=episode.name, steps=episode.steps, numbers=numbers, instruction=episode.instruction)

    return Raw(
        format=kind,
        name=name,
        episodes=count,
        hz=hz,
        cameras=(),
        names={"observation.state": STATE_NAMES, "action": ACTION_NAMES},
        outcome_features=("what recorded them",),
        read=read,
    )


def _raw(settings: DataSettings) -> tuple[Raw | None, ForeignMapping | None]:
    """Returns the raw dataset and the mapping by which it is read; None where TwinRL's own marks say it."""
    if (settings.path / "meta" / "info.json").is_file():
        from learner.datasets.inspection.lerobot_tables import raw_lerobot

        return raw_lerobot(settings.path), settings.lerobot
    folder = rlds_folder(settings.path)
    if folder is None:
        return None, None
    from learner.datasets.inspection.rlds_records import raw_rlds

    raw = raw_rlds(folder, settings.rlds)
    return raw, None if raw.outcome_features[:1] == _OURS[1] else settings.rlds


def _within(episodes: Iterator[RawEpisode]) -> Iterator[RawEpisode]:
    """Yields episodes until their numbers take the memory that an inspection may have."""
    held = 0
    for episode in episodes:
        held += sum(each.size for each in episode.numbers.values())
        yield episode
        if held > _MOST_NUMBERS:
            return


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps readers from logging what the report tells anyway."""
    log = logging.getLogger("learner.datasets")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _tried(settings: DataSettings, extra: Mapping[str, Any], mapping: ForeignMapping | None, episodes: int) -> Trial:
    """Reads the episodes with the settings and what the evidence adds to them."""
    trial, dataset = Trial(), None
    try:
        dataset = opened(_with(settings, extra, mapping), SMALL)
        for episode in islice(dataset, episodes):
            trial.outcomes[episode.outcome.value] += 1
        trial.scale, trial.hz = dataset.action_scale, dataset.hz
    except TwinRLError as error:
        trial.problem = str(error)
    if dataset is not None:
        trial.skipped = [str(each) for each in dataset.skipped]
    return trial


def _with(settings: DataSettings, extra: Mapping[str, Any], mapping: ForeignMapping | None) -> DataSettings:
    if not extra:
        return settings
    if isinstance(mapping, RldsMapping):
        return replace(settings, rlds=replace(mapping, **extra))
    assert mapping is None or isinstance(mapping, LeRobotMapping)
    return replace(settings, lerobot=replace(mapping or LeRobotMapping(), **extra))


def _report(
    path: Path,
    raw: Raw,
    held: Sequence[RawEpisode],
    found: Understood,
    trial: Trial,
    *,
    ours: bool,
    settings: DataSettings | None = None,
    mapping: ForeignMapping | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Report:
    steps = [each.steps for each in held if not each.problem] or [0]
    report = Report(
        path=str(path),
        format=raw.format,
        name=raw.name,
        written_by_twinrl=ours,
        episodes=raw.episodes,
        looked_at=len(held),
        lengths=Lengths(total=sum(steps), shortest=min(steps), median=int(np.median(steps)), longest=max(steps)),
        cameras=raw.cameras,
        rate=_rate(raw, held, trial),
        state=_pose(found.state, found, "state"),
        action=_pose(found.action, found, "action"),
        motion=found.motion,
        outcomes=dict(trial.outcomes),
        outcomes_by=", ".join(raw.outcome_features) or "nothing in the data",
        skipped=tuple(trial.skipped) or tuple(f"{each.place}: {each.problem}" for each in held if each.problem),
        scale=None if trial.scale in (None, UNKNOWN_SCALE) else trial.scale,
        instructions=dict(Counter(each.instruction for each in held if not each.problem).most_common()),
        statistics=(*_statistics(found.state), *_statistics(found.action)),
        settings=None if settings is None or not extra else _file(settings, mapping, raw, extra),
        remarks=(),
    )
    return replace(report, remarks=tuple(remarks(report, mapping, trial.problem)))


def _file(settings: DataSettings, mapping: ForeignMapping | None, raw: Raw, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a settings file: what it says now, and what the evidence adds."""
    kind = mapping_kind(mapping, raw)
    made = replace(mapping or LeRobotMapping(), **extra)
    plain = to_json(type(made)())
    changed = {name: value for name, value in to_json(made).items() if value != plain[name]}
    return {"path": str(settings.path.absolute()), kind: changed}


def _rate(raw: Raw, held: Sequence[RawEpisode], trial: Trial) -> Rate:
    used = trial.hz or raw.hz
    periods = [np.diff(each.stamps) for each in held if each.stamps is not None and len(each.stamps) > 1]
    if not periods:
        return Rate(stated_hz=raw.hz, used_hz=used)
    every = np.concatenate(periods)
    every = every[np.isfinite(every)]
    usual = float(np.median(every)) if len(every) else 0.0
    return Rate(
        stated_hz=raw.hz,
        used_hz=used,
        stamped_hz=float(f"{1.0 / usual:.4g}") if usual > 0 else None,
        late_s=float(np.percentile(np.abs(every - usual), 99)) if len(every) else 0.0,
        longest_s=float(every.max(initial=0.0)),
        gaps=int((every > 1.5 * usual).sum()),
        back=int((every <= 0).sum()),
    )


def _pose(side: Side, found: Understood, what: str) -> Pose:
    if side.columns is None:
        return Pose(feature="", columns="", note=side.note)
    at = side.columns
    parts = [f"position {_span(at.position)}", f"rotation {_span(at.rotation)}" if at.rotation else "no rotation"]
    parts.append("no gripper" if at.gripper is None else f"gripper {at.gripper}")
    return Pose(
        feature=", ".join(at.features),
        columns=f"{', '.join(parts)} (by {at.known_by})",
        rotation=found.state_rotation if what == "state" else found.action_rotation,
        gripper=found.state_gripper if what == "state" else found.action_gripper,
    )


def _span(columns: Sequence[int]) -> str:
    """Returns "3–5" for columns in a row, else all of them."""
    row = list(range(columns[0], columns[0] + len(columns)))
    return f"{row[0]}–{row[-1]}" if list(columns) == row else ", ".join(map(str, columns))


def _statistics(side: Side) -> tuple[Column, ...]:
    if not side.rows:
        return ()
    rows: F64 = np.concatenate(side.rows)
    ends = np.percentile(rows, (1, 99), axis=0)
    columns = zip(side.names, rows.T, ends.T, strict=True)
    return tuple(
        Column(
            name=name,
            least=float(values.min()),
            p01=float(low),
            mean=float(values.mean()),
            p99=float(high),
            largest=float(values.max()),
        )
        for name, values, (low, high) in columns
    )
