"""This module reads what the stages learn from out of the replay: episodes with images, or transitions with readouts.

selected_episodes    demonstrations of SFT; a resumed stage reads those that its checkpoint names
transition_reader    the reader of RL's batches; it embeds episodes that have no readouts of the stage's backbone
take_lease           the right to lead the run, one learner at a time
seed_demonstrations  successful twin episodes, copied to the demonstrations of a stage on the arm
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar

import torch

from learner.rl import UpdateSettings
from learner.stage.settings import ResumeSettings, RlSettings, Selection, SftSettings
from policy.language import encode_instruction
from policy.model import Policy
from protos.episode import Episode
from protos.errors import CorruptData, InputError, Unreachable
from protos.schema import F32, Buffer, Outcome, Schema
from protos.settings import from_json, to_json
from protos.status import StatusFile
from services.replay import (
    Field,
    Lease,
    Position,
    ReaderSettings,
    ReplayReader,
    ReplaySettings,
    ReplayWriter,
    RestoreSettings,
    newest,
    read_episodes,
    totals,
)
from services.weights import lead

log = logging.getLogger(__name__)
Stop = Callable[[], bool]
Name = tuple[Buffer, str, int]
"""Buffer, name and steps of an episode."""
T = TypeVar("T")
_GOING_ON = "going on from the checkpoint"
_POLL_S = 0.1
_EMBED_ROWS = 64
_EPISODE_BYTES = 2 << 30
"""Most bytes of images of one selection; the oldest episodes beyond it are left out."""
_TWIN_EPISODE_BYTES = 256 << 20
_FLUSH_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class EpisodeNames:
    """Names the episodes of the replay that a fine-tuning learns from, in their order."""

    episodes: tuple[Name, ...]

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> "EpisodeNames":
        """Reads the JSON of a checkpoint. Raises CorruptData for anything else."""
        try:
            return from_json(cls, record, where="episodes")
        except (InputError, TypeError, ValueError) as error:
            raise CorruptData(f"not the names of episodes: {error}") from error


def selected_episodes(
    settings: SftSettings, stop: Stop, resume: EpisodeNames | None = None
) -> tuple[list[Episode], EpisodeNames | None]:
    """Returns the selected episodes that are in the replay now, and their names for a checkpoint.

    Waits for the replay, and for the first of them. With the names of an earlier call they are those of that call.
    """
    replay = settings.replay
    assert replay is not None, "no replay to read from"
    if resume is not None:
        return episodes_named(replay, settings.schema, resume, settings.resume, stop), resume
    wait_for_totals(replay, settings.data_timeout_s, stop)

    def read() -> list[tuple[Buffer, Episode]]:
        found = [(each.buffer, e) for each in settings.select for e in _select(replay, settings, each, stop)]
        if not found and not stop():
            raise Unreachable(
                f"the replay has no episode for {to_json(settings)['select']} within "
                f"data_timeout_s={settings.data_timeout_s:g}; write demonstrations first"
            )
        return found

    found = _retry(read, settings.data_timeout_s, stop) or []
    names = tuple((buffer, episode.name, episode.steps) for buffer, episode in found)
    return [episode for _, episode in found], EpisodeNames(episodes=names) if names else None


def _select(replay: ReplaySettings, settings: SftSettings, selection: Selection, stop: Stop) -> list[Episode]:
    """Returns the episodes that a selection names, oldest first; the newest ones where they are too many bytes."""

    def fits(episode: Episode) -> bool:
        return (
            (selection.source is None or episode.source is selection.source)
            and (selection.region is None or episode.configuration.region == selection.region)
            and (selection.outcome is None or episode.outcome is selection.outcome)
        )

    with closing(read_episodes(replay, settings.schema, (selection.buffer,), where=fits, name="sft")) as episodes:
        return newest(takewhile(lambda _: not stop(), episodes), _EPISODE_BYTES)[: selection.limit]


def episodes_named(
    replay: ReplaySettings, schema: Schema, names: EpisodeNames, settings: ResumeSettings, stop: Stop
) -> list[Episode]:
    """Reads episodes again, in their order; one warning says how many the replay no longer has.

    Waits up to `settings.timeout_s` for a shard that does not answer, then goes on without it if `settings.partial`,
    or raises Unreachable.
    """
    found: dict[Name, list[Episode]] = {}
    StatusFile().write(doing=_GOING_ON)

    def read() -> None:
        found.clear()
        _collect(replay, schema, names, found, stop)

    try:
        _retry(read, settings.timeout_s, stop, doing=_GOING_ON)
    except Unreachable as error:
        if not settings.partial:
            raise Unreachable(f"{error}: start it, or set partial=true to go on without what it has") from error
        log.warning("%s; going on without them, as partial=true", error)
    return [] if stop() else _in_order(names, found)


def _collect(
    replay: ReplaySettings,
    schema: Schema,
    names: EpisodeNames,
    found: dict[Name, list[Episode]],
    stop: Stop,
) -> None:
    wanted = set(names.episodes)
    for buffer in sorted({buffer for buffer, _, _ in wanted}):

        def named(episode: Episode, buffer: Buffer = buffer) -> bool:
            return (buffer, episode.name, episode.steps) in wanted

        with closing(read_episodes(replay, schema, (buffer,), where=named, name="sft")) as episodes:
            for episode in takewhile(lambda _: not stop(), episodes):
                found.setdefault((buffer, episode.name, episode.steps), []).append(episode)


def _in_order(names: EpisodeNames, found: Mapping[Name, Sequence[Episode]]) -> list[Episode]:
    """Puts episodes in the order of `names`; parts that share a name come in the order in which they were written."""
    turns, episodes = Counter[Name](), list[Episode]()
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


def take_lease(lease: Lease, settings: RlSettings, stop: Stop) -> bool:
    """Takes the run's lease and tells the weights service; waits for a replay that is away. False when told to stop.

    Raises InputError when another learner leads.
    """
    if not _retry(lambda: lease.take(stop), settings.replay_timeout_s, stop):
        return False
    if settings.weights is not None:
        lead(settings.weights, lease, credentials=settings.credentials)
    return True


def transition_reader(
    policy: Policy, settings: RlSettings, resume: Position | None = None, *, lease: Callable[[], int] = lambda: 0
) -> ReplayReader:
    """Makes a reader of all buffers of the batch, with the readouts or images that updates need.

    Readouts of another backbone are computed again. `resume` is the position of an earlier reader of the stage, `lease`
    gives the number of the learner's lease.
    """
    batch = settings.batch
    reading = ReaderSettings(
        capacity={buffer: batch.capacity[buffer] for buffer in batch.buffers},
        gamma=batch.gamma,
        n_step=batch.n_step,
        sampling=batch.strategies(),
        fields=batch_fields(settings.update),
        window=policy.settings.octo.window if _needs_windows(policy, settings) else 1,
        image_memory_bytes=batch.image_memory_bytes,
        image_folder=batch.image_folder,
        backbone_id=policy.sha256("backbone"),
    )
    return ReplayReader(
        settings.replay,
        settings.schema,
        reading,
        embed=lambda episode: embed_episode(policy, episode),
        name=settings.stage,
        resume=resume,
        lease=lease,
    )


def batch_fields(settings: UpdateSettings) -> tuple[Field, ...]:
    """Returns what batches hold of an observation, beside its numbers."""
    readouts: tuple[Field, ...] = ("embedding",) if settings.needs_readouts else ()
    images: tuple[Field, ...] = ("side", "wrist") if settings.needs_images else ()
    return readouts + images


def _needs_windows(policy: Policy, settings: RlSettings) -> bool:
    """Tells whether updates need windows; readouts and the plain encoder of proprioception do not."""
    return settings.update.needs_images or policy.settings.proprio_encoder == "mlp"


def restore_position(reader: ReplayReader, settings: ResumeSettings, stop: Stop) -> None:
    """Lets a reader read what it had at the checkpoint, and nothing newer; waits for shards that do not answer.

    Raises Unreachable when one stays away.
    """
    status = StatusFile()

    def waiting(text: str) -> None:
        status.write(doing=_GOING_ON, waiting_for=text)

    status.write(doing=_GOING_ON)
    reader.restore(RestoreSettings(timeout_s=settings.timeout_s, partial=settings.partial, stop=stop, waiting=waiting))


def wait_until_caught_up(reader: ReplayReader, stop: Stop) -> None:
    """Waits until a reader that was started has everything that is in the replay already."""
    while not reader.caught_up() and not stop():
        time.sleep(_POLL_S)


@torch.inference_mode()
def embed_episode(policy: Policy, episode: Episode) -> F32:
    """Computes readouts (T + 1, D) of an episode's observations, each in the window that an actor saw it in."""
    device, window = policy.device, policy.settings.octo.window
    language = torch.from_numpy(encode_instruction(episode.instruction, policy.settings))[None].to(device)
    side, wrist = (torch.from_numpy(camera) for camera in (episode.observation.side, episode.observation.wrist))
    steps = torch.arange(len(side))[:, None] - torch.arange(window - 1, -1, -1)  # (T + 1, window), negative: padding
    readouts = []
    for rows in steps.split(_EMBED_ROWS):
        seen = rows.clamp_min(0)
        mask = (rows >= 0).to(device) if bool((rows < 0).any()) else None
        readouts.append(policy.embed(side[seen].to(device), wrist[seen].to(device), language, mask).cpu())
    return torch.cat(readouts).numpy()


