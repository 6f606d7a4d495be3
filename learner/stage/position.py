"""This module puts into a checkpoint how far a stage had read the replay, and finds the way back there.

    reader.position() ─┬─ record ─► manifest.json, "replay"
                       └─ arrays ─► tensors, replay.*

It is taken between two updates, with the networks, so that the next batch is drawn from what it names. Fine-tuning
reads episodes once and notes their names instead (`EpisodeNames`).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from learner.rl.updater import under
from learner.settings import ResumeSettings
from learner.stage.checkpoint import Checkpoint
from protos.episode import Episode
from protos.errors import CorruptData, InputError, Unreachable
from protos.schema import Buffer, Schema
from protos.settings import from_json
from protos.status import StatusFile
from services.replay import Patience, Position, ReplayReader, ReplaySettings, read_episodes

log = logging.getLogger(__name__)
EPISODES_FORMAT = 2
_LOOK_AGAIN_S = 0.1
_OWNER = "replay"


def position_record(position: Position | None) -> dict[str, Any]:
    """What of a position goes to a checkpoint's manifest; nothing where nothing was read."""
    return {} if position is None else position.manifest()


def position_tensors(position: Position | None) -> dict[str, Tensor]:
    """What of a position goes to a checkpoint's tensors."""
    arrays = {} if position is None else position.arrays
    return {f"{_OWNER}.{name}": torch.from_numpy(array) for name, array in arrays.items()}


def position_in(content: Checkpoint) -> Position | None:
    """The position in a checkpoint. Raises CorruptData when it makes no sense."""
    if not content.replay:
        return None
    arrays = under(content.tensors, _OWNER)
    return Position.parse(content.replay, {name: tensor.numpy() for name, tensor in arrays.items()})


def trained(content: Checkpoint) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint without those of the position."""
    return {name: tensor for name, tensor in content.tensors.items() if not name.startswith(f"{_OWNER}.")}


def restore_position(reader: ReplayReader, settings: ResumeSettings, stop: Callable[[], bool]) -> None:
    """Lets a reader read again what it had at the checkpoint, and nothing newer; waits for shards that do not answer.

    Raises Unreachable when one stays away.
    """
    status = StatusFile()

    def waiting(text: str) -> None:
        status.write(doing="going on from the checkpoint", waiting_for=text)

    status.write(doing="going on from the checkpoint")
    reader.restore(Patience(timeout_s=settings.timeout_s, partial=settings.partial, stop=stop, waiting=waiting))


@dataclass(frozen=True, kw_only=True)
class EpisodeNames:
    """The episodes of the replay that a fine-tuning learns from, in their order."""

    episodes: tuple[tuple[Buffer, str, int], ...]
    """Buffer, name and steps of each."""
    format: int = EPISODES_FORMAT

    @classmethod
    def of(cls, found: Sequence[tuple[Buffer, Episode]]) -> "EpisodeNames":
        """Names episodes, each given with its buffer."""
        return cls(episodes=tuple((buffer, episode.name, episode.steps) for buffer, episode in found))

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> "EpisodeNames":
        """Reads the JSON of a checkpoint. Raises CorruptData for anything else, by its format where it is older."""
        if record.get("format") != EPISODES_FORMAT:
            raise CorruptData(
                f"the checkpoint names its episodes in format {record.get('format')}, this program reads format "
                f"{EPISODES_FORMAT}: go on with the version that wrote it, or begin anew without --resume"
            )
        try:
            return from_json(cls, record, where="episodes")
        except (InputError, TypeError, ValueError) as error:
            raise CorruptData(f"not the names of episodes: {error}") from error


def episodes_named(
    replay: ReplaySettings, schema: Schema, names: EpisodeNames, settings: ResumeSettings, stop: Callable[[], bool]
) -> list[Episode]:
    """Reads episodes again, in their order; one warning says how many the replay no longer has.

    Waits up to `settings.timeout_s` for a shard that does not answer, then goes on without it if `settings.partial`,
    or raises Unreachable.
    """
    status, deadline = StatusFile(), time.monotonic() + settings.timeout_s
    status.write(doing="going on from the checkpoint")
    while not stop():
        found: dict[tuple[Buffer, str, int], list[Episode]] = {}
        try:
            _collect(replay, schema, names, found, stop)
        except Unreachable as error:
            if time.monotonic() < deadline:
                status.write(doing="going on from the checkpoint", waiting_for=f"replay: {error}")
                time.sleep(_LOOK_AGAIN_S)
                continue
            if not settings.partial:
                raise Unreachable(
                    f"{error}; waited for timeout_s={settings.timeout_s:g}: start it, or set partial=true to go on "
                    "without what it has"
                ) from error
            log.warning("%s; going on without them, as partial=true", error)
        return _in_order(names, found)
    return []


def _collect(
    replay: ReplaySettings,
    schema: Schema,
    names: EpisodeNames,
    found: dict[tuple[Buffer, str, int], list[Episode]],
    stop: Callable[[], bool],
) -> None:
    wanted = set(names.episodes)
    for buffer in sorted({buffer for buffer, _, _ in wanted}):

        def named(episode: Episode, buffer: Buffer = buffer) -> bool:
            return (buffer, episode.name, episode.steps) in wanted

        with closing(read_episodes(replay, schema, (buffer,), where=named, name="sft")) as episodes:
            for episode in takewhile(lambda _: not stop(), episodes):
                found.setdefault((buffer, episode.name, episode.steps), []).append(episode)


def _in_order(names: EpisodeNames, found: Mapping[tuple[Buffer, str, int], Sequence[Episode]]) -> list[Episode]:
    """Parts of an episode that share a name come in the order in which they were written."""
    turns, episodes = Counter[tuple[Buffer, str, int]](), list[Episode]()
    for name in names.episodes:
        there = found.get(name, ())
        if there:
            episodes.append(there[min(turns[name], len(there) - 1)])
        turns[name] += 1
    if missing := len(names.episodes) - len(episodes):
        log.warning(
            "the replay no longer has %d of the %d episodes that the checkpoint counted on: going on without them; "
            "batches differ from those of a run that was not interrupted",
            missing,
            len(names.episodes),
        )
    return episodes