def check_cameras(policy: Policy, schema: Schema) -> None:
    """Raises InputError when the schema's images are not what the policy takes."""
    octo = policy.settings.octo
    if (octo.side_px, octo.wrist_px) != (schema.side_px, schema.wrist_px):
        raise InputError(
            f"the policy takes images of {octo.side_px} and {octo.wrist_px} pixels, the schema says "
            f"{schema.side_px} and {schema.wrist_px}"
        )


def instruction(settings: RlSettings, stop: Stop) -> str:
    """Returns the instruction of the first demonstration, for which it waits.

    Raises Unreachable when none comes within `replay_timeout_s`.
    """
    buffers = tuple(settings.batch.demo)

    def read() -> str:
        found = read_episodes(settings.replay, settings.schema, buffers, name=f"{settings.stage}-instruction")
        with closing(found):
            for episode in found:
                return episode.instruction
        raise Unreachable(
            f"no demonstration in {', '.join(buffers)} within replay_timeout_s={settings.replay_timeout_s:g} that says "
            "what the policy is told; write demonstrations, or set `instruction`"
        )

    return _retry(read, settings.replay_timeout_s, stop) or ""


def seed_demonstrations(settings: RlSettings, stop: Stop) -> int:
    """Copies the newest `seed_twin_episodes` successes of the buffer "twin" to "demo"; returns how many.

    The copies carry the stage's name as their writer, so a second call for the same stage adds nothing.
    """
    replay = settings.replay
    successes = read_episodes(
        replay, settings.schema, ("twin",), where=lambda episode: episode.outcome is Outcome.SUCCESS, name="seed"
    )
    with closing(successes):
        kept = newest(takewhile(lambda _: not stop(), successes), _TWIN_EPISODE_BYTES)
    chosen = kept[-settings.seed_twin_episodes :]
    with ReplayWriter(replay, settings.schema, actor="seed", incarnation=settings.stage, spool=None) as writer:
        for episode in chosen:
            for segment in episode.segments(name=f"{episode.name}/seed"):
                writer.add(segment, ["demo"])
        writer.flush(_FLUSH_TIMEOUT_S)
    log.info("copied %d successful twin episodes to the demonstrations", len(chosen))
    return len(chosen)


def wait_for_totals(replay: ReplaySettings, timeout_s: float, stop: Stop) -> Mapping[Buffer, int]:
    """Counts the transitions ever committed to each buffer, over all shards; one that is away is waited for.

    Empty when told to stop first. Raises Unreachable when a shard does not answer within `timeout_s`.
    """
    return _retry(lambda: totals(replay), timeout_s, stop) or {}


def _retry(attempt: Callable[[], T], timeout_s: float, stop: Stop, *, doing: str = "starting") -> T | None:
    """Calls `attempt` until it does not raise Unreachable; None when told to stop first.

    Raises its Unreachable when there is no answer within `timeout_s`.
    """
    deadline, status, told = time.monotonic() + timeout_s, StatusFile(), ""
    while not stop():
        try:
            return attempt()
        except Unreachable as error:
            if time.monotonic() > deadline:
                raise Unreachable(f"{error}; given up after {timeout_s:g} s") from error
            status.write(doing=doing, waiting_for=f"replay: {error}")
            if str(error) != told:
                told = str(error)
                log.warning("%s; waiting for it up to %g s", told, timeout_s)
        time.sleep(_POLL_S)
    return None
